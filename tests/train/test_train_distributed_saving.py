"""Averages and saves of two processes: averages in shares are those of one process, and go on to the bit."""

from __future__ import annotations

import json

import pytest
from dist_support import STRATEGIES, make_data, make_deepspeed, make_start, metrics, run_job
from safetensors.torch import load_file

from parsit.files.manifest import verify

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(0)]  # `run_job` has a limit of its own

FLAGS = {
    "per_device_train_batch_size": 2,
    "max_steps": 4,
    "save_steps": 2,
    "eval_steps": 2,
    "learning_rate": 3e-3,
    "keep_best": 2,
}
WAYS = ["ddp", "fsdp", "tp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    folder = tmp_path_factory.mktemp("saving")
    make_data(folder)
    make_deepspeed(folder)
    make_start(folder, mini)

    def run(name: str, **flags) -> dict:
        steps = {"gradient_accumulation_steps": 4 if name in ("one", "tp") else 2, "ema_decay": 0.5}
        flags = FLAGS | steps | STRATEGIES.get(name, {}) | flags | {"eval_data": [str(folder / "d.jsonl")]}
        return {"name": name, "flags": flags, "validate": True}

    def resumed(name: str) -> dict:
        return run(name) | {"name": f"resumed-{name}", "goes_on": name, "from_step": 2}

    job = {"start": str(folder / "start"), "data": str(folder / "d.jsonl"), "out": str(folder / "out")}
    plain = run("fsdp", ema_decay=0.0) | {"name": "without"}
    full = run("fsdp") | {"name": "full", "limit": 10_000}
    zero = run("zero2", ema_decay=0.0, deepspeed=str(folder / "zero2.json"))
    both = [one for name in WAYS for one in (run(name), resumed(name))] + [plain, full, zero]
    run_job(job | {"runs": [run("one")]}, folder / "jobs", 1)
    run_job(job | {"runs": both}, folder / "jobs", 2)
    return folder / "out"


def average(folder, name):
    return load_file(folder / name / "checkpoint-4" / "ema" / "model.safetensors")


@pytest.mark.parametrize("way", WAYS)
def test_an_average_in_shares_is_that_of_one_process(folder, way):
    expected, found = average(folder, "one"), average(folder, way)
    assert found.keys() == expected.keys()
    assert all((found[name] - expected[name]).abs().max() < 1e-4 for name in expected)
    losses = [[entry.get("eval_loss") for entry in metrics(folder / name)][1::2] for name in ("one", way)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_an_average_in_shares_goes_on_to_the_bit(folder, way):
    for name in ("ema/model.safetensors", "model.safetensors"):
        one, two = (folder / run / "checkpoint-4" / name for run in (way, f"resumed-{way}"))
        assert one.read_bytes() == two.read_bytes()


def test_training_in_shares_does_not_notice_that_validation_sees_the_average(folder):
    learnt = [[(e["loss"], e["grad_norm"]) for e in metrics(folder / name)] for name in ("fsdp", "without")]
    assert learnt[0] == learnt[1]


def test_what_deepspeed_holds_is_in_the_same_files_and_the_best_are_kept(folder):
    for step in (2, 4):
        checkpoint = folder / "zero2" / f"checkpoint-{step}"
        assert verify(checkpoint) is None
        listed = json.loads((checkpoint / "manifest.json").read_text())["files"]
        assert "train_state/optimizer.safetensors" in listed
        assert all(name.endswith((".safetensors", ".json", ".jinja", ".yaml")) for name in listed)
    assert len(json.loads((folder / "zero2" / "best.json").read_text())["others"]) == 1


def test_a_save_that_fails_behind_training_is_known_to_both_processes(folder):
    """Nothing could be written by the first of them: both end with the same error."""
    seen = [json.loads((folder / f"full-{rank}.json").read_text()) for rank in (0, 1)]
    assert all("SaveError: " in one["error"] and "cannot be written" in one["error"] for one in seen)
    assert not list((folder / "full").glob("checkpoint-*"))
