"""Adapters over two processes: every strategy shards them, learns what one process learns, and saves the same files.

Those of the moving average are among them, where there can be one. A miniature of width 64, which 4-bit weights need.
All runs of a world size share one set of processes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dist_support import (
    DATA_PARALLEL,
    NAMES,
    SHARES,
    STRATEGIES,
    make_data,
    make_deepspeed,
    make_start,
    metrics,
    run_job,
)
from safetensors.torch import load_file

from parsit.model.adapter_files import load_with_adapters
from parsit.model.adapters import is_adapter

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(0)]  # `run_job` has a limit of its own

STEPS = 6
FLAGS = {
    "per_device_train_batch_size": 2,
    "max_steps": STEPS,
    "save_steps": 3,
    "learning_rate": 3e-3,
    "lora_enable": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_targets_vision": "q_proj,fc1",
}
KINDS = {
    "lora": {},
    "dora": {"use_dora": True},
    "qlora": {"bits": 4},
    "projector": {"lora_enable": False, "mm_tunable_parts": "mm_mlp_adapter"},
}
# DoRA reads the base's weights from outside the layer that holds them, which matters where those lie in shares.
RUNS = [*(("lora", name) for name in DATA_PARALLEL), ("dora", "fsdp"), ("dora", "zero3"), ("qlora", "ddp")]
# Without adapters what is frozen comes back from the checkpoint itself.
FROZEN = [("projector", "zero2"), ("projector", "zero3")]
RESUMED = [run for run in RUNS + FROZEN if run[0] != "dora"]
ZERO = [run for run in RUNS + FROZEN if run[1].startswith("zero")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    folder = tmp_path_factory.mktemp("adapters")
    make_data(folder)
    make_deepspeed(folder)
    wide = replace(mini, text_config=mini.text_config | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    make_start(folder, wide)
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    """All runs: what each rank saw, by run."""

    def run(kind: str, name: str) -> dict:
        places = {k: str(folder / v) if k == "deepspeed" else v for k, v in STRATEGIES.get(name, {}).items()}
        more = {"gradient_accumulation_steps": 4 if name == "one" else 2}
        more |= {"ema_decay": 0.0 if "deepspeed" in places else 0.5}  # DeepSpeed's weights have no average
        more |= {"gradient_checkpointing": kind == "lora" and name not in ("one", "ddp")}
        return {"name": f"{kind}-{name}", "flags": FLAGS | KINDS[kind] | places | more, "watch": True}

    def resumed(kind: str, name: str) -> dict:
        again = {"name": f"resumed-{kind}-{name}", "goes_on": f"{kind}-{name}", "from_step": 3, "watch": False}
        return run(kind, name) | again

    job = {"start": str(folder / "start"), "data": str(folder / "d.jsonl"), "out": str(folder / "out")}
    alone = job | {"runs": [run(kind, "one") for kind in KINDS]}
    both = job | {"runs": [run(*one) for one in RUNS + FROZEN] + [resumed(*one) for one in RESUMED]}
    return run_job(alone, folder / "jobs", 1) | run_job(both, folder / "jobs", 2)


def saved(folder: Path, run: str, average: bool = True) -> dict[str, torch.Tensor]:
    """Every tensor in a run's last checkpoint, by the file and the name; `average`: those of the average too."""
    checkpoint = folder / "out" / run / f"checkpoint-{STEPS}"
    left_out = ("train_state",) if average else ("train_state", "ema")
    files = [
        file for file in checkpoint.rglob("*.safetensors") if file.relative_to(checkpoint).parts[0] not in left_out
    ]
    return {f"{file.relative_to(checkpoint)}: {k}": v for file in files for k, v in load_file(file).items()}


@pytest.mark.parametrize(("kind", "name"), RUNS)
def test_base_adapters_and_optimizer_lie_where_the_strategy_says(seen, kind, name):
    weights, states = SHARES[name]
    for rank in seen[f"{kind}-{name}"]:
        assert rank["strategy"] == NAMES[name]
        assert rank["whole"] == seen[f"{kind}-one"][0]["whole"]
        assert rank["here"] / rank["whole"] == pytest.approx(weights, abs=0.02)
        assert rank["trained_here"] / rank["trained"] == pytest.approx(weights, abs=0.02)
        assert rank["optimizer_here"] / rank["trained"] == pytest.approx(states, abs=0.02)


@pytest.mark.parametrize(("kind", "name"), RUNS)
def test_the_count_of_what_is_trained_is_that_of_the_file(folder, seen, kind, name):
    count = sum(tensor.numel() for tensor in saved(folder, f"{kind}-one", average=False).values())
    for rank in seen[f"{kind}-{name}"]:
        assert rank["told"] == seen[f"{kind}-one"][0]["told"]
        assert sum(rank["told"].values()) == rank["trained"] == count


@pytest.mark.parametrize(("kind", "name"), RUNS + FROZEN)
def test_steps_equal_those_of_one_process(folder, seen, kind, name):
    expected, found = (metrics(folder / "out" / f"{kind}-{which}") for which in ("one", name))
    assert len(found) == STEPS
    for one, two in zip(expected, found, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-5
        assert abs(one["grad_norm"] - two["grad_norm"]) < 1e-4
    assert expected[0]["loss"] - expected[-1]["loss"] > 0.05, "it learns"


@pytest.mark.parametrize(("kind", "name"), [*((kind, "one") for kind in KINDS if kind != "projector"), *RUNS])
def test_every_adapter_moves_and_the_base_never_does(seen, kind, name):
    first = seen[f"{kind}-{name}"][0]
    towers = ("model.language_model.", "model.vision_tower.")
    assert not [weight for weight in first["stayed"] if is_adapter(weight) or not weight.startswith(towers)]
    assert not [weight for weight in first["moved"] if not is_adapter(weight) and weight.startswith(towers)]
    assert {tower for tower in towers for weight in first["moved"] if weight.startswith(tower)} == set(towers)
    assert first["moved"] == seen[f"{kind}-one"][0]["moved"]


@pytest.mark.parametrize(("kind", "name"), RUNS)
def test_what_is_saved_equals_that_of_one_process_and_loads_strictly(folder, seen, kind, name):
    expected = saved(folder, f"{kind}-one", average=not name.startswith("zero"))
    found = saved(folder, f"{kind}-{name}")
    assert found.keys() == expected.keys()
    assert any(key.startswith("ema/adapter_model") for key in found) == (not name.startswith("zero"))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=2e-4, rtol=0, msg=key)
    model = load_with_adapters(folder / "out" / f"{kind}-{name}" / f"checkpoint-{STEPS}", merge=False)
    parameters = dict(model.named_parameters())
    for weight in seen[f"{kind}-{name}"][0]["moved"]:
        assert weight.removeprefix("model.") in parameters


@pytest.mark.parametrize(("kind", "name"), RESUMED)
def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(folder, seen, kind, name):
    first = seen[f"resumed-{kind}-{name}"][0]
    assert "error" not in first
    assert first["first_step"] == 4
    whole, resumed = (metrics(folder / "out" / which) for which in (f"{kind}-{name}", f"resumed-{kind}-{name}"))
    assert len(resumed) == STEPS
    for one, two in zip(whole, resumed, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-6
    expected, found = saved(folder, f"{kind}-{name}"), saved(folder, f"resumed-{kind}-{name}")
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-6, rtol=0, msg=key)


@pytest.mark.parametrize(("kind", "name"), ZERO)
def test_the_optimizers_state_under_zero_is_that_of_what_is_trained_and_that_alone(folder, seen, kind, name):
    checkpoint = folder / "out" / f"{kind}-{name}" / f"checkpoint-{STEPS}"
    tensors = load_file(checkpoint / "train_state" / "optimizer.safetensors")
    moved = seen[f"{kind}-{name}"][0]["moved"]
    assert set(tensors) == {f"{weight}/{key}" for weight in moved for key in ("exp_avg", "exp_avg_sq", "step")}
    assert {float(tensors[f"{weight}/step"]) for weight in moved} == {STEPS}


def test_deepspeed_knows_the_type_of_every_output(folder, seen):
    assert "unknown inputs or outputs type" not in (folder / "jobs" / "log-2-0.txt").read_text()


def test_a_matrix_of_four_bits_stays_packed(seen):
    assert seen["qlora-ddp"][0]["whole"] < seen["lora-ddp"][0]["whole"] - 20_000
