"""The projector: vision features to the language model's embedding space.

`mlp2x_gelu` is LLaVA's two-layer perceptron with a LayerNorm after its first layer: vision
features of a frozen tower have a scale of their own, and without the norm the first steps at a
learning rate of 1e-3 show gradient norms in the millions. From SigLIP-so400m (1152) it has
6,561,792 parameters for Qwen3-1.7B (2048) and 9,512,960 for Qwen3-4B (2560).
"""

from __future__ import annotations

import re

from torch import nn


def build_projector(projector_type: str, in_features: int, out_features: int) -> nn.Module:
    """The projector of a type: `float[..., in_features]` to `float[..., out_features]`.

    Args:
        projector_type: `linear`, `identity` (only where the sizes are equal), `mlpNx_gelu` with a LayerNorm after the
            first layer, or `mlpNx_gelu_no_norm`, which is LLaVA's.
        in_features: the tower's feature size, times k * k under pixel shuffle.
        out_features: the language model's hidden size.

    Raises:
        ValueError: an unknown type, or `identity` between different sizes.
    """
    if projector_type == "linear":
        return nn.Linear(in_features, out_features)
    if projector_type == "identity":
        if in_features != out_features:
            raise ValueError(f"mm_projector_type identity cannot turn {in_features} features into {out_features}")
        return nn.Identity()
    match = re.fullmatch(r"mlp([1-9]\d*)x_gelu(_no_norm)?", projector_type)
    if not match:
        raise ValueError(
            f"mm_projector_type is {projector_type!r}: use linear, identity, mlpNx_gelu such as mlp2x_gelu, "
            "or LLaVA's own mlpNx_gelu_no_norm"
        )
    depth = int(match.group(1))
    layers: list[nn.Module] = [nn.Linear(in_features, out_features)]
    if not match.group(2):
        layers.append(nn.LayerNorm(out_features))
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(out_features, out_features)]
    return nn.Sequential(*layers)
