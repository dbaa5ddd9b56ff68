"""vLLM's greedy answers are those of transformers' `generate`, token for token, in fp32 (`make test-vllm`)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from vllm_support import MOST_TOKENS, SCHEMA, answers, conversations, model_of

from parsit.cli import export
from parsit.model.adapter_files import BaseModel, save_adapters
from parsit.model.adapters import AdapterSettings, adapter_parameters, add_adapters
from parsit.parse.engine import load_engine

pytestmark = pytest.mark.vllm
HERE = __file__.rpartition("/")[0]


def answered_by_vllm(folder, out, processes=1):
    """In a process of its own; its report is shown if it fails."""
    words = [sys.executable, f"{HERE}/vllm_support.py", str(folder), str(out), str(processes)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=1100)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    return json.loads(out.read_text())


def adapted(folder):
    """`tiles` with adapters that say something else, merged by `parsit export`."""
    model, processor = model_of("tiles")
    base = folder / "base"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    add_adapters(model, AdapterSettings(lora_r=4, lora_targets_vision="all-linear"), seed=1)
    with torch.no_grad():
        for tower in (model.get_decoder(), model.vision_tower):
            for name, parameter in adapter_parameters(tower).items():
                if "lora_B" in name:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    save_adapters(model, folder / "adapters", BaseModel.of(base))
    processor.save_pretrained(folder / "adapters")
    assert export.main([str(folder / "adapters"), "--out", str(folder / "merged")]) == 0
    return folder / "merged"


@pytest.fixture(scope="module", params=["tiles", "native", "adapters"])
def model_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "adapters":
        return adapted(folder)
    model, processor = model_of(request.param)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def greedy_ids(engine):
    """transformers' own `generate`, one conversation at a time, up to the end of the turn."""
    end, found = engine.processor.chat_tokens.im_end, []
    for turns in conversations():
        features = engine.processor.encode(turns, add_generation_prompt=True)
        images = {} if features.pixels is None else {
            "pixel_values": features.pixel_values, "image_sizes": features.image_sizes}  # fmt: skip
        ids = engine.model.generate(features.input_ids[None], **images, max_new_tokens=MOST_TOKENS)
        new = ids[0, len(features.input_ids) :].tolist()
        found.append(new[: new.index(end)] if end in new else new)
    return found


def test_answers_are_those_of_generate(model_folder, tmp_path, measured):
    engine = load_engine(model_folder, device="cpu", dtype="float32", batch_size=4)
    ours, theirs = answers(engine), answered_by_vllm(model_folder, tmp_path / "out.json")
    engine.close()
    assert theirs["ids"] == ours["ids"] == greedy_ids(engine)
    assert len({tuple(ids) for ids in theirs["ids"]}) >= 15, "the model does not tell its images apart"
    for name in ("prompts", "texts", "stopped"):
        assert theirs[name] == json.loads(json.dumps(ours[name])), name
    assert theirs["flags"] == [list(flags) for flags in ours["flags"]]
    differences = [abs(a - b) for one, other in zip(ours["logprobs"], theirs["logprobs"], strict=True)
                   for a, b in zip(one, other, strict=True)]  # fmt: skip
    measured(f"{len(theirs['ids'])} answers, log-probabilities within {max(differences):.1e}")
    assert max(differences) < 1e-4
    assert theirs["drawn"][0] == theirs["drawn"][1], "the same seed draws the same answer"
    assert theirs["schema"] == json.loads(json.dumps(ours["schema"]))
    for text, flags in theirs["schema"]:
        assert flags == [], "an answer of two words ends"
        assert json.loads(text).keys() == SCHEMA["properties"].keys()


def test_two_tensor_parallel_processes_answer_alike(tmp_path):
    model, processor = model_of("tiles")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    one = answers(load_engine(tmp_path / "model", device="cpu", dtype="float32"))
    two = answered_by_vllm(tmp_path / "model", tmp_path / "out.json", processes=2)
    assert two["ids"] == one["ids"]
    assert two["prompts"] == one["prompts"]
