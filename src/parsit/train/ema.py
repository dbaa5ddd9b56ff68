"""An exponential moving average of the trained weights (`--ema_decay`): in fp32, placed as the parameters are.

After step t it moves towards the weights by 1 - min(decay, (1 + t) / (10 + t)), as TensorFlow's
`ExponentialMovingAverage(num_updates=t)` does: a short run's average is not that of its first weights. What is no
part of the model (the glyph loss's head) has none. Readings and validation see it in the weights' place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from parsit.files.manifest import EMA_FOLDER
from parsit.model.adapter_files import adapter_state, is_adapter_folder
from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.model.weight_files import read_weights
from parsit.train.adamw_bf16 import join, split
from parsit.train.strategies.base import Strategy
from parsit.train.world import local

_MODEL = "model."


class Ema:
    """The average of what a strategy trains; begins as the weights are.

    Args:
        strategy: holds the parameters; not DeepSpeed's.
        decay: share of the average that stays in a step, once there were enough of them.
    """

    def __init__(self, strategy: Strategy, decay: float) -> None:
        self.strategy, self.decay = strategy, decay
        self._parameters = {n: p for n, p in strategy.named_trained() if n.startswith(_MODEL)}
        self._averages = {name: self._weight(p).clone() for name, p in self._parameters.items()}

    @property
    def averages(self) -> list[torch.Tensor]:
        """What this process holds of the averages, `float32`."""
        return list(self._averages.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights as they are after optimizer step `step`, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        weights = [self._weight(parameter) for parameter in self._parameters.values()]
        torch._foreach_lerp_(self.averages, weights, share)  # type: ignore[attr-defined]  (public by its use)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters are the average; after it they are what they were, to the bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchange the parameters and their averages, one by one: there is room for one more of them, not for all."""
        for name, parameter in self._parameters.items():
            weight, average = self._weight(parameter).clone(), self._averages[name]
            if parameter in self.strategy.lower_halves:
                upper, lower = split(average)
                local(parameter).copy_(upper)
                self.strategy.lower_halves[parameter].copy_(lower)
            else:
                local(parameter).copy_(average)
            average.copy_(weight)
        for module in self.strategy.objective.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # it may hold whole what it gathered before the exchange

    def _weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """A parameter's share in this process, in fp32; not a copy where it is that already."""
        if parameter in self.strategy.lower_halves:
            return join(parameter.data, self.strategy.lower_halves[parameter])
        return local(parameter.detach())

    def whole(self) -> dict[str, torch.Tensor]:
        """The averages by the objective's names, each whole, on the first process. Called by all processes at once."""
        whole = {name: self.strategy.full(self._placed(name)) for name in self._averages}
        return whole if self.strategy.world.is_first else {}

    def _placed(self, name: str) -> torch.Tensor:
        parameter, average = self._parameters[name], self._averages[name]
        if not isinstance(parameter, DTensor):
            return average
        return DTensor.from_local(
            average, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        )

    def load(self, checkpoint: Path, model: ParsitForConditionalGeneration) -> bool:
        """Take the averages of a checkpoint; False: it has none, and they begin as the weights are now.

        Raises:
            InputError: a file that cannot be read.
            KeyError: a parameter that has none there.
        """
        folder = checkpoint / EMA_FOLDER
        if not folder.is_dir():
            return False
        state = adapter_state(model, folder) if is_adapter_folder(folder) else read_weights(folder)
        for name, parameter in self._parameters.items():
            whole = state[name.removeprefix(_MODEL)]
            self._averages[name].copy_(local(self.strategy.shard_like(whole, parameter)))
        return True


def replaced(state: dict[str, torch.Tensor], averages: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A whole state with averages in the place of what they are of, under each of its names where it is tied."""
    of = {id(state[name]): average for name, average in averages.items()}
    return {name: of.get(id(tensor), tensor) for name, tensor in state.items()}
