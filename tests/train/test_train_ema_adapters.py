"""Means of a run with adapters: the moving one, and that of its last checkpoints; what is merged is that very mean.

Means and merged matrices are computed here in other words: the moving average as a weighted sum of the saved steps, the
matrices from the files with torch alone, in double precision.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from dist_support import make_data, make_start, metrics
from safetensors.torch import load_file

from parsit import hf
from parsit.cli import export
from parsit.config import TrainConfig
from parsit.files.manifest import require_sound_model, verify
from parsit.files.run_folder import find_model, list_checkpoints
from parsit.train import train
from parsit.train.checks import checkpoint_bytes
from parsit.train.fit import run
from parsit.train.loop import Run
from parsit.train.prepare import prepare
from parsit.train.readings import Readings
from parsit.train.world import World

STEPS, DECAY, RANK, ALPHA = 4, 0.25, 4, 8
TOWERS = {"": "language_model", "vision_tower/": "vision_tower"}
PREFIX = "base_model.model."
KINDS = {
    "halves": {"bf16": "true", "optim": "adamw_bf16"},
    "lora": {},
    "dora": {"use_dora": True},
    "qlora": {"bits": 4},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    """Data, a model of width 64, which 4-bit weights need, and beside it a run of each kind when it is asked for."""
    folder = tmp_path_factory.mktemp("means")
    make_data(folder)
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    make_start(folder, replace(mini, text_config=mini.text_config | wide))
    return folder


def config(folder: Path, output_dir: Path, **flags) -> TrainConfig:
    common = {"bf16": "false", "dataloader_num_workers": 0, "per_device_train_batch_size": 7, "learning_rate": 3e-2}
    common |= {"lora_enable": True, "lora_r": RANK, "lora_alpha": ALPHA, "lora_targets_vision": "q_proj,fc1"}
    common |= {"data": [str(folder / "d.jsonl")], "eval_data": [str(folder / "d.jsonl")], "eval_steps": 2}
    common |= {"ema_decay": DECAY, "max_steps": STEPS, "save_steps": 1, "save_total_limit": 0}
    return TrainConfig(**common | {"model_name_or_path": str(folder / "start"), "output_dir": str(output_dir), **flags})


def trained(folder: Path, kind: str) -> Path:
    """A run's folder; `first.pt` in it has what is trained as it was before the first step, by its names in files."""
    out = folder / kind
    if not out.exists():
        first = {}

        def look(prepared):
            for name, parameter in prepared.model.named_parameters():
                if parameter.requires_grad:
                    first[in_file(name)] = parameter.detach().double()

        run(config(folder, out, lora_dropout=0.1, **KINDS[kind]), World(), on_prepared=look)
        torch.save(first, out / "first.pt")
    return out


def in_file(name: str) -> str:
    """`file: name` of a parameter in a folder of adapters."""
    if ".lora_" not in name:
        return f"trained_parts.safetensors: {name}"
    place = "vision_tower/" if name.startswith("vision_tower.") else ""
    name = name.removeprefix(f"{TOWERS[place]}.").replace(".default.weight", ".weight")
    return f"{place}adapter_model.safetensors: {PREFIX}{name}".replace("magnitude_vector.weight", "magnitude_vector")


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All that a folder of adapters holds, in double precision."""
    names = ["trained_parts.safetensors", *(f"{place}adapter_model.safetensors" for place in TOWERS)]
    return {f"{name}: {key}": t.double() for name in names for key, t in load_file(checkpoint / name).items()}


def moving_average(out: Path) -> dict[str, torch.Tensor]:
    """The average after all steps, as a sum of what was saved of each, weighted by the shares that stay of it."""
    stay = [min(DECAY, (1 + step) / (10 + step)) for step in range(1, STEPS + 1)]
    shares = [prod(stay)] + [(1 - stay[step]) * prod(stay[step + 1 :]) for step in range(STEPS)]
    assert sum(shares) == pytest.approx(1)
    steps = [torch.load(out / "first.pt"), *(tensors(out / f"checkpoint-{step}") for step in range(1, STEPS + 1))]
    return {name: sum(share * one[name] for share, one in zip(shares, steps, strict=True)) for name in steps[0]}


def merged(folder: Path, kind: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The base's weights with adapters merged by the formulas of their papers, and the fully trained parts."""
    weights = {name: tensor.double() for name, tensor in load_file(folder / "start" / "model.safetensors").items()}
    if kind == "qlora":
        layers = [n for n, w in weights.items() if n.startswith("language_model.model.layers.") and w.ndim == 2]
        weights |= {name: through_four_bits(weights[name]) for name in layers}
    for file, tower in TOWERS.items():
        for name in [name for name in state if name.startswith(f"{file}adapter_model") and "lora_A" in name]:
            layer = f"{tower}.{name.split(PREFIX)[1].removesuffix('.lora_A.weight')}.weight"
            weights[layer] = weights[layer] + ALPHA / RANK * state[name.replace("lora_A", "lora_B")] @ state[name]
            if kind == "dora":
                lengths = state[name.replace("lora_A.weight", "lora_magnitude_vector")]
                weights[layer] *= (lengths / weights[layer].pow(2).sum(1).sqrt())[:, None]
    own = "trained_parts.safetensors: "
    return weights | {name.removeprefix(own): t for name, t in state.items() if name.startswith(own)}


def through_four_bits(weight: torch.Tensor) -> torch.Tensor:
    bits = pytest.importorskip("bitsandbytes").functional
    codes, how = bits.quantize_4bit(weight.float(), blocksize=64, compress_statistics=True, quant_type="nf4")
    return bits.dequantize_4bit(codes, how).double()


def assert_is(found: Path, expected: dict[str, torch.Tensor]) -> None:
    """Whether a model's folder has these weights, tied ones aside, but for rounding."""
    weights = load_file(found / "model.safetensors")
    assert weights.keys() <= expected.keys()
    for name, weight in weights.items():
        assert (weight - expected[name]).abs().max() < 3e-6, name


@every_kind
def test_the_average_is_that_of_what_is_trained_and_is_merged_as_it_is(folder, tmp_path, kind):
    out = trained(folder, kind)
    last, expected = tensors(out / f"checkpoint-{STEPS}"), moving_average(out)
    found = tensors(out / f"checkpoint-{STEPS}" / "ema")
    assert found.keys() == expected.keys() == last.keys()
    assert all((found[name] - expected[name]).abs().max() < 1e-6 for name in found)
    assert all(not torch.equal(found[name], last[name]) for name in found)
    assert export.main([str(out), "--out", str(tmp_path / "model")]) == 0
    assert_is(tmp_path / "model", merged(folder, kind, expected))


@every_kind
def test_a_run_with_an_average_goes_on_to_the_bit(folder, tmp_path, kind):
    out, cut = trained(folder, kind), folder / f"{kind}-cut"
    shutil.copytree(out, cut)
    for step in (3, 4):
        shutil.rmtree(cut / f"checkpoint-{step}")
    run(config(folder, cut, lora_dropout=0.1, **KINDS[kind]), World())
    one, two = (
        {path.relative_to(where): path.read_bytes() for path in (where / f"checkpoint-{STEPS}").rglob("*.safetensors")}
        for where in (out, cut)
    )
    assert len([path for path in one if "ema" in path.parts]) == 3
    assert one == two
    losses = [[entry.get("eval_loss") for entry in metrics(where)] for where in (out, cut)]
    assert losses[0] == losses[1]


@every_kind
def test_the_mean_of_the_last_checkpoints_is_that_of_their_merged_weights(folder, tmp_path, kind):
    out = trained(folder, kind)
    assert export.main([str(out), "--average_last", "3", "--out", str(tmp_path / "model")]) == 0
    each = [merged(folder, kind, tensors(out / f"checkpoint-{step}")) for step in (2, 3, 4)]
    assert_is(tmp_path / "model", {name: sum(one[name] for one in each) / 3 for name in each[0]})


def loss_of(folder: Path, model: Path, tmp_path: Path) -> float:
    flags = {"model_name_or_path": str(model), "lora_enable": False, "ema_decay": 0.0}
    return Run(prepare(config(folder, tmp_path / "loss", **flags), World())).validate()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "halves"])  # they round where they compute
def test_what_is_validated_is_the_average_that_others_are_given(folder, tmp_path, kind):
    out = trained(folder, kind)
    expected = {entry["step"]: entry["eval_loss"] for entry in metrics(out) if "eval_loss" in entry}
    average, weights = (loss_of(folder, out / "checkpoint-4" / end, tmp_path) for end in ("ema", ""))
    assert average == pytest.approx(expected[4], rel=1e-5)
    assert weights != pytest.approx(expected[4], rel=1e-4)


def test_what_reads_in_mid_run_sees_the_average_that_is_saved(folder, tmp_path):
    seen = {}

    def read_samples(model):
        seen.update({in_file(name): p.detach().double() for name, p in model.named_parameters() if p.requires_grad})
        return Readings("", 0.0, 0.0)

    flags = {"sample_steps": 2, "sample_count": 1, "max_steps": 2, "eval_steps": 0, "use_dora": True}
    prepared = prepare(config(folder, tmp_path / "run", **flags), World())
    checkpoint = train(replace(prepared, read_samples=read_samples)).checkpoint
    average, weights = tensors(checkpoint / "ema"), tensors(checkpoint)
    assert seen.keys() == average.keys()
    assert all(torch.equal(seen[name], average[name]) and not torch.equal(seen[name], weights[name]) for name in seen)


@every_kind
def test_a_checkpoints_size_is_told_beforehand(folder, tmp_path, kind):
    flags = config(folder, tmp_path / "run", **KINDS[kind])
    told = checkpoint_bytes(prepare(flags, World(), dry=True).model, flags)
    files = (trained(folder, kind) / "checkpoint-4").rglob("*.safetensors")
    found = sum(t.nbytes for file in files if file.name != "rng.safetensors" for t in load_file(file).values())
    assert told == pytest.approx(found, rel=0.01)


def test_a_run_that_was_moved_with_its_base_finds_it_for_its_average_too(folder, tmp_path):
    out = trained(folder, "lora")
    for name in ("start", "lora"):
        shutil.copytree(folder / name, tmp_path / "moved" / name)
    for end in ("", "ema"):
        assert json.loads((out / "checkpoint-4" / end / "base.json").read_text())["path"].startswith("..")
        hf.load_model(tmp_path / "moved" / "lora" / "checkpoint-4" / end)


def test_the_best_are_kept_with_the_base_and_are_what_was_measured(folder, tmp_path):
    flags = {"eval_steps": 1, "save_steps": 100, "save_total_limit": 1, "keep_best": 2, "learning_rate": 1e-1}
    flags |= {"pretrain_mm_mlp_adapter": str(folder / "start")}  # the base is no folder yet: it lies in the run's own
    out = tmp_path / "run"
    run(config(folder, out, max_steps=3, **flags), World())
    run(config(folder, out, max_steps=5, **flags), World())
    losses = {entry["step"]: entry["eval_loss"] for entry in metrics(out)}
    best = sorted(losses, key=losses.__getitem__)[:2]
    said = json.loads((out / "best.json").read_text())
    named = [(one["checkpoint"], one["eval_loss"]) for one in (said, *said["others"])]
    assert named == [(f"checkpoint-{step}", losses[step]) for step in best]
    kept = dict(list_checkpoints(out))
    assert kept.keys() >= {*best, 5}
    assert all(verify(path) is None for path in kept.values())
    model = find_model(out)
    assert model == require_sound_model(out / f"checkpoint-{best[0]}" / "ema")
    out.rename(tmp_path / "moved")
    assert loss_of(folder, tmp_path / "moved" / model.relative_to(out), tmp_path) == pytest.approx(
        losses[best[0]], rel=1e-5
    )
