"""FSDP2: each process holds a share of every weight, gradient and optimizer state, and gathers layer by layer.

Gradients are summed over the processes, and cut into shares, in a step's last backward pass alone: until then each
process adds up its own, whole, in fp32. That saves all but one of a step's rounds and costs 4 bytes a trained
parameter; `--fsdp_sync_each_batch` is for where they are not there.

Source: torch's `fully_shard`. Layers of towers and decoder are sharded one by one; embeddings, `lm_head` (which may be
the same tensor) and what else there is form the root, which the objective's own forward gathers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from parsit.processing.collate import Batch
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.parts import layers_of
from parsit.train.strategies.base import Strategy


class FullyShard(Strategy):
    """FSDP2 over all processes."""

    name = "FSDP2"

    def _wrap(self, objective: Objective) -> nn.Module:
        return self._sharded(objective, init_device_mesh(self.device.type, (self.world.size,)))

    def _sharded(self, objective: Objective, mesh: DeviceMesh) -> Objective:
        """The objective, its parameters in shares over a mesh of one dimension."""
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        policy = half if self.bf16 else MixedPrecisionPolicy()
        model = objective.model
        parts = [*layers_of(model.vision_tower), model.vision_tower, *layers_of(model.get_decoder())]
        for part in [*parts, objective]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
        for module in objective.modules():
            if isinstance(module, FSDPModule):
                # The losses are shares of one sum: gradients are summed, not averaged.
                module.set_gradient_divide_factor(1.0)
                if self.device.type == "cpu":
                    module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums
        return objective

    def backward(self, batch: Batch, counts: StepCounts, last: bool) -> Losses:
        """As in `Strategy`."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(last or self.config.fsdp_sync_each_batch)
        return super().backward(batch, counts, last)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """As in `Strategy`: what belongs to the root is gathered here, as the root itself is not called."""
        assert isinstance(self.module, FSDPModule)
        self.module.unshard()
        try:
            yield
        finally:
            self.module.reshard()
