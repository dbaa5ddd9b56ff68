"""DeepSpeed ZeRO: stages 1 to 3, as a JSON file of DeepSpeed's configures them.

Parameters are frozen or freed, and the optimizer's groups made, before the engine exists; nothing changes them after.
"auto" values are filled in from the run's own flags, and what contradicts them is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from parsit.config import TrainConfig, zero_settings
from parsit.processing.collate import Batch
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import Group, groups_of
from parsit.train.parts import fits_bfloat16
from parsit.train.strategies.base import NormCheck, Strategy
from parsit.train.world import World
from parsit.types import InputError, ParsitError, UsageError

OWN_FOLDER = "deepspeed"


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
        self._keep_frozen(objective)
        (optimizer,) = super()._build_optimizers()
        if self.world.size == 1:
            waits = timedelta(seconds=self.config.ddp_timeout)
            self._deepspeed.init_distributed("nccl" if self.device.type == "cuda" else "gloo", timeout=waits)
        self.engine, wrapped, _, _ = self._deepspeed.initialize(model=objective, optimizer=optimizer, config=values)
        self._zero_optimizer: Any = wrapped  # steps like an optimizer, and is none by its type
        return self.engine

    def _keep_frozen(self, objective: Objective) -> None:
        """Set aside, on the first process, the frozen weights that DeepSpeed is about to round to bfloat16 for good."""
        self._frozen: dict[torch.Tensor, torch.Tensor] = {}
        if not self.bf16 or self.config.lora_enable:  # under adapters what is frozen is never saved
            return
        for parameter in objective.parameters():
            if not parameter.requires_grad and not fits_bfloat16(parameter):
                here = self.world.is_first
                self._frozen[parameter] = parameter.detach().cpu().clone() if here else torch.empty(0)

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
        """Nothing: DeepSpeed writes its own (`save_own`)."""
        return {}

    def load_optimizer_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Refuse what another strategy wrote. Raises `KeyError`."""
        raise KeyError("DeepSpeed's own state (the run was begun without --deepspeed)")

    def load_objective(self, tensors: dict[str, torch.Tensor]) -> None:
        """Nothing to do: `load_own` brings every parameter."""

    def save_own(self, folder: Path) -> None:
        """DeepSpeed's checkpoint of what is trained: each process its share.

        What is frozen comes back with the model: from the run's checkpoint, or from the base of its adapters.
        """
        frozen = self._frozen_names()

        def drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
            for name in frozen:
                state.pop(prefix + name, None)

        # DeepSpeed itself drops a tied weight under one of its names only, and would keep frozen embeddings as lm_head.
        hook = self.objective.register_state_dict_post_hook(drop_frozen)
        try:
            self.engine.save_checkpoint(
                str(folder), tag=OWN_FOLDER, save_latest=False, exclude_frozen_parameters=bool(frozen)
            )
        finally:
            hook.remove()

    def _frozen_names(self) -> set[str]:
        """Names of the weights that are not trained, tied ones under each of theirs."""
        named = self.objective.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if not parameter.requires_grad}

    def _load_module(self, src: dict[str, torch.Tensor], dst: nn.Module) -> None:
        """Put DeepSpeed's entries into the objective (the names of the arguments are DeepSpeed's).

        Only what is frozen may be missing; DeepSpeed knows strict and not strict alone.

        Raises:
            KeyError: a parameter that is trained now and is not there, or one that is there and is not known.
        """
        missing, unexpected = dst.load_state_dict(src, strict=False)
        for name in {*missing, *unexpected} - self._frozen_names():
            raise KeyError(name)

    def load_own(self, folder: Path) -> bool:
        """As in `Strategy`.

        Raises:
            InputError: DeepSpeed cannot load it, or it was written by another number of processes.
            KeyError: as `_load_module`.
        """
        if not (folder / OWN_FOLDER).is_dir():
            return False
        written_by = len(list((folder / OWN_FOLDER).glob("*_optim_states.pt")))
        if written_by != self.world.size:
            raise InputError(
                f"{folder.parent}: DeepSpeed's state was written by {written_by} processes and cannot be dealt out to "
                f"{self.world.size}: start {written_by}, or a new --output_dir with --model_name_or_path"
            )
        # DeepSpeed brings back the groups' rates and decays too; they are those of the flags now.
        ours = [{key: value for key, value in g.items() if key != "params"} for g in self._zero_optimizer.param_groups]
        path, _ = self.engine.load_checkpoint(str(folder), tag=OWN_FOLDER, custom_load_fn=self._load_module)
        if path is None:
            raise InputError(f"{folder / OWN_FOLDER}: DeepSpeed cannot load it; was it written by as many processes?")
        for group, own in zip(self._zero_optimizer.param_groups, ours, strict=True):
            group.update(own)
        return True


def _prepare_environment(world: World) -> None:
    """What DeepSpeed wants to know before it is imported."""
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29511")):
        os.environ.setdefault(name, value)
