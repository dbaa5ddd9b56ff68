"""The best checkpoints by a named metric: which they are, that they are kept, and that a resume knows them."""

from __future__ import annotations

import json
import math

import pytest
from checkpoint_support import save
from test_train_loop import metrics

from parsit.config import TrainConfig
from parsit.files.manifest import verify
from parsit.files.run_folder import find_best, list_checkpoints
from parsit.train.best import judged, require_measured
from parsit.train.checkpoint import Best, TrainState
from parsit.train.resume import settle
from parsit.types import InputError, UsageError


def after(values, metric, keep):
    """The best steps after measurements at steps 1, 2, …, and what was said."""
    state, said = TrainState(0, "data", metric=metric), []
    for step, value in enumerate(values, 1):
        name = {"loss": "eval_loss", "cer": "sample_cer", "anls": "sample_anls"}[metric]
        state = judged(TrainState(step, "data", state.best, metric), {name: value}, keep, said.append)
    return state.best_steps, said


@pytest.mark.parametrize(
    ("values", "metric", "keep", "best"),
    [
        ([3.0, 1.0, 2.0], "loss", 1, (2,)),
        ([3.0, 1.0, 2.0], "loss", 2, (2, 3)),
        ([3.0, 1.0, 2.0], "cer", 3, (2, 3, 1)),
        ([0.3, 0.1, 0.2], "anls", 2, (1, 3)),
        ([1.0, 1.0, 1.0], "loss", 2, (1, 2)),  # of equal ones the older stays
        ([math.nan, 2.0, math.nan], "loss", 3, (2,)),
        ([math.nan], "cer", 1, ()),
    ],
)
def test_the_best_are_those_with_the_best_values(values, metric, keep, best):
    assert after(values, metric, keep)[0] == best


def test_what_was_measured_is_said():
    assert after([0.5, 0.75, 0.25, 0.1], "anls", 2)[1] == [
        "step 1: ANLS of readings 0.5000 (best so far)",
        "step 2: ANLS of readings 0.7500 (best so far)",
        "step 3: ANLS of readings 0.2500",
        "step 4: ANLS of readings 0.1000",
    ]
    assert after([0.5, 0.75], "loss", 2)[1][1] == "step 2: validation loss 0.7500 (among the 2 best)"


@pytest.mark.slow
def test_several_best_are_kept_named_and_known_after_a_resume(run, tmp_path):
    flags = {"eval_steps": 1, "save_steps": 100, "save_total_limit": 1, "keep_best": 3, "learning_rate": 3e-2}
    run(tmp_path, max_steps=5, **flags)
    run(tmp_path, max_steps=8, **flags)
    evals = {entry["step"]: entry["eval_loss"] for entry in metrics(tmp_path)}
    best = sorted(evals, key=lambda step: (evals[step], step))[:3]
    said = json.loads((tmp_path / "best.json").read_text())
    named = [(one["checkpoint"], one["eval_loss"]) for one in (said, *said["others"])]
    assert named == [(f"checkpoint-{step}", evals[step]) for step in best]
    kept = dict(list_checkpoints(tmp_path))
    assert kept.keys() >= {*best, 8}
    assert len(kept) <= 4
    assert all(verify(path) is None for path in kept.values())
    state = json.loads((kept[8] / "train_state" / "state.json").read_text())
    assert [one["step"] for one in state["best"]] == best


def test_of_the_best_those_that_are_damaged_or_gone_are_none_any_more(tmp_path):
    for step in (3, 6, 9, 12):
        save(tmp_path, step)
    state = TrainState(12, "data", (Best(6, 0.1), Best(3, 0.2), Best(12, 0.3), Best(9, 0.4), Best(99, 0.5)))
    (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(b"Weights")
    settled, (line,) = settle(TrainConfig(output_dir=str(tmp_path)), tmp_path / "checkpoint-12", state)
    assert settled.best_steps == (3, 12, 9)
    assert find_best(tmp_path) == tmp_path / "checkpoint-3"
    assert line.startswith(f"warning: {tmp_path / 'checkpoint-6'} validated best, but is not as it was saved: model.s")


@pytest.mark.parametrize("metric", ["cer", "anls"])
def test_the_best_is_chosen_by_readings(run, reading, tmp_path, metric):
    run(tmp_path, max_steps=5, save_steps=2, metric_for_best=metric, sample_steps=2, read_samples=reading)
    measured = {e["step"]: e[f"sample_{metric}"] for e in metrics(tmp_path) if f"sample_{metric}" in e}
    assert sorted(measured) == [2, 4, 5], "and at the end"
    said = json.loads((tmp_path / "best.json").read_text())
    chosen = (max if metric == "anls" else min)(measured, key=measured.get)
    assert said == {"checkpoint": f"checkpoint-{chosen}", f"sample_{metric}": measured[chosen]}


def test_another_metric_chooses_anew_and_says_so(run, reading, tmp_path, capsys):
    run(tmp_path, max_steps=2, eval_steps=1)
    run(tmp_path, max_steps=3, metric_for_best="cer", sample_steps=1, read_samples=reading)
    err = capsys.readouterr().err
    assert "warning: --metric_for_best is cer now: the validation loss " in err
    assert "the best checkpoint is chosen anew" in err
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "checkpoint-3"


def test_a_metric_that_nobody_measures_is_refused_at_the_start():
    run = {"data": ["d.jsonl"]}
    for flags, said in (
        ({"metric_for_best": "loss"}, "--metric_for_best loss: nothing is measured without --eval_data"),
        ({"keep_best": 2}, "--keep_best: nothing is measured without --eval_data"),
        ({"metric_for_best": "cer", "eval_data": ["v.jsonl"]}, "is measured by reading samples: say with --sample_st"),
        ({"metric_for_best": "bleu"}, "--metric_for_best"),
        ({"keep_best": 0}, "--keep_best is 0"),
        ({"sample_count": 0}, "--sample_count is 0"),
    ):
        with pytest.raises(UsageError, match=said):
            TrainConfig(**run, **flags)
    config = TrainConfig(**run, eval_data=["v.jsonl"], metric_for_best="anls", sample_steps=5)
    with pytest.raises(InputError, match="none of the first 8 samples of --eval_data ends with an answer"):
        require_measured(config, 0)
    require_measured(config, 1)


def test_a_state_of_an_older_version_is_understood():
    older = {"step": 6, "data_fingerprint": "d", "best_eval_loss": 0.5, "best_step": 3, "validated_on": "v"}
    assert TrainState.of(older) == TrainState(6, "d", (Best(3, 0.5),), "loss", "v")
    assert TrainState.of(older | {"best_eval_loss": None, "best_step": None}).best == ()
