"""How a run's samples become steps: micro-batches, their number, a digest of what decides the order; and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from parsit.config import TrainConfig
from parsit.data.dataset import DataSet
from parsit.data.pack import best_fit
from parsit.data.plan import Packed, Padded, Plan, Work
from parsit.model import ParsitForConditionalGeneration
from parsit.model.flops import step_flops


def micro_batches_of(config: TrainConfig, data: DataSet, model: ParsitForConditionalGeneration) -> Packed | Padded:
    """The micro-batches that a run on `data` has: packed or padded, their work counted in the model's FLOPs."""
    work = _work_of(model)
    size = config.per_device_train_batch_size
    if not config.packing:
        return Padded(data.num_tokens, data.num_tiles, size, config.seed, work)
    max_tokens = size * config.model_max_length
    return Packed(data.num_tokens, data.num_tiles, max_tokens, config.max_tiles_per_pack, config.seed, work)


@dataclass(frozen=True, slots=True)
class ValidationBatches:
    """The batches of a validation, the same each time.

    `batches`: sample numbers. `positions`, `tiles`: `int64[batches]`, with padding. `flops`: of each.
    """

    batches: list[np.ndarray]
    positions: np.ndarray
    tiles: np.ndarray
    flops: dict[int, float]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def epoch(self, number: int) -> list[np.ndarray]:
        """All batches; every pass has the same."""
        return self.batches

    def work(self, samples: np.ndarray) -> float:
        """Estimated FLOPs of one batch, which its first sample names."""
        return self.flops[int(samples[0])]


def validation_batches(config: TrainConfig, data: DataSet, model: ParsitForConditionalGeneration) -> ValidationBatches:
    """How a run validates: in packs where it trains on packs, else padded, within the positions of a training batch.

    A validation has no gradients, but a batch of long samples may still be larger than any that is trained on.
    """
    chosen = np.arange(len(data))
    if 0 < config.max_eval_samples < len(data):
        rng = np.random.default_rng(config.seed)
        chosen = np.sort(rng.choice(len(data), config.max_eval_samples, replace=False))
    most = config.per_device_train_batch_size * config.model_max_length
    tokens, tiles = data.num_tokens[chosen], data.num_tiles[chosen]
    if config.packing:
        packs = best_fit(tokens, tiles, most, config.max_tiles_per_pack, np.arange(len(chosen)))
        groups = [packs[number] for number in range(len(packs))]
        positions = [int(tokens[group].sum()) for group in groups]
    else:
        groups = list(_padded_within(tokens, tiles, config.per_device_eval_batch_size, most))
        positions = [int(tokens[group].max()) * len(group) for group in groups]
    work, batches = _work_of(model), [chosen[group] for group in groups]
    lengths = [tokens[group] if config.packing else np.full(len(group), tokens[group].max()) for group in groups]
    flops = [float(work.of(one, tiles[group]).sum()) for one, group in zip(lengths, groups, strict=True)]
    return ValidationBatches(
        batches,
        np.array(positions),
        np.array([int(tiles[group].sum()) for group in groups]),
        {int(batch[0]): value for batch, value in zip(batches, flops, strict=True)},
    )


def _padded_within(tokens: np.ndarray, tiles: np.ndarray, size: int, most: int) -> Iterator[np.ndarray]:
    """Samples of like length, at most `size` of them and `most` positions with padding; one alone may be longer."""
    order = np.lexsort((tokens, tiles > 0))
    start = 0
    for end in range(1, len(order) + 1):
        if end < len(order):
            longest = int(tokens[order[start : end + 1]].max())
            if end - start < size and longest * (end + 1 - start) <= most:
                continue
        yield order[start:end]
        start = end


def _work_of(model: ParsitForConditionalGeneration) -> Work:
    flops = step_flops(model)
    of_images = flops.per_tile, flops.per_tile_squared, model.layout.max_tiles_per_image
    return Work(flops.per_token, flops.per_token_squared, *of_images)


def num_steps(config: TrainConfig, plan: Plan) -> int:
    """Optimizer steps of the run: `max_steps`, or as many as `num_train_epochs` passes over the data have."""
    return config.max_steps if config.max_steps > 0 else max(round(config.num_train_epochs * plan.steps_per_epoch), 1)


def validation_digest(config: TrainConfig, data: DataSet) -> str:
    """A digest of which samples are validated on: losses on others do not compare."""
    chosen = (config.max_eval_samples, config.seed) if 0 < config.max_eval_samples < len(data) else ()
    return hashlib.sha256(data.digest + repr(chosen).encode()).hexdigest()


def order_digest(config: TrainConfig, data: DataSet, per_step: int) -> str:
    """A digest of all that decides which sample is read at which step; accumulation and processes count together.

    Args:
        config: the run's configuration.
        data: what is trained on.
        per_step: micro-batches of a step over all processes.
    """
    order = (config.seed, config.per_device_train_batch_size, per_step)
    order += (config.packing, config.packing and config.model_max_length, config.max_tiles_per_pack)
    return hashlib.sha256(data.digest + repr(order).encode()).hexdigest()
