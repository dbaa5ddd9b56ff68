"""Plan and loader: every sample once, a position is a number, workers change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parsit import hf
from parsit.data import Plan, build_index, loader
from parsit.types import ImageRef, InputError, Sample, Turn

LENGTHS = np.random.default_rng(0).integers(10, 400, 1003)


def test_each_epoch_has_every_sample_once_in_another_order():
    plan = Plan(LENGTHS, batch_size=8, batches_per_step=3, seed=1)
    epochs = [
        np.concatenate(list(plan.batches(e * plan.steps_per_epoch, (e + 1) * plan.steps_per_epoch))) for e in (0, 1)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(LENGTHS)))
    assert not np.array_equal(*epochs)


def test_the_plan_is_a_function_of_its_arguments_alone():
    one, same, other = (Plan(LENGTHS, 8, 1, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one.batches(0, 50), same.batches(0, 50), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one.batches(0, 50), other.batches(0, 50), strict=True))


def test_a_step_far_ahead_is_found_without_those_before_it():
    plan = Plan(LENGTHS, 8, 2, seed=1)
    walked = list(plan.batches(0, 200))
    fresh = Plan(LENGTHS, 8, 2, seed=1)
    position = sum(len(plan.step(s)) for s in range(150))
    assert all(np.array_equal(a, b) for a, b in zip(fresh.step(150), walked[position : position + 2], strict=True))


def test_batches_hold_samples_of_like_length():
    plan = Plan(LENGTHS, 8, 1, seed=1)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in plan.batches(0, plan.steps_per_epoch))
    chance = sum(LENGTHS[i : i + 8].max() * len(LENGTHS[i : i + 8]) for i in range(0, len(LENGTHS), 8))
    assert LENGTHS.sum() / padded > 0.95
    assert LENGTHS.sum() / chance < 0.65  # what it is without grouping


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


def samples(picture, count=12):
    made = []
    for i in range(count):
        image = ImageRef(picture(20 + 5 * i, 30, str(i), f"{i}.png"))
        turns = (Turn("user", (image, "Read.")), Turn("assistant", (f"number {i}",)))
        made.append(Sample(str(i), turns, f"d.jsonl:{i + 1}"))
    return made


def test_batches_are_bit_equal_with_any_number_of_workers_and_from_any_step(processor, picture):
    data = samples(picture)
    index = build_index(data, processor, 512)
    plan = Plan(index.num_tokens, 3, 1, seed=4)
    alone = list(loader(data, processor, plan, 0, 6))
    with_workers = list(loader(data, processor, plan, 0, 6, num_workers=2))
    resumed = list(loader(data, processor, plan, 4, 6, num_workers=1))
    for a, b in zip(alone, with_workers, strict=True):
        assert torch.equal(a.input_ids, b.input_ids)
        assert torch.equal(a.pixel_values, b.pixel_values)
    for a, b in zip(alone[4:], resumed, strict=True):
        assert torch.equal(a.labels, b.labels)


def test_the_index_counts_what_the_processor_will_give(processor, picture):
    data = samples(picture, 4)
    index = build_index(data, processor, 512)
    for number, sample in enumerate(data):
        features = processor.encode(sample.turns)
        assert index.num_tokens[number] == len(features.input_ids)
        assert index.num_tiles[number] == len(features.pixel_values)


def test_a_sample_that_is_too_long_or_has_no_image_stops_before_the_run(processor, picture, tmp_path):
    data = samples(picture, 2)
    with pytest.raises(InputError, match=r"d\.jsonl:1: \d+ tokens, more than --model_max_length 10"):
        build_index(data, processor, 10)
    (tmp_path / "1.png").unlink()
    with pytest.raises(InputError, match=r"d\.jsonl:2: .*1\.png"):
        build_index(data, processor, 512)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_in_mid_run_is_named_and_not_replaced(processor, picture, tmp_path, workers):
    data = samples(picture, 6)
    index = build_index(data, processor, 512)
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    plan = Plan(index.num_tokens, 2, 1, seed=0)
    with pytest.raises(InputError, match=r"d\.jsonl:4: .*3\.png") as caught:
        list(loader(data, processor, plan, 0, 3, num_workers=workers))
    assert "\n" not in str(caught.value)
