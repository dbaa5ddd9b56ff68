"""The engine with a real (miniature) model: batches, endings, loops, likelihoods; where a model is found."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from parsit import hf
from parsit.files.run_folder import find_model
from parsit.parse.engine import ModelEngine, load_engine
from parsit.parse.row_queue import repeats_itself
from parsit.types import ImageRef, InputError, Sample, Turn, UsageError


@pytest.fixture(scope="module")
def engine(mini):
    processor = hf.new_processor(mini)
    return ModelEngine(hf.new_model(mini, processor, seed=2), processor, batch_size=3)


def question(width, height, text="Read."):
    return (Turn("user", (ImageRef(Image.new("RGB", (width, height), "white")), text)),)


def test_a_batch_gives_what_each_prompt_gives_alone(engine):
    prompts = [question(40, 30), question(90, 20, "And this?"), (Turn("user", ("No image.",)),), question(10, 60)]
    together = engine.generate(prompts, max_new_tokens=6)
    alone = [engine.generate([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert [g.text for g in together] == [g.text for g in alone]


def test_an_answer_that_reaches_the_limit_is_flagged_truncated(engine):
    (generation,) = engine.generate([question(40, 30)], max_new_tokens=5)
    assert generation.flags == ("truncated",)
    assert generation.num_tokens == 5


@pytest.mark.parametrize(
    ("ids", "loops"),
    [
        ([5] * 40, True),
        ([1, 2, 3] * 12, True),
        ([9, 9, 9, *([1, 2, 3, 4] * 10)], True),
        ([1, 2, 3] * 8, False),  # 24 tokens: a short table rule is no loop
        (list(range(80)), False),
        ([*([1, 2] * 30), 7], False),  # it came out of it again
    ],
)
def test_a_loop_is_one_period_many_times_over_at_the_end(ids, loops):
    assert repeats_itself(ids) is loops


def test_a_model_that_repeats_itself_is_stopped_long_before_the_limit(engine):
    # An untrained model soon says one token for ever.
    (generation,) = engine.generate([question(40, 30)], max_new_tokens=400)
    assert generation.flags == ("looping",)
    assert generation.num_tokens < 300


def test_nats_are_the_negative_log_likelihood_of_the_answer(engine):
    sample = Sample("1", (*question(40, 30), Turn("assistant", ("Total 7",))))
    ((nats, count),) = engine.nats([sample])
    features = engine.processor.encode(sample.turns)
    with torch.no_grad():
        logits = engine.model(
            input_ids=features.input_ids[None], pixel_values=features.pixel_values, image_sizes=features.image_sizes
        ).logits[0]
    logs = logits.log_softmax(-1)
    positions = [t for t in range(len(features.labels)) if features.labels[t] != -100]
    expected = -sum(float(logs[t - 1, features.labels[t]]) for t in positions)
    assert count == len(positions)
    assert nats == pytest.approx(expected, rel=1e-5)


def test_a_saved_model_is_loaded_from_its_folder_or_from_a_runs(engine, tmp_path):
    for name in ("checkpoint-9", "checkpoint-10"):
        engine.model.save_pretrained(tmp_path / name)
        engine.processor.save_pretrained(tmp_path / name)
    assert find_model(tmp_path).name == "checkpoint-10"
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "checkpoint-9", "eval_loss": 1.0}))
    assert find_model(tmp_path).name == "checkpoint-9"
    loaded = load_engine(tmp_path, device="cpu")
    texts = [one.generate([question(40, 30)], max_new_tokens=4)[0].text for one in (loaded, engine)]
    assert texts[0] == texts[1]
    for device in ("cuda:7", "abacus"):
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used here"):
            load_engine(tmp_path, device=device)
    with pytest.raises(InputError, match="no model there"):
        find_model(tmp_path / "nothing")


def test_an_answer_ends_where_the_context_does(engine):
    context = engine.model.config.text_config.max_position_embeddings
    texts = (" a" * (context - 100 + more) for more in range(200))
    prompts = ((Turn("user", (ImageRef(Image.new("RGB", (40, 30), "white")), text)),) for text in texts)
    lengths = {len(engine.processor.encode(p, add_generation_prompt=True).input_ids): p for p in prompts}
    (generation,) = engine.generate([lengths[context - 3]], max_new_tokens=20)
    assert (generation.num_tokens, generation.flags) == (3, ("truncated",))
    with pytest.raises(InputError, match=rf"are {context:,} tokens, the model's context has {context:,}: show fewer"):
        engine.generate([lengths[context]], max_new_tokens=20)


def test_large_models_are_bf16_where_the_machine_is_made_for_it():
    from parsit.model.number_format import cpu_has_bf16
    from parsit.parse.engine import dtype_named

    cpu, large = torch.device("cpu"), torch.bfloat16 if cpu_has_bf16() else torch.float32
    assert dtype_named("auto", cpu, 4_000_000) == torch.float32
    assert dtype_named("auto", cpu, 600_000_000) == large
    assert dtype_named("auto", torch.device("cuda"), 4_000_000) == torch.bfloat16
    assert (dtype_named("float32", cpu, 10**9), dtype_named("bfloat16", cpu, 1)) == (torch.float32, torch.bfloat16)


def test_a_model_in_bf16_answers(engine, tmp_path):
    engine.model.save_pretrained(tmp_path)
    engine.processor.save_pretrained(tmp_path)
    loaded = load_engine(tmp_path, device="cpu", dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    (answer,) = loaded.generate([question(40, 30)], max_new_tokens=3)
    assert answer.num_tokens == 3
