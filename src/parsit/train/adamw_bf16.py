"""AdamW in 10 bytes a trained parameter instead of 18: moments in bfloat16, each weight in two halves.

fp32 AdamW takes 16 bytes (weight, gradient, two moments), and autocast 2 more for its copy. Here the model holds a
weight's upper 16 bits, as the bfloat16 that the matrix products use, and the optimizer holds the lower 16: together
they are the fp32 weight, so nothing of an update is lost. Gradients, and their sums over micro-batches, take the
weights' type. Moments are rounded stochastically: the second one moves by a thousandth of itself in a step, which
rounding to nearest would take for nothing (Zamirai et al. 2020, "Revisiting BFloat16 Training").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from parsit.train.world import local

# Elements that are updated at a time: bounds what lies in fp32 meanwhile (64 MB for each number of an element).
SLICE = 2**24


def split(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 to its nearest bfloat16 (upper 16 bits) and what is left, as int16; `join` gives the same fp32 again."""
    assert weight.dtype == torch.float32, f"only fp32 has two halves, not {weight.dtype}"
    bits = weight.contiguous().view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def join(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """The fp32 that `split` took apart."""
    return ((upper.contiguous().view(torch.int16).to(torch.int32) << 16) + lower).view(torch.float32)


def round_stochastically(values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """fp32 to one of the two nearest bfloat16, each as likely as it is near.

    Args:
        values: finite.
        noise: `int32`, uniform over 0 to 65,535, one for each value.
    """
    return ((values.view(torch.int32) + noise) >> 16).to(torch.int16).view(torch.bfloat16)


class AdamWBF16(torch.optim.Optimizer):
    """AdamW as torch's, with `exp_avg` and `exp_avg_sq` in bfloat16.

    fp32 parameters are updated as they are (shares of FSDP and ZeRO, whose copies for computing are their own).
    Parameters that `halve` took apart are put together for the update. The same gradients and seed give the same
    weights, on every replica and after a resume.

    Args:
        params: groups, as torch's optimizers take them.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, as AdamW's.
        seed: of the rounding.
        lower_halves: what `halve` gave for parameters among them.
        compiled: fuse the arithmetic of an update (torch.compile).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        lower_halves: Mapping[nn.Parameter, torch.Tensor] | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed
        self.lower_halves = lower_halves or {}
        self.update_slice = torch.compile(_update_slice, dynamic=True) if compiled else _update_slice

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "nothing here evaluates the loss again"
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._update(parameter, group, number)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any], number: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        for moment in ("exp_avg", "exp_avg_sq"):
            if state[moment].dtype != torch.bfloat16:  # torch's and DeepSpeed's loading give it the parameter's type
                state[moment] = state[moment].bfloat16()
        if state["step"].device.type != "cpu":  # where DeepSpeed's loading put it; each reading would wait for the GPU
            state["step"] = state["step"].cpu()
        state["step"] += 1
        step = int(state["step"])
        beta1, beta2 = group["betas"]
        weight, first, second = (local(t).view(-1) for t in (parameter, state["exp_avg"], state["exp_avg_sq"]))
        assert parameter.grad is not None, "only parameters with a gradient are updated"
        gradient = local(parameter.grad).reshape(-1)
        lower = self.lower_halves.get(parameter)
        # Drawn anew for each step and parameter: nothing of it has to be saved, and replicas draw the same.
        seed = ((self.seed * 2**24 + step) * 2**16 + number) % 2**63
        random = torch.Generator(weight.device).manual_seed(seed)
        # Tensors, as numbers that change with each step would be compiled anew.
        decay = torch.tensor(1 - group["lr"] * group["weight_decay"])
        size = torch.tensor(group["lr"] / (1 - beta1**step))
        scale = torch.tensor(1 / math.sqrt(1 - beta2**step))
        for start in range(0, weight.numel(), SLICE):
            here = slice(start, start + SLICE)
            noise = torch.randint(
                -(2**31), 2**31, weight[here].shape, generator=random, device=weight.device, dtype=torch.int32
            )
            self.update_slice(
                weight[here],
                None if lower is None else lower.view(-1)[here],
                gradient[here],
                first[here],
                second[here],
                noise,
                beta1,
                beta2,
                decay,
                size,
                scale,
                group["eps"],
            )


def _update_slice(
    weight: torch.Tensor,
    lower: torch.Tensor | None,
    gradient: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    noise: torch.Tensor,
    beta1: float,
    beta2: float,
    decay: torch.Tensor,
    size: torch.Tensor,
    scale: torch.Tensor,
    eps: float,
) -> None:
    """One AdamW update of a flat slice, in place; 32 random bits for each element round both moments."""
    whole = weight if lower is None else join(weight, lower)
    gradient = gradient.float()
    mean = first.float().lerp_(gradient, 1 - beta1)
    square = second.float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    first.copy_(round_stochastically(mean, noise & 0xFFFF))
    second.copy_(round_stochastically(square, (noise >> 16) & 0xFFFF))
    whole.mul_(decay).addcdiv_(mean.mul_(size), square.sqrt_().mul_(scale).add_(eps), value=-1)
    if lower is not None:
        upper, rest = split(whole)
        weight.copy_(upper)
        lower.copy_(rest)


def halve(parameters: Iterable[nn.Parameter]) -> dict[nn.Parameter, torch.Tensor]:
    """Turn fp32 parameters into bfloat16 ones, in place; their lower halves."""
    lower_halves = {}
    for parameter in parameters:
        parameter.data, lower_halves[parameter] = split(parameter.data)
    return lower_halves
