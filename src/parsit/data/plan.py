"""The plan: which samples share a micro-batch, which micro-batches make one optimizer step, and who computes which.

A pure function of lengths, seed and sizes. A position in the data is one number, the step; resuming is looking the step
up, not replaying. The order is global: a step's micro-batches are the same for any number of processes, and only
inside the step are they dealt out to ranks, so that each has equal work.

Packed: a micro-batch is a pack, put together once and in another order in each epoch. Padded: samples of like length
and modality share a micro-batch, drawn anew in each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from parsit.data.pack import Packs, best_fit

# Samples are sorted by length within random groups of this many batches: large enough for little padding, small
# enough that an epoch's order stays random.
_BATCHES_PER_GROUP = 64


@dataclass(frozen=True, slots=True)
class Work:
    """Estimated FLOPs of a forward and backward pass: what ranks are balanced by.

    `per_token`: of the language model's matrices. `per_token_squared`: of its attention. `per_tile`: of tower and
    projector. `per_tile_squared`: of the attention among an image's tiles (patches, under native resolution), of which
    it has `max_tiles_per_image` at most. By default a token counts one and nothing else counts.
    """

    per_token: float = 1.0
    per_token_squared: float = 0.0
    per_tile: float = 0.0
    per_tile_squared: float = 0.0
    max_tiles_per_image: int = 1

    def of(self, num_tokens: np.ndarray, num_tiles: np.ndarray) -> np.ndarray:
        """FLOPs of each sample, as if it stood alone, and as if all but one of its images had the full size."""
        seen = np.minimum(num_tiles, self.max_tiles_per_image)
        of_text = (self.per_token + self.per_token_squared * num_tokens) * num_tokens
        return of_text + (self.per_tile + self.per_tile_squared * seen) * num_tiles


class MicroBatches(Protocol):
    """Ways of putting samples together."""

    def __len__(self) -> int:
        """Micro-batches in one epoch: the same number in each."""
        ...

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """The micro-batches of one epoch in their order, each an array of sample numbers."""
        ...

    def work(self, samples: np.ndarray) -> float:
        """Estimated FLOPs of one micro-batch."""
        ...


class Packed:
    """Packs of samples that cannot see each other.

    Args:
        num_tokens: `int[samples]`.
        num_tiles: `int[samples]`.
        max_tokens: tokens of a pack.
        max_tiles: tiles of a pack; 0: no limit.
        seed: decides the order.
        work: estimates FLOPs.
    """

    def __init__(
        self,
        num_tokens: np.ndarray,
        num_tiles: np.ndarray,
        max_tokens: int,
        max_tiles: int = 0,
        seed: int = 0,
        work: Work | None = None,
    ) -> None:
        self.seed = seed
        order = np.random.default_rng(seed).permutation(len(num_tokens))
        self.packs: Packs = best_fit(num_tokens, num_tiles, max_tokens, max_tiles, order)
        self.costs = (work or Work()).of(num_tokens, num_tiles)
        self.fill = float(num_tokens.sum()) / (len(self.packs) * max_tokens)

    def __len__(self) -> int:
        """Number of packs."""
        return len(self.packs)

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """The packs in the epoch's order."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.packs))
        return _Picked(self.packs, order)

    def work(self, samples: np.ndarray) -> float:
        """FLOPs of a pack: of its samples, each alone."""
        return float(self.costs[samples].sum())


@dataclass(frozen=True, slots=True)
class _Picked(Sequence[np.ndarray]):
    """Packs in some order, made as they are asked for."""

    packs: Packs
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int | slice) -> np.ndarray | list[np.ndarray]:  # type: ignore[override]
        if isinstance(number, slice):
            return [self.packs[pack] for pack in self.order[number].tolist()]
        return self.packs[int(self.order[number])]


class Padded:
    """Batches of a fixed number of samples of like length.

    Args:
        num_tokens: `int[samples]`.
        num_tiles: `int[samples]`; samples with and without images do not share a batch where that can be had.
        batch_size: samples in a batch; the epoch's last one may hold fewer.
        seed: decides the order.
        work: estimates FLOPs.
    """

    def __init__(
        self, num_tokens: np.ndarray, num_tiles: np.ndarray, batch_size: int, seed: int = 0, work: Work | None = None
    ) -> None:
        self.num_tokens, self.num_tiles, self.batch_size, self.seed = num_tokens, num_tiles, batch_size, seed
        self._work = work or Work()

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.num_tokens) / self.batch_size)

    def epoch(self, number: int) -> Sequence[np.ndarray]:
        """The batches of one epoch."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.num_tokens))
        size = self.batch_size * _BATCHES_PER_GROUP
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        # The sort is stable: samples of one length stay in their random order.
        ordered = [group[np.lexsort((self.num_tokens[group], self.num_tiles[group] > 0))] for group in groups]
        batches = [
            group[start : start + self.batch_size]
            for group in ordered
            for start in range(0, len(group), self.batch_size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def work(self, samples: np.ndarray) -> float:
        """FLOPs of a batch: each sample costs as much as the longest."""
        longest = np.full(len(samples), self.num_tokens[samples].max())
        return float(self._work.of(longest, self.num_tiles[samples]).sum())


class Plan:
    """Micro-batches of sample numbers for every optimizer step of every epoch.

    Args:
        micro_batches: how samples are put together.
        per_step: micro-batches in one optimizer step, over all processes (accumulation × processes).
    """

    def __init__(self, micro_batches: MicroBatches, per_step: int) -> None:
        self.micro_batches = micro_batches
        self.per_step = per_step
        self._epoch = lru_cache(maxsize=2)(micro_batches.epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data; the last may be smaller."""
        return math.ceil(len(self.micro_batches) / self.per_step)

    def step(self, number: int) -> list[np.ndarray]:
        """All micro-batches of optimizer step `number` (from 0), each an array of sample numbers."""
        epoch, within = divmod(number, self.steps_per_epoch)
        return list(self._epoch(epoch)[within * self.per_step : (within + 1) * self.per_step])

    def share(self, number: int, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
        """The micro-batches of one step that one rank computes, in order.

        Every rank gets the same number of them; where a step's do not go round, some are empty. Those that are
        computed at the same time are of like work, and the rank with the least so far gets the largest.
        """
        units = self.step(number)
        if world_size == 1:
            return units
        work = np.array([self.micro_batches.work(unit) for unit in units])
        largest_first = np.argsort(-work, kind="stable").tolist()
        load = np.zeros(world_size)
        mine = []
        for start in range(0, len(units), world_size):
            group = largest_first[start : start + world_size]
            ranks = np.argsort(load, kind="stable").tolist()
            given = dict(zip(ranks, group, strict=False))
            for owner, unit in given.items():
                load[owner] += work[unit]
            mine.append(units[given[rank]] if rank in given else np.empty(0, np.int64))
        return mine

    def shares(self, first_step: int, last_step: int, rank: int = 0, world_size: int = 1) -> Iterator[np.ndarray]:
        """One rank's micro-batches of the steps `first_step` to `last_step` - 1, in order."""
        for number in range(first_step, last_step):
            yield from self.share(number, rank, world_size)
