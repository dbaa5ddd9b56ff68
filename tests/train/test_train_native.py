"""Training at native resolution: the miniature learns, with glyph boxes, in packed rows, and goes on to the bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from dist_support import make_data
from safetensors.torch import load_file
from transformers import Siglip2VisionConfig, Siglip2VisionModel

from parsit import hf
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.data.plan import Work
from parsit.train import find_newest, train
from parsit.train.batches import micro_batches_of
from parsit.train.fit import fit
from parsit.train.prepare import Prepared, prepare, set_free
from parsit.train.trial import check_step, largest, make_batch
from parsit.train.world import World
from parsit.types import UsageError
from parts_support import save_decoder, save_tower


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


@pytest.fixture(scope="module")
def parts(tmp_path_factory, mini_native):
    """A NaFlex tower and a Qwen3, in folders, and data."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(3)
    Siglip2VisionModel(Siglip2VisionConfig(**mini_native.vision_config)).save_pretrained(folder / "tower")
    save_tower(folder / "of-tiles")
    save_decoder(folder / "qwen3", "qwen3", hf.shipped_tokenizer("tiny"), head_dim=16)
    make_data(folder)
    return folder


NATIVE = {"image_aspect_ratio": "native", "max_image_tokens": 50, "mm_patch_merge_type": "spatial_unpad"}


def composed(parts, tmp_path, preset, tower, **flags):
    flags |= {"vision_tower": parts / tower, "model_name_or_path": parts / "qwen3", "data": parts / "d.jsonl"}
    return prepare(TrainConfig.from_preset(preset, output_dir=tmp_path, **flags), World(), dry=True)


@pytest.mark.parametrize(("preset", "flags"), [("qwen3-1.7b-native", {}), ("smol/finetune", NATIVE)])
def test_a_tower_of_native_resolution_joins_any_decoder(parts, tmp_path, preset, flags):
    run = composed(parts, tmp_path, preset, "tower", **flags)
    assert run.model.layout == run.processor.image_processor.layout
    assert (run.model.layout.max_image_tokens, run.model.layout.patch_size) == (flags.get("max_image_tokens", 2304), 8)
    assert run.drawn == {"projector", "image_newline"}
    assert run.training.unit == "patches"


@pytest.mark.parametrize(
    ("preset", "tower", "flags", "message"),
    [
        (
            "smol/finetune",
            "tower",
            {},
            "--image_aspect_ratio is anyres, but a tower of type siglip2_vision_model takes",
        ),
        ("smol/finetune", "tower", NATIVE | {"max_image_tokens": None}, "native needs --max_image_tokens"),
        (
            "qwen3-1.7b-native",
            "of-tiles",
            {},
            "--image_aspect_ratio is native, but a tower of type siglip_vision_model",
        ),
        ("qwen3-1.7b-native", "tower", {"image_grid_pinpoints": "(1x1),...,(2x2)"}, "--image_grid_pinpoints says into"),
        ("qwen3-1.7b-native", "tower", {"max_image_tokens": 1}, "--max_image_tokens is 1: the smallest image has 2"),
    ],
)
def test_what_does_not_fit_the_tower_is_refused_by_flag(parts, tmp_path, preset, tower, flags, message):
    with pytest.raises(UsageError, match=message):
        composed(parts, tmp_path, preset, tower, **flags)


def test_adapters_in_both_towers_are_saved_and_merged(mini_native, processor, parts, tmp_path):
    base = tmp_path / "base"
    hf.new_model(mini_native, processor, 0).save_pretrained(base)
    processor.save_pretrained(base)
    flags = {"lora_targets_vision": "all-linear", "lora_dropout": 0.0, "max_steps": 2, "dataloader_num_workers": 0}
    flags |= {"model_name_or_path": base, "data": parts / "d.jsonl", "output_dir": tmp_path / "run"}
    done = fit(TrainConfig.from_preset("tiny/lora", **flags))
    merged = hf.load_model(done.checkpoint)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    before, after = hf.load_model(base), dict(merged.named_parameters())
    changed = {name for name, parameter in before.named_parameters() if not torch.equal(parameter, after[name])}
    adapted = {name for name in after if name.startswith("vision_tower.") and "proj.weight" in name}
    assert adapted <= changed
    assert "vision_tower.embeddings.patch_embedding.weight" in changed
    assert "vision_tower.embeddings.position_embedding.weight" not in changed
