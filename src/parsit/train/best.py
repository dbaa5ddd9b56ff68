"""Which checkpoints of a run are the best, by what is measured in training (`--metric_for_best`, `--keep_best`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isnan

from parsit.config import TrainConfig
from parsit.data.dataset import DataSet
from parsit.train.batches import validation_digest
from parsit.train.checkpoint import MEASURED_AS, Best, TrainState
from parsit.types import InputError

Say = Callable[[str], None]
_SAID = {
    "loss": "validation loss",
    "cer": "character error rate of readings",
    "anls": "ANLS of readings",
}


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether a value of a metric is better than another: a higher ANLS, a lower loss or character error rate."""
    return value > other if metric == "anls" else value < other


def judged(state: TrainState, entry: Mapping[str, float], keep: int, say: Say) -> TrainState:
    """The state after what was measured at its step, which is said.

    Of equal values the older one stays before; what is not a number is never among the best.

    Args:
        state: where the run stands.
        entry: the step's entry for metrics.jsonl.
        keep: how many of the best are kept.
        say: told a line.
    """
    value = entry.get(MEASURED_AS[state.metric])
    if value is None:
        return state
    best: list[Best] = list(state.best)
    if not isnan(value):
        place = next((n for n, one in enumerate(best) if is_better(state.metric, value, one.value)), len(best))
        best.insert(place, Best(state.step, value))
    kept = tuple(best[:keep])
    how = {False: "", True: f" (among the {keep} best)"}[any(one.step == state.step for one in kept)]
    if kept and kept[0].step == state.step:
        how = " (best so far)"
    say(f"step {state.step}: {_SAID[state.metric]} {value:.4f}{how}")
    return replace(state, best=kept)


def best_so_far(state: TrainState, config: TrainConfig, validation: DataSet | None, say: Say) -> TrainState:
    """The state of a run with the best of its measurements; forgotten where they were made by or on something else.

    Args:
        state: where the run stands.
        config: the run's configuration now.
        validation: what the run validates on from now on; None: nothing, and the best stays the best.
        say: told a line at a time.
    """
    if validation is None:
        return state
    digest = validation_digest(config, validation)
    if config.best_metric != "loss":
        digest += f" {config.sample_count} read"
    now = replace(state, metric=config.best_metric, validated_on=digest, best=state.best[: config.keep_best])
    if not state.best or (state.metric == now.metric and state.validated_on in ("", digest)):
        return now
    flag = "--eval_data, --max_eval_samples or --sample_count has changed"
    if state.metric != now.metric:
        flag = f"--metric_for_best is {now.metric} now"
    first = state.best[0]
    say(
        f"warning: {flag}: the {_SAID[state.metric]} {first.value:.4f} of step {first.step} does not compare with what "
        "comes, and the best checkpoint is chosen anew"
    )
    return replace(now, best=())


def require_measured(config: TrainConfig, answered: int) -> None:
    """Refuse a run whose best checkpoint is to be chosen by readings, where no sample that is read has an answer.

    Args:
        config: the run's configuration.
        answered: how many of the samples that are read end with an answer.

    Raises:
        InputError: there is none.
    """
    if config.best_metric != "loss" and not answered:
        raise InputError(
            f"--metric_for_best {config.best_metric}: none of the first {config.sample_count} samples of --eval_data "
            "ends with an answer to compare with: give other data, more --sample_count, or --metric_for_best loss"
        )
