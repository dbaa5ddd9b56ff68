"""Two processes over gloo: every strategy shards as it claims, learns what one process learns, and never hangs.

All runs of a world size follow each other in one set of processes (`dist_worker`), because starting those costs more
than the runs. A run that hangs is stopped by the watchdog, with the processes' last words.
"""

from __future__ import annotations

import json
import shutil

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

from parsit import hf

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(0)]  # `run_job` has a limit of its own

STEPS = 10
# Micro-batches of two: an epoch of fourteen samples has seven, so that one rank's last is empty; a step takes them all.
WHOLE = {"per_device_train_batch_size": 2, "max_steps": STEPS, "save_steps": STEPS, "learning_rate": 3e-3}
# One sample each: what two ranks compute at the same time differs in modality, length, and whether it is there at all.
# With the glyph loss the tower's features are an output with a gradient, which ZeRO-3's ranks have to agree on.
SINGLE = {"per_device_train_batch_size": 1, "max_steps": 14, "save_steps": 14, "learning_rate": 1e-3,
          "max_bad_fraction": 0.5}  # fmt: skip
TOWER_ALONE = {"mm_tunable_parts": "mm_vision_tower", "language_loss_weight": 0.0, "ctc_loss_weight": 1.0}
HALVES = {
    "per_device_train_batch_size": 2,
    "max_steps": 6,
    "save_steps": 3,
    "learning_rate": 3e-3,
    "seed": 5,
    "sample_steps": 2,
}
# Who goes on with whose checkpoint: with its own, with that of one process, with that of another strategy.
RESUMED = [
    *((name, name) for name in DATA_PARALLEL),
    *((name, "one") for name in DATA_PARALLEL),
    ("fsdp", "ddp"),
    ("fsdp", "zero3"),
    ("zero3", "fsdp"),
    ("zero2", "zero3"),
]


def accumulate(name: str, micro_batches: int) -> dict:
    """Accumulation that gives a step so many micro-batches over all processes; TP's processes share theirs."""
    return {"gradient_accumulation_steps": micro_batches if name in ("one", "tp") else micro_batches // 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini, mini_native):
    folder = tmp_path_factory.mktemp("distributed")
    make_data(folder, glyphs=True)
    make_deepspeed(folder)
    make_start(folder, mini)
    make_start(folder, mini_native, "native")
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    """All runs: what each rank saw, by run."""

    def flags(name: str, base: dict, micro_batches: int, **more) -> dict:
        chosen = {k: str(folder / v) if k == "deepspeed" else v for k, v in STRATEGIES.get(name, {}).items()}
        return base | chosen | accumulate(name, micro_batches) | more

    def all_runs(names: list[str]) -> list[dict]:
        runs = []
        for name in names:
            runs.append({"name": f"whole-{name}", "flags": flags(name, WHOLE, 8), "listen": name == "fsdp"})
            native = flags(name, SINGLE, 2, gradient_checkpointing=name == "fsdp", max_steps=7)
            runs.append({"name": f"native-{name}", "flags": native, "start": str(folder / "native")})
            tower = flags(name, SINGLE, 2, max_steps=7, **TOWER_ALONE)
            runs.append({"name": f"tower-{name}", "flags": tower, "start": str(folder / "native")})
            if name == "fsdp":
                each = flags(name, WHOLE, 8, fsdp_sync_each_batch=True)
                runs.append({"name": "each-fsdp", "flags": each, "listen": True})
            if name in ("one", "tp"):
                runs.append({"name": f"read-{name}", "flags": flags(name, HALVES, 4), "validate": True})
            if name == "tp":
                continue
            glyphs = {"gradient_checkpointing": name != "ddp", "glyph_loss_weight": 0.5}
            runs.append(
                {
                    "name": f"single-{name}",
                    "flags": flags(name, SINGLE, 2, **glyphs),
                    "break": str(folder / "4.png"),
                }
            )
            runs.append({"name": f"poisoned-{name}", "flags": flags(name, HALVES, 2), "poison": 2})
            # Fourteen samples are one batch of the validation: the other rank's is empty, without an image.
            runs.append({"name": f"halves-{name}", "flags": flags(name, HALVES, 4), "validate": True})
        packed = flags(names[0], WHOLE, 2, packing=True, model_max_length=300, per_device_train_batch_size=1)
        runs.append({"name": f"packed-{names[0]}", "flags": packed, "validate": True})
        return runs

    job = {"start": str(folder / "start"), "data": str(folder / "d.jsonl"), "out": str(folder / "out")}
    found = {}
    for names, world_size in ((["one"], 1), (list(STRATEGIES), 2)):
        runs = all_runs(names)
        found |= run_job(job | {"runs": runs}, folder / "jobs", world_size)
    # Go on from the middle: each with itself, with what one process began, and with what another strategy began.
    resumed = []
    for name, origin in RESUMED:
        target = folder / "out" / f"resumed-{name}-from-{origin}"
        shutil.copytree(folder / "out" / f"halves-{origin}", target)
        shutil.rmtree(target / "checkpoint-6")
        resumed.append({"name": target.name, "flags": flags(name, HALVES, 4), "validate": True})
    target = shutil.copytree(folder / "out" / "halves-zero3", folder / "out" / "rated-zero3")
    shutil.rmtree(target / "checkpoint-6")
    rates = {"learning_rate": 2 * HALVES["learning_rate"]}
    resumed.append({"name": target.name, "flags": flags("zero3", HALVES, 4, **rates), "validate": True})
    found |= run_job(job | {"runs": resumed}, folder / "jobs-resumed", 2)
    return found


def test_a_run_under_zero_goes_on_at_the_rate_of_now(folder, seen):
    before, found = (metrics(folder / "out" / name) for name in ("halves-zero3", "rated-zero3"))
    assert "error" not in seen["rated-zero3"][0]
    assert [entry["learning_rate"] for entry in found[3:]] == [2 * entry["learning_rate"] for entry in before[3:]]


@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_and_optimizer_lie_where_the_strategy_says(seen, name):
    weights, states = SHARES[name]
    for rank in seen[f"whole-{name}"]:
        assert rank["strategy"] == NAMES[name]
        assert rank["whole"] == seen["whole-one"][0]["whole"], "parameters are counted right under sharding"
        assert rank["here"] / rank["whole"] == pytest.approx(weights, abs=0.02)
        assert rank["optimizer_here"] / rank["whole"] == pytest.approx(states, abs=0.02)


@pytest.mark.parametrize("name", STRATEGIES)
def test_ten_steps_equal_those_of_one_process(folder, seen, name):
    expected, found = (metrics(folder / "out" / f"whole-{which}") for which in ("one", name))
    assert len(found) == STEPS
    for one, two in zip(expected, found, strict=True):
        assert one["supervised_tokens"] == two["supervised_tokens"]
        assert abs(one["loss"] - two["loss"]) < 1e-5
        assert abs(one["grad_norm"] - two["grad_norm"]) < 1e-4
    assert expected[0]["loss"] - expected[-1]["loss"] > 0.5, "it learns"


def test_fsdp_sums_gradients_once_a_step_and_learns_what_it_learns_by_summing_each(folder, seen):
    once, each = (metrics(folder / "out" / f"{which}-fsdp") for which in ("whole", "each"))
    for one, other in zip(once, each, strict=True):
        assert abs(one["loss"] - other["loss"]) < 1e-6
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    talk_once, talk_each = (seen[f"{which}-fsdp"][0]["talk"] for which in ("whole", "each"))
    (summing,) = (operation for operation in talk_each if "reduce_scatter" in operation)
    assert talk_each[summing] == 4 * talk_once[summing] > 0, "a step has four micro-batches"
    assert talk_once | {summing: 0} == talk_each | {summing: 0}, "nothing else changes"


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_checkpoint_holds_whole_weights_equal_to_those_of_one_process(folder, seen, name):
    expected, found = (
        load_file(folder / "out" / f"whole-{which}" / f"checkpoint-{STEPS}" / "model.safetensors")
        for which in ("one", name)
    )
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=2e-4, rtol=0, msg=key)
    hf.load_model(folder / "out" / f"whole-{name}" / f"checkpoint-{STEPS}")


@pytest.mark.parametrize("name", DATA_PARALLEL)
def test_ranks_that_differ_in_images_text_and_emptiness_do_not_hang_and_learn_the_same(folder, seen, name):
    """With activation checkpointing, and an image that breaks in mid-run and leaves its rank with nothing."""
    expected, found = (metrics(folder / "out" / f"single-{which}") for which in ("one", name))
    for one, two in zip(expected, found, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-5
        assert one["left_out"] == two["left_out"]
    assert found[-1]["left_out"] == 1
    lists = [(folder / "out" / f"single-{which}" / "left_out.jsonl").read_text() for which in ("one", name)]
    assert lists[0] == lists[1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_tower_that_learns_alone_from_lines_texts_learns_as_in_one_process(folder, seen, name):
    """Projector and decoder run on no rank; on one there may be no image, or one without a text of its own."""
    expected, found = (metrics(folder / "out" / f"tower-{which}") for which in ("one", name))
    assert len(found) == 7
    for one, two in zip(expected, found, strict=True):
        assert abs(one["ctc_loss"] - two["ctc_loss"]) < 1e-5
        assert abs(one["grad_norm"] - two["grad_norm"]) < 1e-4
    assert any(entry["ctc_loss"] > 0 for entry in found)


@pytest.mark.parametrize("name", STRATEGIES)
def test_images_at_native_resolution_are_learnt_as_in_one_process(folder, seen, name):
    """Of the two ranks one may have text alone, whose tower then runs on the smallest image."""
    expected, found = (metrics(folder / "out" / f"native-{which}") for which in ("one", name))
    assert len(found) == 7
    for one, two in zip(expected, found, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-5
        assert abs(one["grad_norm"] - two["grad_norm"]) < 1e-4


@pytest.mark.parametrize("name", DATA_PARALLEL)
def test_what_is_not_finite_stops_every_rank_before_the_update(folder, seen, name):
    for rank in seen[f"poisoned-{name}"]:
        assert rank["error"].startswith("ParsitError: step 3: loss is nan")
    assert len(metrics(folder / "out" / f"poisoned-{name}")) == 2


@pytest.mark.parametrize(("name", "origin"), RESUMED)
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(folder, seen, name, origin):
    whole, resumed = (
        metrics(folder / "out" / which) for which in (f"halves-{origin}", f"resumed-{name}-from-{origin}")
    )
    assert "error" not in seen[f"resumed-{name}-from-{origin}"][0]
    for one, two in zip(whole, resumed, strict=True):
        assert one["step"] == two["step"]
        assert abs(one["loss"] - two["loss"]) < (1e-5 if one["step"] > 4 else 1e-6)
        assert name != origin or one["loss"] == two["loss"], "to the bit"


def test_no_checkpoint_holds_a_pickle(folder, seen):
    """Neither a file that torch.load would read, nor any that says so by its first bytes."""
    files = [path for path in (folder / "out").glob("*/checkpoint-*/**/*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".jinja", ".safetensors", ".yaml"}
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04")]


@pytest.mark.parametrize("name", DATA_PARALLEL)
def test_validation_is_the_same_where_a_rank_has_nothing_to_validate(folder, seen, name):
    expected, found = (metrics(folder / "out" / f"halves-{which}")[-1]["eval_loss"] for which in ("one", name))
    assert abs(expected - found) < 1e-5


@pytest.mark.parametrize("name", [*DATA_PARALLEL, "tp"])
def test_reading_samples_in_mid_training_does_not_hang_and_reads_the_same(folder, seen, name):
    run = "halves" if name != "tp" else "read"
    lines = [
        [json.loads(line) for line in (folder / "out" / f"{run}-{which}" / "samples.jsonl").read_text().splitlines()]
        for which in ("one", name)
    ]
    assert [line["step"] for line in lines[0]] == [2, 4, 6]
    assert lines[0] == lines[1]
    rates = [
        [e["sample_cer"] for e in metrics(folder / "out" / f"{run}-{w}") if "sample_cer" in e] for w in ("one", name)
    ]
    assert rates[0] == rates[1]


def test_packs_over_two_processes_learn_what_one_learns_and_validate_the_same(folder, seen):
    expected, found = (metrics(folder / "out" / f"packed-{which}") for which in ("one", "ddp"))
    for one, two in zip(expected, found, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-5
    assert abs(expected[-1]["eval_loss"] - found[-1]["eval_loss"]) < 1e-5
