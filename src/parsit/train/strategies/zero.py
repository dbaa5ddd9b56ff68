"""DeepSpeed ZeRO: stages 1 to 3, as a JSON file of DeepSpeed's configures them.

Parameters are frozen or freed, and the optimizer's groups made, before the engine exists; nothing changes them after.
"auto" values are filled in from the run's own flags, and what contradicts them is refused.

DeepSpeed's own checkpoints are pickles, one for each process. They are neither written nor read: weights and optimizer
state are gathered by parameter name through its public functions (`deepspeed.utils.safe_get_full_…`), and dealt out
again, so that a run goes on with another number of processes, or under another strategy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from parsit.config import TrainConfig, zero_settings
from parsit.processing.collate import Batch
from parsit.train.adamw_bf16 import AdamWBF16
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import Group, groups_of
from parsit.train.parts import fits_bfloat16
from parsit.train.strategies.base import NormCheck, Strategy, states_by_name
from parsit.train.world import World
from parsit.types import ParsitError, UsageError

# What AdamW keeps for each parameter, besides the count of steps.
MOMENTS = ("exp_avg", "exp_avg_sq")


def read_config(path: str | Path, config: TrainConfig, world_size: int, bf16: bool, hidden_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration with every "auto" filled in.

    Args:
        path: the JSON file, or the name of one that ships with Parsit.
        config: the run's flags.
        world_size: processes.
        bf16: whether the run computes in bfloat16.
        hidden_size: of the language model; sizes of ZeRO-3's buffers follow from it.

    Raises:
        InputError: the file cannot be read.
        UsageError: a value that contradicts a flag.
    """
    values = zero_settings(path)
    batch = config.per_device_train_batch_size
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch,
        # The loop itself says which micro-batch is a step's last; a step may have fewer than others.
        "gradient_accumulation_steps": 1,
        "train_batch_size": batch * world_size,
        "gradient_clipping": config.max_grad_norm,
        "bf16.enabled": bf16,
        "fp16.enabled": False,
        "zero_optimization.reduce_bucket_size": hidden_size * hidden_size,
        "zero_optimization.stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "zero_optimization.stage3_param_persistence_threshold": 10 * hidden_size,
        "zero_optimization.sub_group_size": 10**9,
        "zero_optimization.stage3_max_live_parameters": 10**9,
        "zero_optimization.stage3_max_reuse_distance": 10**9,
    }
    ignored = ("gradient_accumulation_steps", "train_batch_size")
    for key in ("optimizer", "scheduler"):
        if values.pop(key, None) not in (None, "auto"):
            raise UsageError(f"--deepspeed {path}: '{key}' is decided by flags such as --learning_rate: take it out")
    for name, value in ours.items():
        *folders, key = name.split(".")
        place = values
        for folder in folders:
            place = place.setdefault(folder, {}) if folder == "bf16" else place.get(folder, {})
        found = place.get(key)
        if found == "auto" or name in ignored or (found is None and not folders) or name == "bf16.enabled":
            place[key] = value
        elif found is not None and name in ("train_micro_batch_size_per_gpu", "gradient_clipping") and found != value:
            raise UsageError(f'--deepspeed {path}: {name} is {found}, but the flags say {value}: write "auto"')
        if place.get(key) == "auto":
            place[key] = value
    if values.get("fp16", {}).get("enabled"):
        raise UsageError(f"--deepspeed {path}: fp16 is not supported (its losses overflow): use bf16")
    if values.get("zero_optimization", {}).get("offload_optimizer", {}).get("device") == "nvme":
        raise UsageError(f"--deepspeed {path}: offload_optimizer to nvme cannot be resumed: use cpu")
    left = _autos(values)
    if left:
        raise UsageError(f'--deepspeed {path}: "auto" is not known for {", ".join(left)}: give a value')
    # The optimizer is torch's AdamW, which has no build step; DeepSpeed would insist on its own when it offloads.
    return {"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True, "wall_clock_breakdown": False,
            "steps_per_print": 10**9} | values  # fmt: skip


def _autos(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = [prefix + key for key, value in values.items() if value == "auto"]
    for key, value in values.items():
        if isinstance(value, dict):
            found += _autos(value, f"{prefix}{key}.")
    return found


class Zero(Strategy):
    """DeepSpeed's engine around the objective."""

    name = "ZeRO"
    narrows_frozen = False  # the engine keeps all weights in bfloat16 anyway

    def __init__(self, objective: Objective, config: TrainConfig, world: World) -> None:
        _prepare_environment(world)
        try:
            import deepspeed
        except ImportError as error:
            raise ParsitError("--deepspeed needs the extra: pip install parsit[deepspeed]") from error
        # On a CPU DeepSpeed would first compile a kernel that only its inference needs, into a folder that environments
        # share, under a lock: where that was cut short once, every later start waits for ever.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._deepspeed = deepspeed
        super().__init__(objective, config, world)

    def _wrap(self, objective: Objective) -> nn.Module:
        self.groups: list[Group] = groups_of(objective, self.config)
        hidden = objective.model.config.text_config.hidden_size
        values = read_config(str(self.config.deepspeed), self.config, self.world.size, self.bf16, hidden)
        self.stage = int(values.get("zero_optimization", {}).get("stage", 0))
        self.name = f"ZeRO-{self.stage}"
        masters = self._keep_exact(objective)
        (optimizer,) = super()._build_optimizers()
        if self.world.size == 1:
            waits = timedelta(seconds=self.config.ddp_timeout)
            self._deepspeed.init_distributed("nccl" if self.device.type == "cuda" else "gloo", timeout=waits)
        wrapped: Any
        self.engine, wrapped, _, _ = self._deepspeed.initialize(model=objective, optimizer=optimizer, config=values)
        self._zero_optimizer: Any = wrapped  # steps like an optimizer, and is none by its type
        self._inner: torch.optim.Optimizer = getattr(wrapped, "optimizer", wrapped)
        for parameter, master in masters.items():
            self._put(parameter, self._from_first(master))
        return self.engine

    def _keep_exact(self, objective: Objective) -> dict[nn.Parameter, torch.Tensor]:
        """Set aside, on the first process, the weights that DeepSpeed is about to round to bfloat16.

        Frozen ones are kept for checkpoints. Trained ones are returned: DeepSpeed would make its fp32 weights of what
        it has rounded. On the other processes they are empty, of their shape.
        """
        self._frozen: dict[torch.Tensor, torch.Tensor] = {}
        masters: dict[nn.Parameter, torch.Tensor] = {}
        if not self.bf16:
            return masters
        for parameter in objective.parameters():
            if parameter.requires_grad:
                here = parameter.detach()  # DeepSpeed gives the parameter other data
                masters[parameter] = here if self.world.is_first else torch.empty_like(here, device="meta")
            elif not self.config.lora_enable and not fits_bfloat16(parameter):  # under adapters they are never saved
                here = self.world.is_first
                self._frozen[parameter] = parameter.detach().cpu().clone() if here else torch.empty(0)
        return masters

    def _from_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first process's tensor, on all; elsewhere only its shape counts."""
        if self.world.is_first:
            whole = tensor.to(self.device).contiguous()
        else:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
        if self.world.size > 1:
            dist.broadcast(whole, src=0)
        return whole

    def _build_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._zero_optimizer]

    def forward(self, batch: Batch, counts: StepCounts) -> Losses:
        """As in `Strategy`; the weights are in bfloat16 themselves where that is wanted."""
        return self.module(batch.to(self.device), counts)

    def backward(self, batch: Batch, counts: StepCounts, last: bool) -> Losses:
        """As in `Strategy`."""
        self.engine.set_gradient_accumulation_boundary(last)
        losses = self.forward(batch, counts)
        # DeepSpeed averages over processes; the losses are shares of one sum.
        self.engine.backward(losses.total * self.world.size)
        return losses

    def update(self, factor: float, check: NormCheck) -> float:
        """As in `Strategy`; where the norm is not finite DeepSpeed updates nothing, and `check` raises after."""
        for group in self._zero_optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.engine.step()
        found = self.engine.get_global_grad_norm()
        assert found is not None, "a step was made"
        norm = float(found)
        check(norm)
        return norm

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """As in `Strategy`. Modules gather what they need when they are called; the model itself is not called."""
        own = [p for p in self.objective.model.parameters(recurse=False) if hasattr(p, "ds_id")]
        with self._deepspeed.zero.GatheredParameters(own):
            yield

    def full(self, tensor: torch.Tensor) -> torch.Tensor:
        """As in `Strategy`; a parameter that is in shares is gathered for a moment."""
        if not hasattr(tensor, "ds_id"):
            return super().full(tensor)
        with self._deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().cpu().clone() if self.world.is_first else torch.empty(0)

    def whole_weight(self, tensor: torch.Tensor) -> torch.Tensor:
        """As in `Strategy`; from the fp32 master weights where the model itself is in bfloat16."""
        from deepspeed.utils import safe_get_full_fp32_param

        if tensor in self._frozen:
            return self._frozen[tensor]
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            master = safe_get_full_fp32_param(tensor)
            if master is not None:
                return master.detach().cpu().clone()
        return self.full(tensor)

    def optimizer_tensors(self) -> dict[str, torch.Tensor]:
        """As in `Strategy`: each parameter's share of DeepSpeed's flat state, gathered under the parameter's name."""
        if self._inner is self._zero_optimizer:  # stage 0 in fp32: the optimizer holds the parameters themselves
            return super().optimizer_tensors()
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_states()
        of_any = next(iter(self._inner.state.values()))
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.named_trained():
            for key in MOMENTS:
                whole = safe_get_full_optimizer_state(parameter, key)
                assert whole is not None, "it is trained"
                if self.world.is_first:
                    tensors[f"{name}/{key}"] = whole.detach().to("cpu", of_any[key].dtype, copy=True)
            if self.world.is_first:
                tensors[f"{name}/step"] = of_any["step"].detach().cpu().clone()
        return tensors

    def load_optimizer_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """As in `Strategy`. DeepSpeed counts steps once, so that parameters which differ in theirs are refused.

        Raises:
            KeyError: as in `Strategy`, or a parameter that was updated more or less often than the others.
        """
        if self._inner is self._zero_optimizer:
            super().load_optimizer_tensors(tensors)
            return
        states = states_by_name(tensors, (name for name, _ in self.named_trained()))
        count = next(iter(states.values()))["step"]
        for name, state in states.items():
            if not torch.equal(state["step"], count):
                raise KeyError(f"{name} that is as old as that of the others")
        self._begin_states(count)
        for name, parameter in self.named_trained():
            for key in MOMENTS:
                self._put(parameter, states[name][key], key)

    def _begin_states(self, count: torch.Tensor) -> None:
        """Make the state that the optimizer would make in its first step, empty, after so many steps."""
        is_narrow = isinstance(self._inner, AdamWBF16)
        if self.stage == 3:
            flats = self._zero_optimizer.fp32_partitioned_groups_flat
        else:
            flats = [flat for group in self._inner.param_groups for flat in group["params"]]
        for flat in flats:
            moments = {key: torch.zeros_like(flat, dtype=torch.bfloat16 if is_narrow else None) for key in MOMENTS}
            step = count.to("cpu" if is_narrow else flat.device, copy=True)
            self._inner.state[flat] = {"step": step, **{key: moment.detach() for key, moment in moments.items()}}
        self._link_states()

    def _link_states(self) -> None:
        """Let parameters find their part of the flat state.

        DeepSpeed does so once, in its first step: after it has updated the first group, when others have no state yet.
        """
        if self.stage < 3:
            self._zero_optimizer._hp_optimizer_states_linked = False
            self._zero_optimizer._lazy_init_hp_params_optimizer_state()

    def _put(self, parameter: nn.Parameter, whole: torch.Tensor, key: str | None = None) -> None:
        """Set this process's share of a parameter's state, or of its fp32 weight where `key` is None."""
        from deepspeed import utils

        if not hasattr(parameter, "ds_id"):
            whole = whole.to(self.device)
            if key is None:
                utils.safe_set_full_fp32_param(parameter, whole)
            else:
                utils.safe_set_full_optimizer_state(parameter, whole, key)
            return
        # The last share may reach beyond the tensor, where DeepSpeed's function for whole tensors fails.
        placed: Any = parameter  # DeepSpeed's attributes
        length = placed.ds_tensor.numel()
        share = whole.flatten()[length * dist.get_rank(placed.ds_process_group) :][:length]
        share = nn.functional.pad(share, (0, length - share.numel())).to(self.device)
        if key is None:
            utils.safe_set_local_fp32_param(parameter, share)
        else:
            utils.safe_set_local_optimizer_state(parameter, share, key)

    @torch.no_grad()
    def load_objective(self, tensors: dict[str, torch.Tensor]) -> None:
        """As in `Strategy`: what the model computes with, and the fp32 weights behind it."""
        parameters = dict(self.objective.named_parameters())
        for name, value in tensors.items():
            parameter = parameters[name]
            with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(value)
            self._put(parameter, value)


def _prepare_environment(world: World) -> None:
    """What DeepSpeed wants to know before it is imported."""
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29511")):
        os.environ.setdefault(name, value)
