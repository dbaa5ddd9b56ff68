"""Norms in few operations, for layers that are not compiled; they stand in for transformers' own, with their weights.

RMSNorm in plain words is eight operations forward and eighteen backward, each a launch on a GPU and a pass over the
row, and it keeps the row twice for the backward pass. Here it is torch's fused kernel on a GPU and a few passes on a
CPU, and the row is kept once. On a CPU the result is transformers' to the bit, and gradients are but for the order of
sums; a GPU's kernel rounds once in bfloat16, where transformers rounds before the weight and after it.

A norm before matrices gives their numbers' type where autocast would narrow them anyway: once, and not for each matrix
again (three times for queries, keys and values), nor back again in the backward pass.

Not here: rotations and the gate. torch has no fused function for either, and transformers calls its rotation by name
inside its attention, where nothing can take its place without a patch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

# Of families whose norm is `x / rms(x) * weight`; others, such as Gemma's `1 + weight`, stay transformers'.
RMS_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
# Norms whose result only matrices read.
BEFORE_MATRICES = ("input_layernorm", "post_attention_layernorm", "layer_norm1", "layer_norm2")


def fuse_norms(model: nn.Module) -> None:
    """Put the norms of this module in the place of transformers' own, in every layer of a model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            before_matrices = name in BEFORE_MATRICES
            if type(child).__name__ in RMS_NORMS:
                setattr(parent, name, RMSNorm.of(child, before_matrices))
            elif type(child) is nn.LayerNorm and before_matrices:
                setattr(parent, name, NarrowingLayerNorm.of(child))


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x²) + eps) * weight` over the last dimension.

    Args:
        weight: `float[D]`, the very parameter of the norm that this one stands for.
        eps: added to the mean of squares.
        before_matrices: narrow the result where autocast would narrow it for each matrix.
    """

    def __init__(self, weight: nn.Parameter, eps: float, before_matrices: bool) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.before_matrices = weight, eps, before_matrices

    @classmethod
    def of(cls, norm: Any, before_matrices: bool) -> RMSNorm:
        """The same norm as one of transformers', with its very parameter."""
        return cls(norm.weight, norm.variance_epsilon, before_matrices)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`float[…, D]` in and out; the wider type of the two, or autocast's before matrices."""
        wide = torch.promote_types(hidden.dtype, self.weight.dtype)
        dtype = _narrowed(hidden, wide) if self.before_matrices else wide
        if torch.compiler.is_compiling():
            return _normed(hidden, _scale(hidden, self.variance_epsilon), self.weight).to(dtype)
        if not hidden.is_cuda:
            return _RMSNorm.apply(hidden, self.weight, self.variance_epsilon, dtype)
        with torch.autocast("cuda", enabled=False):  # which would widen what is narrow already
            weight = self.weight.to(wide)
            return F.rms_norm(hidden.to(wide), weight.shape, weight, self.variance_epsilon).to(dtype)

    def extra_repr(self) -> str:
        """Shape and epsilon, for `print(model)`."""
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class NarrowingLayerNorm(nn.LayerNorm):
    """A LayerNorm before matrices, its result in the type that autocast gives them."""

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> NarrowingLayerNorm:
        """The same norm, with the very parameters of `norm`."""
        with torch.device("meta"):
            made = cls(list(norm.normalized_shape), norm.eps)
        made.weight, made.bias = norm.weight, norm.bias
        return made

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As in `nn.LayerNorm`."""
        normed = super().forward(input)
        return normed.to(_narrowed(normed, normed.dtype))


def _narrowed(tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type in which matrices read a tensor of `dtype`."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


def _scale(hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """`1 / rms` of each position, `float32[…, 1]`."""
    return torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + eps)


def _normed(hidden: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The result, rounded as transformers does: to the type of the row, then by the weight."""
    return (hidden * scale).to(hidden.dtype) * weight


class _RMSNorm(torch.autograd.Function):
    """For a CPU; of what was computed one number of each position is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        scale = _scale(hidden, eps)
        ctx.save_for_backward(hidden, weight, scale)
        return _normed(hidden, scale, weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (by the type of once_differentiable)
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = grad_outputs
        hidden, weight, scale = ctx.saved_tensors
        normed = hidden * scale
        by_place = normed * gradient
        grad_weight = by_place.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        along = (by_place @ weight.float()).div_(hidden.shape[-1]).unsqueeze(-1)
        grad_hidden = (gradient * weight.float()).sub_(normed.mul_(along)).mul_(scale)
        return grad_hidden.to(hidden.dtype), grad_weight, None, None
