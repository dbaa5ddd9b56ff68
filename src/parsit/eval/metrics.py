"""metrics.jsonl of a training run, as one series for each number in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parsit.types import InputError


@dataclass(frozen=True, slots=True)
class Series:
    """One number over the steps at which it was written; both tuples are equally long."""

    steps: tuple[float, ...]
    values: tuple[float, ...]

    def smoothed(self, reach: int) -> Series:
        """Each value's mean with its `reach` neighbours on either side (fewer at the ends): no lag.

        Values that are not finite are left out; a stretch without any other is NaN.
        """
        values = np.array(self.values)
        finite = np.isfinite(values)
        sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0))])
        counts = np.concatenate([[0], np.cumsum(finite)])
        place = np.arange(len(values))
        low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
        number = counts[high] - counts[low]
        means = np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)
        return Series(self.steps, tuple(means.tolist()))


def _row(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{number}: not a line of JSON ({error.msg}): remove it or train again") from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
        raise InputError(f"{path}:{number}: has no number under 'step': is this a training run's metrics.jsonl?")
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def read_metrics(path: Path) -> dict[str, Series]:
    """Each number of a metrics.jsonl but `step`, over the steps whose rows hold it.

    Raises `InputError` that names the line if the file cannot be read or a row has no step.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the training run's metrics cannot be read: {error}") from error
    found: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _row(path, number, line)
            step = row.pop("step")
            for name, value in row.items():
                found.setdefault(name, []).append((step, value))
    return {name: Series(*zip(*points, strict=True)) for name, points in found.items()}
