"""Ways of placing a computation on devices and processes. `choose` picks the one that the flags ask for."""

from __future__ import annotations

from parsit.config import TrainConfig
from parsit.train.objective import Objective
from parsit.train.strategies.base import DataParallel, Strategy
from parsit.train.world import World
from parsit.types import UsageError


def choose(objective: Objective, config: TrainConfig, world: World) -> Strategy:
    """The strategy of a run, with the objective wrapped and the optimizer built.

    Raises:
        UsageError: the flags do not fit the number of processes.
    """
    if config.tp > 1:
        if config.tp != world.size:
            raise UsageError(
                f"--tp {config.tp} with {world.size} processes: tensor parallelism takes all of them; it is not "
                "combined with data parallelism here, use --fsdp or --deepspeed for more processes than that"
            )
        from parsit.train.strategies.tensor import TensorParallel

        return TensorParallel(objective, config, world)
    if config.deepspeed:
        from parsit.train.strategies.zero import Zero

        return Zero(objective, config, world)
    if config.fsdp:
        if world.size == 1:
            raise UsageError("--fsdp with one process: there is nothing to shard over; start more, or leave it out")
        from parsit.train.strategies.fsdp import FullyShard

        return FullyShard(objective, config, world)
    return DataParallel(objective, config, world) if world.size > 1 else Strategy(objective, config, world)
