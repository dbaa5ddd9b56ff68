"""The moving average: what it is, that training does not notice it, and that it goes on to the bit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train_loop import learnt, metrics

from parsit import hf
from parsit.config import TrainConfig
from parsit.files.manifest import require_sound_model, verify, write_manifest
from parsit.files.run_folder import find_model, model_name
from parsit.train.memory import BatchSize, Placement, estimate
from parsit.train.stages import read_stages
from parsit.types import InputError, UsageError

FLAGS = {"ema_decay": 0.9, "eval_steps": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("ema") / "whole"


@pytest.fixture
def averaged(run, whole):
    """A run of six steps with an average, and its weights after each step."""
    if not whole.exists():
        seen = []

        def look(run, _):
            seen.append({name: p.detach().clone() for name, p in run.model.named_parameters()})

        run(whole, on_step=look, **FLAGS)
        torch.save(seen, whole / "seen.pt")
    return whole


def average_in(checkpoint):
    return load_file(checkpoint / "ema" / "model.safetensors")


def test_the_average_is_that_of_the_weights_after_each_step(averaged):
    first, *later = torch.load(averaged / "seen.pt")
    expected = {name: weight.double() for name, weight in first.items()}
    for step, weights in enumerate(later, 1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * mean + (1 - decay) * weights[name] for name, mean in expected.items()}
    found, weights = average_in(averaged / "checkpoint-6"), load_file(averaged / "checkpoint-6" / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all((found[name] - expected[name]).abs().max() < 1e-6 for name in found)
    assert any(not torch.equal(found[name], weights[name]) for name in found)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"bf16": "true", "optim": "adamw_bf16"}], ids=["fp32", "halves"])
def test_training_does_not_notice_that_validation_sees_the_average(run, tmp_path, flags):
    run(tmp_path / "with", **FLAGS, **flags)
    run(tmp_path / "without", eval_steps=2, **flags)
    assert learnt(tmp_path / "with") == learnt(tmp_path / "without")
    one, two = (load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [[e["eval_loss"] for e in metrics(tmp_path / name) if "eval_loss" in e] for name in ("with", "without")]
    assert all(one != two for one, two in zip(*losses, strict=True))


def test_what_is_validated_is_the_model_that_is_saved_for_others(run, averaged, tmp_path):
    loss = metrics(averaged)[-1]["eval_loss"]
    model = find_model(averaged)
    assert model == averaged / json.loads((averaged / "best.json").read_text())["checkpoint"] / "ema"
    run(tmp_path, model=hf.load_model(averaged / "checkpoint-6" / "ema"), max_steps=1, learning_rate=1e-12)
    assert metrics(tmp_path)[0]["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert model_name(model) == f"{model.parent.name}/ema"
    assert hf.load_processor(model).chat_tokens


def cut(averaged, folder):
    """A copy of the run that ends at step 3."""
    shutil.copytree(averaged, folder)
    for step in (4, 6):
        shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
    return folder / "checkpoint-3"


def test_an_average_goes_on_to_the_bit_and_another_one_does_not(run, averaged, tmp_path):
    cut(averaged, tmp_path / "cut")
    run(tmp_path / "cut", **FLAGS)
    assert learnt(tmp_path / "cut") == learnt(averaged)
    name = "ema/model.safetensors"
    expected = (averaged / "checkpoint-6" / name).read_bytes()
    assert (tmp_path / "cut" / "checkpoint-6" / name).read_bytes() == expected
    evals = [[entry.get("eval_loss") for entry in metrics(folder)] for folder in (averaged, tmp_path / "cut")]
    assert evals[0] == evals[1]

    other = cut(averaged, tmp_path / "other")
    save_file(load_file(other / "model.safetensors"), other / name, {"format": "pt"})
    write_manifest(other)
    run(tmp_path / "other", **FLAGS)
    assert (tmp_path / "other" / "checkpoint-6" / name).read_bytes() != expected


def test_a_run_that_has_no_average_yet_begins_one_and_says_so(run, averaged, tmp_path, capsys):
    checkpoint = cut(averaged, tmp_path / "cut")
    shutil.rmtree(checkpoint / "ema")
    assert verify(checkpoint) == "ema/chat_template.jinja is missing", "it was there: that is damage"
    write_manifest(checkpoint)
    run(tmp_path / "cut", max_steps=4, **FLAGS)
    assert "checkpoint-3: has no moving average: it begins with the weights of step 3" in capsys.readouterr().err


def test_a_damaged_average_is_found_by_who_reads_it(averaged, tmp_path):
    checkpoint = cut(averaged, tmp_path / "cut")
    file = checkpoint / "ema" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    assert require_sound_model(checkpoint) == checkpoint, "the model beside it is as it was"
    with pytest.raises(InputError, match=r"ema: is not as it was saved: ema/model\.safetensors has another checksum"):
        require_sound_model(checkpoint / "ema")


def test_the_stages_of_an_average_are_its_checkpoints(averaged, tmp_path):
    checkpoint = cut(averaged, tmp_path / "cut")
    (tmp_path / "cut" / "stages.json").write_text(json.dumps({"stages": [{"architecture": "mini"}]}))
    assert read_stages(checkpoint / "ema") == read_stages(checkpoint) != []


def test_a_decay_that_is_none_and_deepspeeds_weights_are_refused():
    with pytest.raises(UsageError, match=r"--ema_decay is 1\.0: it must be 0 or more and less than 1"):
        TrainConfig(ema_decay=1.0)
    with pytest.raises(UsageError, match="--ema_decay and --deepspeed cannot be combined"):
        TrainConfig(ema_decay=0.9, deepspeed="zero2")


def test_the_memory_estimate_counts_four_bytes_a_trained_weight(mini, processor):
    model, size = hf.new_model(mini, processor, 0), BatchSize(64, 1, 16)
    found = [
        estimate(model, TrainConfig(ema_decay=decay), Placement(), size, bf16=False).optimizer for decay in (0.0, 0.9)
    ]
    assert found[1] - found[0] == 4 * sum(parameter.numel() for parameter in model.parameters())
