"""The plan: which samples share a batch, and which batches make one optimizer step.

A pure function of the lengths, the seed and the epoch. So a position in the data is one number,
the step, and resuming is looking the step up, not replaying. Samples of like length share a batch
(little padding); the order of the batches is random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np

# Samples are sorted by length within random groups of this many batches: large enough for little
# padding, small enough that an epoch's order stays random.
_BATCHES_PER_GROUP = 64


class Plan:
    """Batches of sample numbers for every optimizer step of every epoch.

    Args:
        lengths: `int[samples]`, the length of each sample in tokens.
        batch_size: samples in one batch.
        batches_per_step: batches in one optimizer step (gradient accumulation).
        seed: decides the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, batches_per_step: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.batches_per_step = batches_per_step
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data; the last may be smaller."""
        return math.ceil(math.ceil(len(self.lengths) / self.batch_size) / self.batches_per_step)

    def step(self, number: int) -> list[np.ndarray]:
        """The batches of optimizer step `number` (from 0), each an array of sample numbers."""
        epoch, within = divmod(number, self.steps_per_epoch)
        batches = self._epoch(epoch)
        return batches[within * self.batches_per_step : (within + 1) * self.batches_per_step]

    def batches(self, first_step: int, last_step: int) -> Iterator[np.ndarray]:
        """All batches of the steps `first_step` to `last_step` - 1, in order."""
        for number in range(first_step, last_step):
            yield from self.step(number)

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        size = self.batch_size * _BATCHES_PER_GROUP
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        # A stable sort keeps samples of equal length in their random order.
        ordered = [group[np.argsort(self.lengths[group], kind="stable")] for group in groups]
        batches = [
            group[start : start + self.batch_size]
            for group in ordered
            for start in range(0, len(group), self.batch_size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]
