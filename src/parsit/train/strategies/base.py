"""What every way of placing a computation has in common.

A strategy wraps the objective, builds the optimizers over what it made of the parameters, runs forward and backward,
clips, steps, and gathers full tensors for a checkpoint. The loop does not know which one it has. Losses are already
divided by the step's counts over all processes, so gradients are summed, never averaged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

from parsit.config import TrainConfig
from parsit.model.adapters import leave_casts_to_autocast
from parsit.model.number_format import cpu_has_bf16
from parsit.processing.collate import Batch
from parsit.train.adamw_bf16 import AdamWBF16, halve, join, split
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import Group, build_optimizers, groups_of
from parsit.train.parts import halvable, narrow_frozen
from parsit.train.world import World, local

# So many numbers are added up in single precision, which shows in the eighth digit at most, in tensors from this size.
_RUN, _LARGE = 256, 2**16

# Looks at the loss and at the gradients' norm before an update, and raises where they are not finite.
NormCheck = Callable[[float], None]


def wants_bf16(choice: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: `auto` says yes where the machine's matrix units are made for it."""
    if choice != "auto":
        return choice == "true"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bf16()


def shares(tensor: torch.Tensor) -> int:
    """In how many shares a tensor lies on the processes; 1: each that has it has all of it."""
    if not isinstance(tensor, DTensor):
        return 1
    mesh = tensor.device_mesh
    return math.prod(mesh.size(dim) for dim, placed in enumerate(tensor.placements) if not placed.is_replicate())


def sums_of_squares(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Of each tensor's numbers, `float64[tensors]`, as exact as if they were added up in double precision."""
    pieces = [tensor if tensor.is_cuda or tensor.numel() < _LARGE else _norms_of_runs(tensor) for tensor in tensors]
    norms = torch._foreach_norm(pieces, 2, dtype=torch.float64)  # type: ignore[attr-defined]  (public by its use)
    return torch.stack(norms).square()


def _norms_of_runs(tensor: torch.Tensor) -> torch.Tensor:
    """Norms of short runs of a tensor on the CPU, in single precision, and what is left: together they have its norm.

    In double precision torch would first make a copy of twice the tensor's size.
    """
    flat = tensor.flatten()
    in_runs = flat.numel() // _RUN * _RUN
    norms = torch.linalg.vector_norm(flat[:in_runs].view(-1, _RUN), dim=1, dtype=torch.float32)
    return torch.cat([norms, flat[in_runs:]])


def states_by_name(tensors: dict[str, torch.Tensor], trained: Iterable[str]) -> dict[str, dict[str, torch.Tensor]]:
    """What `Strategy.optimizer_tensors` gave, parameter by parameter.

    Args:
        tensors: by `NAME/KEY`.
        trained: names of the parameters that are trained now.

    Raises:
        KeyError: a parameter that is trained now and has no state there, or the other way round.
    """
    states: dict[str, dict[str, torch.Tensor]] = {}
    for entry, value in tensors.items():
        name, key = entry.rsplit("/", 1)
        states.setdefault(name, {})[key] = value
    for name in sorted(states.keys() ^ set(trained)):
        raise KeyError(name)
    return states


class Strategy:
    """One process, one device; matrix products in bf16 where wanted.

    What is trained and the optimizer's state are in fp32, or as `--optim adamw_bf16` keeps them; frozen weights are
    narrowed where the run computes in bf16 (`parsit.train.parts.narrow_frozen`).

    Others derive from it and change what they must: mostly `_wrap` and `backward`.

    Args:
        objective: what is minimised; its parameters are frozen or freed already.
        config: the run's configuration.
        world: this process among all.
    """

    name = "one process"
    narrows_frozen = True

    def __init__(self, objective: Objective, config: TrainConfig, world: World) -> None:
        self.config, self.world, self.device = config, world, world.device
        self.bf16 = wants_bf16(config.bf16, self.device)
        self.objective = objective
        self.part_norms: dict[str, float] = {}
        # What weights have beyond their bfloat16, where the optimizer keeps it for them (`--optim adamw_bf16`).
        self.lower_halves: dict[nn.Parameter, torch.Tensor] = {}
        if self.bf16 and self.narrows_frozen:
            narrow_frozen(objective.model, config)
        if self.bf16:
            leave_casts_to_autocast(objective.model)
        # Ranks that share all data, and those that have data of their own.
        self.data_rank, self.data_size = world.rank, world.size
        self.module: nn.Module = self._wrap(objective)
        self.groups: list[Group] = groups_of(objective, config)
        self.optimizers: list[torch.optim.Optimizer] = self._build_optimizers()

    def _wrap(self, objective: Objective) -> nn.Module:
        objective = objective.to(self.device)
        if self.bf16 and self.config.optim == "adamw_bf16":
            self.lower_halves = halve(halvable(objective))
        return objective

    def _build_optimizers(self) -> list[torch.optim.Optimizer]:
        return build_optimizers(self.groups, self.config, self.lower_halves)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 matrix products inside, where wanted."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def forward(self, batch: Batch, counts: StepCounts) -> Losses:
        """One micro-batch's losses, divided by the step's counts."""
        with self.autocast():
            return self.module(batch.to(self.device), counts)

    def backward(self, batch: Batch, counts: StepCounts, last: bool) -> Losses:
        """Forward and backward of one micro-batch; `last`: it is the step's last, and gradients must be whole."""
        losses = self.forward(batch, counts)
        losses.total.backward()
        return losses

    def update(self, factor: float, check: NormCheck) -> float:
        """Clip, and step at `factor` times the peak learning rates; the norm before clipping.

        Raises:
            ParsitError: from `check`, before anything was changed.
        """
        norm = self._norm()
        check(norm)
        limit = self.config.max_grad_norm
        if limit and norm > limit:
            gradients = [local(p.grad) for _, p in self.named_trained() if p.grad is not None]
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))  # type: ignore[attr-defined]  (public by its use)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def _norm(self) -> float:
        """The norm of all gradients, and in `part_norms` that of each part.

        Summed in double precision: a sum of millions of squares in single precision is off in the third digit on a CPU,
        and differs with the way in which a gradient is cut.
        """
        parts = list(dict.fromkeys(group.part for group in self.groups))
        cut = any(isinstance(parameter, DTensor) for _, parameter in self.named_trained())
        squares = torch.stack([self._sum_of_squares(part, cut) for part in parts])
        if cut:
            torch.distributed.all_reduce(squares)
        of_parts = squares.tolist()
        self.part_norms = {part: math.sqrt(square) for part, square in zip(parts, of_parts, strict=True)}
        return math.sqrt(sum(of_parts))

    def _sum_of_squares(self, part: str, cut: bool) -> torch.Tensor:
        """Of the gradients of one part, a scalar; `cut`: all processes will add up what they have."""
        members = [p for group in self.groups if group.part == part for p in group.parameters.values()]
        held = [parameter for parameter in members if parameter.grad is not None]
        if not held:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        gradients = [local(parameter.grad) for parameter in held if parameter.grad is not None]
        squares = sums_of_squares(gradients)
        # What several processes hold counts for a part in each.
        holders = [self.world.size / shares(parameter) if cut else 1.0 for parameter in held]
        weights = torch.tensor(holders, dtype=torch.float64).reciprocal()
        return (squares * weights.to(self.device)).sum()

    @property
    def learning_rates(self) -> dict[str, float]:
        """The rate of each group in the last step."""
        return {group["name"]: group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups}

    def named_trained(self) -> list[tuple[str, nn.Parameter]]:
        """What is trained, by name in the objective."""
        return [item for group in self.groups for item in group.parameters.items()]

    def full(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter, or an optimizer's state of one, whole and on the CPU; called by all processes at once."""
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            # One dimension of the mesh after the other: `full_tensor` warns where a tensor is cut along two.
            for dim in range(whole.device_mesh.ndim):
                whole = whole.redistribute(placements=[Replicate()] * (dim + 1) + list(whole.placements[dim + 1 :]))
        return local(whole).cpu()

    def shard_like(self, whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The share that this process holds of a whole tensor, placed as `parameter` is."""
        if not isinstance(parameter, DTensor):
            return whole.to(self.device)
        mesh, share = parameter.device_mesh, whole
        # The mesh's last dimension cuts first, as FSDP cuts what tensor parallelism has left; `distribute_tensor` does
        # not take what such cuts leave uneven.
        for dim in reversed(range(mesh.ndim)):
            placed: Any = parameter.placements[dim]  # its class for what is cut twice is private
            if not placed.is_replicate():
                length, cut = share.shape[placed.dim], -(-share.shape[placed.dim] // mesh.size(dim))
                start = min(cut * mesh.get_local_rank(dim), length)
                share = share.narrow(placed.dim, start, min(cut, length - start))
        here = share.to(self.device, copy=True, memory_format=torch.contiguous_format)
        return DTensor.from_local(here, mesh, parameter.placements, shape=whole.shape, stride=whole.stride())

    def state_dict(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, torch.Tensor]:
        """The objective's state, each tensor whole, on the first process; empty on the others. Called by all at once.

        Args:
            wanted: which entries, by name; others are not gathered.
        """
        state: dict[str, torch.Tensor] = {}
        gathered: dict[int, torch.Tensor] = {}  # tied parameters stay one tensor, and are gathered once
        for name, tensor in self.objective.state_dict(keep_vars=True).items():
            if not wanted(name):
                continue
            if id(tensor) not in gathered:
                whole = self.whole_weight(tensor)
                # A run starts from fp32 and saves it, whatever it held in between.
                gathered[id(tensor)] = whole.float() if whole.dtype == torch.bfloat16 else whole
            if self.world.is_first:
                state[name] = gathered[id(tensor)]
        return state

    def whole_weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """One entry of the objective's state as `full`, both halves of it."""
        if isinstance(tensor, nn.Parameter) and tensor in self.lower_halves:
            return self.full(join(tensor.data, self.lower_halves[tensor]))
        return self.full(tensor)

    def optimizer_tensors(self) -> dict[str, torch.Tensor]:
        """The optimizers' whole state by parameter name, `NAME/exp_avg` and so on, on the first process."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.named_trained():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    whole = self.full(value)
                    if self.world.is_first:
                        tensors[f"{name}/{key}"] = whole
        return tensors

    def load_optimizer_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `optimizer_tensors` gave, whatever strategy gave it.

        Raises:
            KeyError: a parameter that is trained now and has no state there, or the other way round.
        """
        states = states_by_name(tensors, (name for name, _ in self.named_trained()))
        of_group = {group["name"]: optimizer for optimizer in self.optimizers for group in optimizer.param_groups}
        for group in self.groups:
            optimizer = of_group[group.name]
            for name, parameter in group.parameters.items():
                # A count of steps is no tensor of the parameter's shape and is never sharded. It lies where its
                # optimizer reads it: on the other side of the bus each parameter's would be waited for.
                counted = torch.device("cpu") if isinstance(optimizer, AdamWBF16) else parameter.device
                optimizer.state[parameter] = {
                    key: self.shard_like(value, parameter) if value.ndim else value.to(counted)
                    for key, value in states[name].items()
                }

    def load_objective(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back the parameters that are the objective's own (whole tensors by name)."""
        parameters = dict(self.objective.named_parameters())
        with torch.no_grad():
            for name, value in tensors.items():
                parameter = parameters[name]
                if parameter in self.lower_halves:
                    value, rest = split(value)
                    self.lower_halves[parameter].copy_(rest)
                parameter.copy_(self.shard_like(value, parameter))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, the model can be called and read with by itself, not through the objective."""
        with self.autocast():
            yield

    def check_replicas(self, say: Callable[[str], None]) -> None:
        """Look before a save whether what several processes hold whole is the same in each; called by all at once.

        Raises:
            ParsitError: it is not; the parameter is named.
        """


class DataParallel(Strategy):
    """Each process has the whole model and batches of its own; gradients are summed over all (DDP)."""

    name = "DDP"

    def _wrap(self, objective: Objective) -> nn.Module:
        return nn.parallel.DistributedDataParallel(
            super()._wrap(objective),
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def backward(self, batch: Batch, counts: StepCounts, last: bool) -> Losses:
        """As in `Strategy`; gradients travel once a step, after the last micro-batch."""
        assert isinstance(self.module, nn.parallel.DistributedDataParallel)
        with contextlib.nullcontext() if last else self.module.no_sync():
            losses = self.forward(batch, counts)
            # DDP averages over processes; the losses are shares of one sum.
            (losses.total * self.world.size).backward()
        return losses
