"""`--optim adamw_bf16` over two processes: replicas stay one model, shares resume, and all learn what one learns.

And a base whose file is in bfloat16 trains adapters under every way of sharding.
"""

from __future__ import annotations

import pytest
import torch
from dist_support import NAMES, STRATEGIES, make_data, make_deepspeed, make_start, metrics, run_job
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(0)]  # `run_job` has a limit of its own

STEPS = 6
FLAGS = {
    "per_device_train_batch_size": 2,
    "max_steps": STEPS,
    "save_steps": 3,
    "learning_rate": 3e-3,
    "bf16": "true",
    "optim": "adamw_bf16",
}
LORA = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0, "optim": "adamw", "max_steps": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    folder = tmp_path_factory.mktemp("low-memory")
    make_data(folder)
    make_deepspeed(folder)
    make_start(folder, mini)
    make_start(folder, mini, "start-bf16", torch.bfloat16)
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    def run(name: str) -> dict:
        places = {k: str(folder / v) if k == "deepspeed" else v for k, v in STRATEGIES.get(name, {}).items()}
        steps = {"gradient_accumulation_steps": 4 if name in ("one", "tp") else 2}
        return {"name": name, "flags": FLAGS | places | steps}

    def resumed(name: str) -> dict:
        return run(name) | {"name": f"resumed-{name}", "goes_on": name, "from_step": 3}

    def on_bf16(name: str, bf16: str) -> dict:
        flags = run(name)["flags"] | LORA | {"bf16": bf16}
        return {"name": f"lora-{name}-{bf16}", "start": str(folder / "start-bf16"), "flags": flags}

    job = {"start": str(folder / "start"), "data": str(folder / "d.jsonl"), "out": str(folder / "out")}
    plain = run("one") | {"name": "adamw"}
    plain["flags"] = plain["flags"] | {"optim": "adamw"}
    # ZeRO-3 comes last: DeepSpeed replaces torch's linear function with its own, which rounds otherwise in bfloat16.
    both = [one for name in STRATEGIES for one in (run(name), resumed(name))]
    both += [on_bf16(name, bf16) for name in STRATEGIES if name != "tp" for bf16 in ("false", "true")]
    projector = {"mm_tunable_parts": "mm_mlp_adapter", "optim": "adamw", "max_steps": 2, "save_steps": 2}
    both += [{"name": f"frozen-{name}", "flags": run(name)["flags"] | projector} for name in STRATEGIES]
    found = run_job(job | {"runs": [plain, run("one")]}, folder / "jobs", 1)
    return found | run_job(job | {"runs": both}, folder / "jobs", 2)


def losses(folder, name):
    return [entry["loss"] for entry in metrics(folder / "out" / name)]


@pytest.mark.parametrize("name", ["one", *STRATEGIES])
def test_it_learns_what_adamw_in_one_process_learns(folder, seen, name):
    assert "error" not in seen[name][0]
    assert seen[name][0]["strategy"] == NAMES.get(name, "one process")
    found, expected = losses(folder, name), losses(folder, "adamw")
    assert found == pytest.approx(expected, rel=0.02)
    assert found[-1] < 0.99 * found[0]


def test_replicas_stay_the_same_to_the_bit(seen):
    first, second = seen["ddp"]
    assert first["digest"] == second["digest"]
    assert seen["fsdp"][0]["digest"] != seen["fsdp"][1]["digest"], "shares differ: the digest tells something"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(folder, seen, name):
    assert seen[f"resumed-{name}"][0]["first_step"] == 4
    assert losses(folder, f"resumed-{name}") == pytest.approx(losses(folder, name), abs=0)


@pytest.mark.parametrize("name", ["one", *STRATEGIES])
def test_weights_are_saved_whole(folder, seen, name):
    saved = load_file(folder / "out" / name / f"checkpoint-{STEPS}" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    beyond = [key for key, tensor in saved.items() if not torch.equal(tensor, tensor.bfloat16().float())]
    assert len(beyond) > 0.9 * len(saved)


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_frozen_is_saved_as_it_was_to_the_bit(folder, seen, name):
    """Whatever the processes round for computing."""
    before = load_file(folder / "start" / "model.safetensors")
    after = load_file(folder / "out" / f"frozen-{name}" / "checkpoint-2" / "model.safetensors")
    assert after.keys() == before.keys()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert moved
    assert all(key.startswith(("mm_projector", "image_newline")) for key in moved)


@pytest.mark.parametrize("bf16", ["false", "true"])
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "tp"])
def test_adapters_train_on_a_base_that_is_in_bfloat16(folder, seen, name, bf16):
    run = f"lora-{name}-{bf16}"
    assert "error" not in seen[run][0]
    assert len(losses(folder, run)) == 2
    checkpoint = folder / "out" / run / "checkpoint-2"
    for file in ("adapter_model.safetensors", "trained_parts.safetensors"):
        assert {tensor.dtype for tensor in load_file(checkpoint / file).values()} == {torch.float32}
