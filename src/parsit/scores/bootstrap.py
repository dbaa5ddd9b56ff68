"""Bootstrap intervals: samples are drawn again with replacement, the score is taken of each draw.

Percentile intervals (Efron and Tibshirani 1993, chapter 13), seeded. A sample is the unit: where a
score is a sum over a sum, edits and length of a sample are drawn together. Scores of two systems on
the same samples are compared by the interval of their difference, with the same draw for both.
With one sample every draw is that sample and the interval is a point: it says nothing then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Indices drawn at a time; bounds memory at some tens of MiB whatever the number of samples.
_CHUNK = 1 << 20

Numbers = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A score over all samples and the interval that holds it with the confidence asked for."""

    value: float
    low: float
    high: float


def _ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Element-wise quotient; over 0 it is 0 for 0 and else 1, as for an empty reference."""
    empty = denominators == 0
    return np.where(empty, numerators > 0, numerators / np.where(empty, 1, denominators))


def _matrix(rows: Sequence[Numbers]) -> NDArray[np.float64]:
    """Equally long rows as one array; raises `ValueError` for rows that are empty or differ in length."""
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"a bootstrap needs equally many numbers in each row, at least one; got {sorted(lengths)}")
    return np.asarray(rows, dtype=np.float64)


def _resampled_ratios(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Ratio of sums for each draw: (systems, samples) twice → (systems, resamples)."""
    rng = np.random.default_rng(seed)
    samples = numerators.shape[1]
    step = max(1, _CHUNK // samples)
    chunks = []
    for start in range(0, resamples, step):
        drawn = rng.integers(0, samples, size=(min(step, resamples - start), samples))
        chunks.append(_ratio(numerators[:, drawn].sum(axis=2), denominators[:, drawn].sum(axis=2)))
    return np.concatenate(chunks, axis=1)


def _interval(value: float, draws: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def ratio_interval(
    numerators: Numbers, denominators: Numbers, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Sum of numerators / sum of denominators, such as corpus CER from (edits, length) of each sample.

    Raises `ValueError` if the lists are empty or differ in length.
    """
    both = _matrix([numerators, denominators])
    top, bottom = both[:1], both[1:]
    value = _ratio(top.sum(axis=1), bottom.sum(axis=1))[0]
    return _interval(value, _resampled_ratios(top, bottom, resamples, seed)[0], confidence)


def mean_interval(values: Numbers, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean over samples. Raises `ValueError` if there are none."""
    return ratio_interval(values, np.ones(len(values)), resamples=resamples, confidence=confidence, seed=seed)


def mean_of_means_interval(
    groups: Sequence[Numbers], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of the groups' means, each group drawn again by itself: a group weighs the same whatever its size.

    Raises `ValueError` if there is no group, or an empty one.
    """
    if not groups:
        raise ValueError("a bootstrap needs one group of numbers at least")
    draws = []
    for place, group in enumerate(groups):
        row, ones = _matrix([group, np.ones(len(group))])
        draws.append(_resampled_ratios(row[None], ones[None], resamples, seed + place)[0])
    value = np.mean([np.mean(np.asarray(group, dtype=np.float64)) for group in groups])
    return _interval(float(value), np.mean(draws, axis=0), confidence)


def difference_interval(
    first: Numbers,
    second: Numbers,
    denominators: Numbers,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Paired difference: (sum of first - sum of second) / sum of denominators, below 0 where first is lower.

    `first[i]`, `second[i]` and `denominators[i]` belong to the same sample and are drawn together.
    Raises `ValueError` if the lists are empty or differ in length.
    """
    rows = _matrix([first, second, denominators])
    top, bottom = rows[:2], np.stack([rows[2], rows[2]])
    value = np.subtract(*_ratio(top.sum(axis=1), bottom.sum(axis=1)))
    draws = np.subtract(*_resampled_ratios(top, bottom, resamples, seed))
    return _interval(value, draws, confidence)
