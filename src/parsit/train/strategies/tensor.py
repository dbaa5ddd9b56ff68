"""Tensor parallelism: groups of processes share each matrix of the language model; a group reads the same batches.

Our own plan, because transformers' fails on tied embeddings under 4.53.2 (Megatron-LM, Shoeybi et al. 2019, section 3):
queries, keys, values, gate and up by their output, the output of attention and MLP by their input, embeddings and
`lm_head` by vocabulary. What is not cut (norms, tower, projector) is whole on each process and computed by each.

The processes form a mesh of two dimensions. A group is `tp` neighbours, along "tensor": they talk in each layer, and
should lie on one machine. Across the groups, along "data", gradients are summed once a step, after the last
micro-batch, or everything is sharded once more (FSDP2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from parsit.model import ParsitForConditionalGeneration
from parsit.model.decoder_trial import TESTED
from parsit.processing.collate import Batch
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.parts import layers_of
from parsit.train.strategies.base import Strategy
from parsit.train.strategies.fsdp import FullyShard
from parsit.train.strategies.replicas import drift, judge
from parsit.train.world import data_size, local
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
# Norms of single heads: not cut, but each process's heads give only a part of their gradient.
HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
# Numbers that travel in one call: enough that the call itself costs nothing beside them.
_BUCKET = 2**25


class TensorParallel(Strategy):
    """The language model's matrices cut over groups of `tp` processes; all else is the same in each process."""

    name = "TP"
    # Whether gradients are still to be summed over the groups after a step's last backward pass.
    sums_over_data = True

    def _wrap(self, objective: Objective) -> nn.Module:
        return self._cut(objective)

    def _cut(self, objective: Objective) -> Objective:
        """The objective with the language model's matrices cut.

        Raises:
            UsageError: there are heads that `tp` does not divide; or as `require_plan`.
        """
        tp = self.config.tp
        text = objective.model.config.text_config
        require_plan(text.model_type)
        for what, count in (
            ("attention heads", text.num_attention_heads),
            ("key/value heads", text.num_key_value_heads),
        ):
            if count % tp:
                raise UsageError(f"--tp {tp}: the language model has {count} {what}, which it does not divide")
        self.data_rank, self.data_size = self.world.rank // tp, data_size(self.world.size, tp)
        self.mesh = init_device_mesh(self.device.type, (self.data_size, tp), mesh_dim_names=("data", "tensor"))
        objective = objective.to(self.device)
        _cut_matrices(objective.model, self.mesh["tensor"])
        return objective

    def backward(self, batch: Batch, counts: StepCounts, last: bool) -> Losses:
        """As in `Strategy`; gradients travel once a step, after the last micro-batch."""
        losses = super().backward(batch, counts, last)
        if last:
            self._sum_gradients()
        return losses

    def check_replicas(self, say: Callable[[str], None]) -> None:
        """As in `Strategy`: of what is trained, all that is not cut over a group."""
        trained = self.named_trained()
        replicas = {name: local(parameter) for name, parameter in trained if not self._is_cut(parameter)}
        found: dict[str, float] = {}
        for group in self.world.gather(drift(replicas, self.mesh["tensor"].get_group())):
            found |= {name: max(apart, found.get(name, 0.0)) for name, apart in group.items()}
        judge(found, say)

    def _is_cut(self, parameter: torch.Tensor) -> bool:
        """Whether the processes of a group hold shares of a parameter, and not copies."""
        if not isinstance(parameter, DTensor) or "tensor" not in (parameter.device_mesh.mesh_dim_names or ()):
            return False
        names = parameter.device_mesh.mesh_dim_names or ()
        return not parameter.placements[names.index("tensor")].is_replicate()

    def _sum_gradients(self) -> None:
        """Make the gradients whole: those of head norms over each group, then all of them over the groups."""
        for _, parameter in self.named_trained():
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
                # That of embeddings comes whole, unless `lm_head` shares them.
                parameter.grad = gradient.redistribute(placements=parameter.placements)
        gradients = {name: local(p.grad) for name, p in self.named_trained() if p.grad is not None}
        heads = [gradient for name, gradient in gradients.items() if name.endswith(HEAD_NORMS)]
        _sum_over(self.mesh["tensor"], heads)
        if self.sums_over_data:
            _sum_over(self.mesh["data"], gradients.values())


class TensorAndFullyShard(TensorParallel, FullyShard):
    """FSDP2 over the groups: each process holds a share of its group's share of each matrix."""

    name = "TP with FSDP2"
    sums_over_data = False

    def _wrap(self, objective: Objective) -> nn.Module:
        return self._sharded(self._cut(objective), self.mesh["data"])


def require_plan(model_type: str) -> None:
    """Refuse a decoder whose layers may have other matrices, or norms of what is cut, than the plan says.

    Raises:
        UsageError: it is of a family that was not tested.
    """
    if model_type not in TESTED:
        raise UsageError(f"--tp cuts {', '.join(TESTED)}; the language model is a {model_type}: use --fsdp true")


def _cut_matrices(model: ParsitForConditionalGeneration, mesh: DeviceMesh) -> None:
    """Cut the language model's matrices over a mesh of one dimension, in place."""
    decoder = model.get_decoder()
    for layer in layers_of(decoder):
        parallelize_module(layer, mesh, {name: kind() for name, kind in LAYER_PLAN.items()})
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    assert isinstance(head, nn.Linear)
    tied, trained = head.weight is embeddings.weight, embeddings.weight.requires_grad
    parallelize_module(decoder, mesh, {"embed_tokens": RowwiseParallel(input_layouts=Replicate())})
    parallelize_module(model.language_model, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})
    if tied:
        head.weight = embeddings.weight
    embeddings.weight.requires_grad_(trained)


@torch.no_grad()
def _sum_over(mesh: DeviceMesh, gradients: Iterable[torch.Tensor]) -> None:
    """Sum each gradient over a mesh of one dimension, in place."""
    if mesh.size() == 1:
        return
    for bucket in buckets(gradients, _BUCKET):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=mesh.get_group())
        for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def buckets(gradients: Iterable[torch.Tensor], most: int) -> Iterator[list[torch.Tensor]]:
    """Gradients in order, together up to `most` numbers; a larger one is by itself, an empty one in none."""
    bucket: list[torch.Tensor] = []
    for gradient in gradients:
        if bucket and sum(member.numel() for member in bucket) + gradient.numel() > most:
            yield bucket
            bucket = []
        if gradient.numel():
            bucket.append(gradient)
    if bucket:
        yield bucket
