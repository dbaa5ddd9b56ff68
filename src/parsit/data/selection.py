"""Which samples of a data file an epoch sees: LLaVA-NeXT's sampling strategies, and a weight.

Random choices depend on the seed and the source's name alone, so that every process makes the same ones, and a file
that is added changes nothing for the others.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import numpy as np

STRATEGY_IN_WORDS = "all, first:N, end:N or random:N, where N is a whole number or a percentage such as 10%"
StrategyKind = Literal["all", "first", "end", "random"]


@dataclass(frozen=True, slots=True)
class SamplingStrategy:
    """Which samples of a file take part.

    `amount`: how many, or how many per cent where `percent` is set; not looked at for `all`.
    """

    kind: StrategyKind = "all"
    amount: Fraction = Fraction(0)
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> SamplingStrategy:
        """`all`, `first:1000`, `end:10%`, `random:2.5%`. Raises `ValueError`."""
        kind, colon, amount = text.strip().partition(":")
        if kind == "all" and not colon:
            return cls()
        match = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(%?)", amount)
        if kind == "all" or kind not in get_args(StrategyKind) or not match:
            raise ValueError(f"must be {STRATEGY_IN_WORDS}")
        number, percent = Fraction(match[1]), bool(match[2])
        if number == 0:
            raise ValueError("takes no sample: take the entry out instead")
        if percent and number > 100:
            raise ValueError("takes more than 100%: use weight to see samples more than once")
        if not percent and number.denominator != 1:
            raise ValueError(f"must be {STRATEGY_IN_WORDS}")
        return cls(kind, number, percent)  # type: ignore[arg-type]  (looked at above)

    def count(self, num_samples: int) -> int:
        """How many samples take part, of so many in the file."""
        if self.kind == "all":
            return num_samples
        wanted = math.ceil(self.amount * num_samples / 100) if self.percent else int(self.amount)
        return min(wanted, num_samples)


@dataclass(frozen=True, slots=True)
class Source:
    """One data file with what a mixture says of it.

    `image_folder`: where its image paths start; None: the file's own folder. `weight`: how often an epoch sees each
    sample. `name`: different for every source of a run; random choices depend on it.
    """

    path: Path
    image_folder: Path | None = None
    strategy: SamplingStrategy = SamplingStrategy()
    weight: float = 1.0
    name: str = ""


def select(source: Source, num_samples: int, seed: int) -> np.ndarray:
    """Which rows of a source an epoch sees: `int64[n]`; first the strategy, then the weight.

    With weight 2.5 each chosen row comes twice, and a random half of them once more. The same for the same
    (seed, name, number of samples) in every process.
    """
    rows = np.arange(num_samples, dtype=np.int64)
    wanted = source.strategy.count(num_samples)
    if source.strategy.kind == "first":
        rows = rows[:wanted]
    elif source.strategy.kind == "end":
        rows = rows[num_samples - wanted :]
    elif source.strategy.kind == "random":
        rows = _some(rows, wanted, f"{seed} strategy {source.name}")
    times = int(source.weight)
    rest = math.floor((source.weight - times) * len(rows) + 0.5)
    return np.concatenate([*[rows] * times, _some(rows, rest, f"{seed} weight {source.name}")])


def _some(rows: np.ndarray, count: int, key: str) -> np.ndarray:
    """So many of the rows, drawn without replacement, in their order."""
    if count >= len(rows):
        return rows
    seed = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "little")
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])
