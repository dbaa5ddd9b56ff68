"""Batches travel from the loader's workers through shared memory, and there must be room for them.

Where there is not, a worker is killed in mid-run ("Bus error"), and nothing says why. Docker gives a container 64 MB.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from parsit.config import TrainConfig
from parsit.data.dataset import DataSet
from parsit.processing.processor import Features
from parsit.train.checks import Check
from parsit.train.memory import BatchSize
from parsit.types import Sample

SHARED_MEMORY = Path("/dev/shm")
# Of each position travel its id and label, its place or mask, and for most of them where an image token or a label is.
_POSITION_BYTES = 8 * 4
MB = 10**6


def check_shared_memory(
    config: TrainConfig,
    training: DataSet,
    looked_at: Sequence[tuple[Sample, Features]],
    largest: BatchSize,
    processes: int,
) -> Check:
    """Room in /dev/shm for the batches that the loaders of this machine hold ready.

    Not even for one of the largest: the run would be killed for certain. Not for all of them, most being of ordinary
    size: a warning, as a loader that keeps ahead of the training fills it.

    Args:
        config: the run's configuration.
        training: the data.
        looked_at: some of its samples, whose tiles are measured.
        largest: the largest micro-batch.
        processes: of the run, on this machine.
    """
    workers, ahead = config.dataloader_num_workers, config.dataloader_prefetch_factor
    if not workers or not SHARED_MEMORY.is_dir():
        return Check("shm", True, "no batch travels through /dev/shm")
    tile_bytes = _tile_bytes([features for _, features in looked_at])
    one, ordinary = batch_bytes(largest, tile_bytes), batch_bytes(ordinary_batch(config, training, largest), tile_bytes)
    # What the workers hold ready, and what a step that has begun has already taken.
    count = processes * (workers * ahead + config.gradient_accumulation_steps)
    needed = one + (count - 1) * ordinary
    free = shutil.disk_usage(SHARED_MEMORY).free
    detail = f"{count} batches of {ordinary / MB:,.1f} MB (the largest {one / MB:,.1f}): {needed / MB:,.0f} MB"
    detail += f"; /dev/shm has {free / MB:,.0f} MB"
    if needed <= free:
        return Check("shm", True, detail)
    remedy = f"give it more (docker run --shm-size {needed * 1.25 / 2**30:.1f}g, or --ipc=host), or lower "
    remedy += "--dataloader_prefetch_factor or --dataloader_num_workers"
    return Check("shm", one <= free, f"{detail}: workers would be killed (Bus error)", remedy, warns=one <= free)


def ordinary_batch(config: TrainConfig, training: DataSet, largest: BatchSize) -> BatchSize:
    """A micro-batch of samples of ordinary length: full where they are packed."""
    tokens, tiles = training.num_tokens, training.num_tiles
    if config.packing:
        return BatchSize(largest.positions, round(float(tiles.sum() / tokens.sum()) * largest.positions), 0)
    size = min(config.per_device_train_batch_size, len(tokens))
    return BatchSize(round(float(tokens.mean()) * size), round(float(tiles.mean()) * size), 0)


def batch_bytes(size: BatchSize, tile_bytes: int) -> int:
    """Bytes of a micro-batch's tensors."""
    return size.positions * _POSITION_BYTES + size.tiles * tile_bytes


def _tile_bytes(looked_at: Sequence[Features]) -> int:
    """Bytes of a tile, with its glyph targets where there are any; the most of those that were looked at."""
    return max((_bytes(one.pixels) + _bytes(one.glyph_targets) for one in looked_at), default=0)


def _bytes(tiles: torch.Tensor | None) -> int:
    """Bytes of the first of some tiles."""
    return 0 if tiles is None or not len(tiles) else tiles[0].numel() * tiles.element_size()


def processes_here(size: int) -> int:
    """How many of a run's processes are on this machine: as torchrun says, else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size))
