"""What a run begins with: a fault on any process is told by all of them, so that none waits for one that has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from parsit.train.world import World
from parsit.types import InputError

Result = TypeVar("Result")
Stage = Literal["data", "model", "step"]


class PreparationError(InputError):
    """What a run begins with cannot be had; `stage` says which part of it (`step`: the batch of its first step)."""

    def __init__(self, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.stage: Stage = stage


def agreed(world: World, stage: Stage, work: Callable[[], Result]) -> Result:
    """What `work` gives here, if every process could do it: none goes on and waits for one that could not.

    Raises:
        PreparationError: the fault of the first process that could not.
    """
    done: list[Result] = []
    fault: InputError | None = None
    try:
        done.append(work())
    except InputError as error:
        fault = error
    faults = [one for one in world.gather(None if fault is None else str(fault)) if one is not None]
    if faults:
        raise PreparationError(stage, faults[0]) from fault
    return done[0]
