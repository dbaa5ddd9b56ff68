"""Tensor parallelism: processes share each matrix of the language model, and all read the same batches.

Our own plan, because transformers' fails on tied embeddings under 4.53.2 (Megatron-LM, Shoeybi et al. 2019, section 3):
queries, keys, values, gate and up by their output, the output of attention and MLP by their input, embeddings and
`lm_head` by vocabulary. What is not cut (norms, tower, projector) is whole on each process and computed by each.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from parsit.train.objective import Objective
from parsit.train.strategies.base import Strategy
from parsit.types import UsageError

LAYER_PLAN = {
    "self_attn.q_proj": ColwiseParallel,
    "self_attn.k_proj": ColwiseParallel,
    "self_attn.v_proj": ColwiseParallel,
    "self_attn.o_proj": RowwiseParallel,
    "mlp.gate_proj": ColwiseParallel,
    "mlp.up_proj": ColwiseParallel,
    "mlp.down_proj": RowwiseParallel,
}
# Norms of single heads: whole on each process, but each process's heads give only a part of their gradient.
HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")


class TensorParallel(Strategy):
    """The language model's matrices cut over all processes."""

    name = "TP"

    def _wrap(self, objective: Objective) -> nn.Module:
        text = objective.model.config.text_config
        for what, count in (
            ("attention heads", text.num_attention_heads),
            ("key/value heads", text.num_key_value_heads),
        ):
            if count % self.world.size:
                raise UsageError(
                    f"--tp {self.world.size}: the language model has {count} {what}, which it does not divide"
                )
        self.data_rank, self.data_size = 0, 1
        objective = objective.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.world.size,))
        model = objective.model
        decoder = model.get_decoder()
        for layer in decoder.layers:
            parallelize_module(layer, mesh, {name: kind() for name, kind in LAYER_PLAN.items()})
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        trained = model.get_input_embeddings().weight.requires_grad
        parallelize_module(decoder, mesh, {"embed_tokens": RowwiseParallel(input_layouts=Replicate())})
        head = ColwiseParallel(output_layouts=Replicate())
        parallelize_module(model.language_model, mesh, {"lm_head": head})
        if tied:
            model.get_output_embeddings().weight = model.get_input_embeddings().weight
        model.get_input_embeddings().weight.requires_grad_(trained)
        for name, parameter in decoder.named_parameters():
            if name.endswith(HEAD_NORMS) and parameter.requires_grad:
                parameter.register_hook(lambda gradient: _summed(gradient, mesh))
        return objective


def _summed(gradient: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    total = gradient.clone()
    torch.distributed.all_reduce(total, group=mesh.get_group())
    return total
