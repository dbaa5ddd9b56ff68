"""Training at native resolution: the miniature learns, with glyph boxes, in packed rows, and goes on to the bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from parsit import hf
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.data.plan import Work
from parsit.train import find_newest, train
from parsit.train.batches import micro_batches_of
from parsit.train.prepare import Prepared, set_free
from parsit.train.trial import check_step, largest, make_batch
from parsit.train.world import World


@pytest.fixture(scope="module")
def processor(mini_native):
    return hf.new_processor(mini_native)


@pytest.fixture
def prepared(mini_native, processor, samples):
    """A run of the miniature; keyword arguments are flags."""

    def make(output_dir, **flags):
        fixed = {
            "bf16": "false",
            "dataloader_num_workers": 0,
            "eval_steps": 0,
            "packing": True,
            "model_max_length": 256,
        }
        fixed |= {"per_device_train_batch_size": 1, "learning_rate": 3e-3, "glyph_loss_weight": 0.5, "save_steps": 3}
        config = TrainConfig(output_dir=str(output_dir), **fixed | flags)
        output_dir.mkdir(exist_ok=True, parents=True)
        checkpoint = find_newest(output_dir, warn=print)
        model = hf.load_model(checkpoint) if checkpoint else hf.new_model(mini_native, processor, 0)
        data = in_memory(samples, processor, 256)
        return Prepared(config, World(), model, processor, data, data, set_free(model, config), checkpoint)

    return make


def losses(folder):
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(entry["loss"], entry["glyph_loss"], entry["grad_norm"]) for entry in entries]


@pytest.mark.slow
def test_it_learns_what_is_read_and_where_glyphs_stand(prepared, tmp_path):
    train(prepared(tmp_path, max_steps=24, save_steps=100, per_device_train_batch_size=2, learning_rate=1e-2))
    first, last = losses(tmp_path)[:4], losses(tmp_path)[-4:]
    for which in (0, 1):
        assert sum(entry[which] for entry in last) < 0.5 * sum(entry[which] for entry in first)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(prepared, tmp_path):
    whole = train(prepared(tmp_path / "whole", max_steps=6))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = train(prepared(tmp_path / "cut", max_steps=6))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    one, two = (load_file(result.checkpoint / "model.safetensors") for result in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_on_the_largest_row_is_sound(prepared, tmp_path, checkpointing):
    run = prepared(tmp_path, gradient_checkpointing=checkpointing, mm_tunable_parts="mm_vision_tower,mm_mlp_adapter")
    batches = micro_batches_of(run.config, run.training, run.model)
    chosen = largest(batches, 0)
    batch = make_batch(run.config, run.training, run.processor, batches, chosen)
    check, trial = check_step(run.config, run.model, batch, batches.work(chosen))
    assert check.ok, check
    assert trial.without_gradient == ()


def test_rows_are_balanced_by_the_attention_of_their_images(prepared, tmp_path):
    run = prepared(tmp_path)
    batches = micro_batches_of(run.config, run.training, run.model)
    assert run.training.describe().endswith(f"{run.training.num_tiles.sum():,} patches")
    work = Work(0, 0, per_tile=2, per_tile_squared=3, max_tiles_per_image=10)
    assert work.of(run.training.num_tokens * 0, run.training.num_tiles * 0 + 4).tolist() == [4 * (2 + 3 * 4)] * 14
    assert work.of(run.training.num_tokens * 0, run.training.num_tiles * 0 + 25)[0] == 25 * (2 + 3 * 10)
    number = int(run.training.num_tiles.argmax())
    of_text = replace(work, per_tile=0, per_tile_squared=0)
    assert batches.costs[number] > of_text.of(run.training.num_tokens, run.training.num_tiles)[number]
