"""How a run's samples become steps: micro-batches, the number of steps, and a digest of what decides the order."""

from __future__ import annotations

import hashlib

from parsit.config import TrainConfig
from parsit.data.dataset import DataSet
from parsit.data.plan import Packed, Padded, Plan, Work
from parsit.model import ParsitForConditionalGeneration
from parsit.model.flops import step_flops


def micro_batches_of(config: TrainConfig, data: DataSet, model: ParsitForConditionalGeneration) -> Packed | Padded:
    """The micro-batches that a run on `data` has: packed or padded, their work counted in the model's FLOPs."""
    flops = step_flops(model)
    work = Work(flops.per_token, flops.per_token_squared, flops.per_tile)
    size = config.per_device_train_batch_size
    if not config.packing:
        return Padded(data.num_tokens, data.num_tiles, size, config.seed, work)
    max_tokens = size * config.model_max_length
    return Packed(data.num_tokens, data.num_tiles, max_tokens, config.max_tiles_per_pack, config.seed, work)


def num_steps(config: TrainConfig, plan: Plan) -> int:
    """Optimizer steps of the run: `max_steps`, or as many as `num_train_epochs` passes over the data have."""
    return config.max_steps if config.max_steps > 0 else max(round(config.num_train_epochs * plan.steps_per_epoch), 1)


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
