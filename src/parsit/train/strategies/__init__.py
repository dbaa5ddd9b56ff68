"""Ways of placing a computation on devices and processes. `choose` picks the one that the flags ask for."""

from __future__ import annotations

from parsit.config import TrainConfig
from parsit.train.objective import Objective
from parsit.train.strategies.base import DataParallel, Strategy
from parsit.train.world import World, data_size
from parsit.types import UsageError


def choose(objective: Objective, config: TrainConfig, world: World) -> Strategy:
    """The strategy of a run, with the objective wrapped and the optimizer built.

    Raises:
        UsageError: the flags do not fit the number of processes.
    """
    of_data = data_size(world.size, config.tp)
    if config.fsdp and of_data == 1:
        alone = f"--tp {config.tp} and {config.tp} processes" if config.tp > 1 else "one process"
        raise UsageError(f"--fsdp with {alone}: there is nothing to shard over; start more, or leave it out")
    if config.tp > 1:
        from parsit.train.strategies.tensor import TensorAndFullyShard, TensorParallel

        return (TensorAndFullyShard if config.fsdp else TensorParallel)(objective, config, world)
    if config.deepspeed:
        from parsit.train.strategies.zero import Zero

        return Zero(objective, config, world)
    if config.fsdp:
        from parsit.train.strategies.fsdp import FullyShard

        return FullyShard(objective, config, world)
    return DataParallel(objective, config, world) if world.size > 1 else Strategy(objective, config, world)
