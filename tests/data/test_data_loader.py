"""The loader: batches depend on the plan alone, and what cannot be read is left out and named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from parsit import hf
from parsit.data.dataset import in_memory
from parsit.data.loader import Loader
from parsit.data.plan import Packed, Padded, Plan
from parsit.types import ImageRef, InputError, Sample, Turn


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


def plan_of(data, packed, per_step=1):
    if packed:
        return Plan(Packed(data.num_tokens, data.num_tiles, 300, 0, 4), per_step)
    return Plan(Padded(data.num_tokens, data.num_tiles, 3, 4), per_step)


def flat(loader):
    return [loaded.batch for step in loader for loaded in step]


def equal(a, b):
    names = ("input_ids", "labels", "pixel_values", "attention_mask", "position_ids", "cu_seq_lens")
    return all(
        (getattr(a, n) is None and getattr(b, n) is None) or torch.equal(getattr(a, n), getattr(b, n)) for n in names
    )


@pytest.mark.parametrize("packed", [False, True])
def test_batches_are_bit_equal_with_any_number_of_workers_and_from_any_step(processor, picture, packed):
    data = in_memory(samples(picture), processor, 512)
    plan = plan_of(data, packed)
    alone = flat(Loader(data, processor, plan, 6, packed=packed))
    with_workers = flat(Loader(data, processor, plan, 6, packed=packed, num_workers=2))
    resumed = Loader(data, processor, plan, 6, packed=packed, num_workers=1)
    resumed.load_state_dict({"step": 4})
    assert all(equal(a, b) for a, b in zip(alone, with_workers, strict=True))
    assert all(equal(a, b) for a, b in zip(alone[4:], flat(resumed), strict=True))
    assert not equal(alone[0], alone[1])


def test_the_state_is_the_step_that_comes_next(processor, picture):
    data = in_memory(samples(picture), processor, 512)
    loader = Loader(data, processor, plan_of(data, packed=True), 5, packed=True)
    steps = iter(loader)
    next(steps)
    next(steps)
    state = loader.state_dict()
    assert state == {"step": 2}
    rest = [loaded.batch for step in steps for loaded in step]
    again = Loader(data, processor, plan_of(data, packed=True), 5, packed=True)
    again.load_state_dict(state)
    assert all(equal(a, b) for a, b in zip(rest, flat(again), strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_read_what_one_process_reads(processor, picture, packed, world_size):
    data = in_memory(samples(picture), processor, 512)
    plan = plan_of(data, packed, per_step=4)
    whole_steps = Loader(data, processor, plan, 4, packed=packed)
    alone = [sorted(row.tolist() for loaded in step for row in loaded.batch.labels) for step in whole_steps]
    loaders = [
        iter(Loader(data, processor, plan, 4, packed=packed, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for whole in alone:
        parts = [next(loader) for loader in loaders]
        assert len({len(part) for part in parts}) == 1
        batches = [loaded.batch for part in parts for loaded in part]
        labels = [row.tolist() for batch in batches if batch.num_samples for row in batch.labels]
        assert sorted(labels) == whole


@pytest.mark.parametrize("packed", [False, True])
def test_a_rank_without_a_micro_batch_still_gets_one_to_compute(processor, picture, packed):
    data = in_memory(samples(picture, 3), processor, 512)
    plan = Plan(Padded(data.num_tokens, data.num_tiles, 3), 2)
    (only,) = next(iter(Loader(data, processor, plan, 1, packed=packed, rank=1, world_size=2)))
    assert only.batch.num_samples == 0
    assert only.batch.input_ids.shape == (1, 1)
    assert only.batch.num_supervised == 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_an_image_that_breaks_in_mid_run_is_left_out_and_the_plan_does_not_shift(
    processor, picture, tmp_path, workers, packed
):
    data = in_memory(samples(picture), processor, 512)
    plan = plan_of(data, packed)
    steps = plan.steps_per_epoch
    before = list(Loader(data, processor, plan, steps, packed=packed))
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    after = list(Loader(data, processor, plan, steps, packed=packed, num_workers=workers))
    hit = next(n for n in range(steps) if 3 in plan.step(n)[0])
    for number, ((old,), (new,)) in enumerate(zip(before, after, strict=True)):
        if number != hit:
            assert equal(old.batch, new.batch)
            assert not new.left_out
        else:
            assert new.batch.num_samples == old.batch.num_samples - 1
            (finding,) = new.left_out
            assert (finding.code, finding.place, finding.sample_id) == ("image-damaged", "d.jsonl:4", "3")
            assert "3.png" in finding.detail


def test_a_sample_that_changed_since_it_was_indexed_is_left_out(processor, picture, tmp_path):
    data = in_memory(samples(picture, 4), processor, 512)
    picture(200, 30, "wider", "2.png")
    plan = plan_of(data, packed=True)
    steps = list(Loader(data, processor, plan, plan.steps_per_epoch, packed=True))
    findings = [finding for step in steps for loaded in step for finding in loaded.left_out]
    assert [(f.code, f.place) for f in findings] == [("changed-since-indexed", "d.jsonl:3")]


def test_the_lengths_are_what_the_processor_will_give(processor, picture):
    made = samples(picture, 4)
    data = in_memory(made, processor, 512)
    for number, sample in enumerate(made):
        features = processor.encode(sample.turns)
        assert data.num_tokens[number] == len(features.input_ids)
        assert data.num_tiles[number] == len(features.pixel_values)


def test_in_memory_a_sample_that_is_too_long_or_has_no_image_stops(processor, picture, tmp_path):
    made = samples(picture, 2)
    with pytest.raises(InputError, match=r"d\.jsonl:1: \d+ tokens, more than --model_max_length 10"):
        in_memory(made, processor, 10)
    (tmp_path / "1.png").unlink()
    with pytest.raises(InputError, match=r"d\.jsonl:2: .*1\.png"):
        in_memory(made, processor, 512)


def test_workers_are_seeded_from_torch(processor, picture):
    import random

    from torch.utils.data import DataLoader

    from parsit.data.loader import begin_worker

    def draws(seed):
        loader = DataLoader(
            range(2), num_workers=1, worker_init_fn=begin_worker, generator=torch.Generator().manual_seed(seed),
            collate_fn=lambda _: (random.random(), float(np.random.rand()), float(torch.rand(()))),
        )  # fmt: skip
        return list(loader)

    assert draws(1) == draws(1)
    assert all(a != b for a, b in zip(draws(1)[0], draws(2)[0], strict=True))


# What hands batches over is asked for a file by a process that dies as it asks.
LOSES_ITS_PARENT = """
import os, sys
from multiprocessing import process, resource_sharer
from multiprocessing.connection import Client
from parsit.data import loader
sys.excepthook = loader._tell_but_a_lost_parent
address, _ = resource_sharer.DupFd(os.dup(1))._id
Client(address, authkey=process.current_process().authkey).close()
resource_sharer.stop(timeout=60)
"""


@pytest.mark.slow
def test_a_worker_says_nothing_of_a_training_process_that_dies_as_it_takes_a_batch():
    done = subprocess.run([sys.executable, "-c", LOSES_ITS_PARENT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
