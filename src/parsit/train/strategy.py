"""How the computation is placed: one process on a CPU or a GPU.

A strategy prepares the objective, runs forward and backward, clips, steps, and knows where the
state is that a checkpoint needs. The loop does not know which strategy it has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from parsit.config import TrainConfig
from parsit.processing.collate import Batch
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import Group, build_optimizers


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wants_bf16(choice: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: `auto` says yes where the machine's matrix units are made for it."""
    if choice != "auto":
        return choice == "true"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Both are private, but torch has no public way to ask: matrix tiles (Xeon) or bf16 dot products (Xeon, EPYC).
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


class SingleDevice:
    """One process, one device; weights and optimizer in fp32, matrix products in bf16 where wanted."""

    def __init__(self, objective: Objective, groups: list[Group], config: TrainConfig) -> None:
        self.device = pick_device()
        self.bf16 = wants_bf16(config.bf16, self.device)
        self.objective = objective.to(self.device)
        self.groups = groups
        self.max_grad_norm = config.max_grad_norm
        self.optimizers = build_optimizers(groups, config)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 matrix products inside, where wanted."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def forward(self, batch: Batch, counts: StepCounts) -> Losses:
        """One batch's losses."""
        with self.autocast():
            return self.objective(batch.to(self.device), counts)

    def clip(self) -> torch.Tensor:
        """The gradients' norm before clipping; they are clipped to `max_grad_norm` where that is not 0."""
        parameters = [parameter for _, parameter in self._named()]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.max_grad_norm and torch.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        return norm

    def step(self, factor: float) -> None:
        """One optimizer step at `factor` times the peak learning rates."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rates(self) -> dict[str, float]:
        """The rate of each group in the last step."""
        return {group["name"]: group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups}

    def optimizer_tensors(self) -> dict[str, torch.Tensor]:
        """The optimizers' state by parameter name, as `NAME/exp_avg` or `NAME/momentum_buffer`."""
        return {
            f"{name}/{key}": value
            for name, parameter in self._named()
            for optimizer in self.optimizers
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load_optimizer_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `optimizer_tensors` gave.

        Raises:
            KeyError: a parameter that is trained now and has no state there, or the other way round.
        """
        states: dict[str, dict[str, torch.Tensor]] = {}
        for entry, value in tensors.items():
            name, key = entry.rsplit("/", 1)
            states.setdefault(name, {})[key] = value.to(self.device)
        trained = dict(self._named())
        for name in states.keys() ^ trained.keys():
            raise KeyError(name)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                names = next(g.parameters for g in self.groups if g.name == group["name"])
                for name, parameter in names.items():
                    optimizer.state[parameter] = states[name]

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [item for group in self.groups for item in group.parameters.items()]
