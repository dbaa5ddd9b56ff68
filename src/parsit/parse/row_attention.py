"""Attention for rows that come and go: each has keys and values of its own, as long as it is.

One forward pass takes the new tokens of all rows, one behind the other in a batch of one: a token of each row that is
being written, and whole prompts of rows that are new. Linear layers see them together; attention goes row by row. So
nothing is padded, rows of any length share a pass, and a row that ends gives its memory back at once. The price is one
call of the kernel for each row and layer, which on a GPU is many small ones.

Registered with transformers' attention interface, like `parsit.model.packed_attention`. Shape suffixes: H heads, K
key-value heads, T positions, D size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "parsit_rows"
_GROWTH = 1.5
_FIRST_ROOM = 64  # positions beyond the prompt


@dataclass(slots=True)
class RowCache:
    """Keys and values of one row in every layer; `length` positions of each are filled."""

    length: int = 0
    _layers: dict[int, torch.Tensor] = field(default_factory=dict)  # float[2, K, capacity, D]

    def append(self, layer: int, key_KTD: torch.Tensor, value_KTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the newest positions behind the others of a layer; gives keys and values of all, `float[K, T, D]`.

        `length` is moved on by whoever has called all layers.
        """
        end = self.length + key_KTD.shape[1]
        stored = self._layers.get(layer)
        if stored is None or stored.shape[2] < end:
            stored = self._layers[layer] = self._grown(stored, key_KTD, end)
        stored[0, :, self.length : end] = key_KTD
        stored[1, :, self.length : end] = value_KTD
        return stored[0, :, :end], stored[1, :, :end]

    def _grown(self, stored: torch.Tensor | None, like_KTD: torch.Tensor, needed: int) -> torch.Tensor:
        capacity = max(needed + _FIRST_ROOM, int(self.length * _GROWTH))
        heads, _, size = like_KTD.shape
        grown = like_KTD.new_empty(2, heads, capacity, size)
        if stored is not None:
            grown[:, :, : self.length] = stored[:, :, : self.length]
        return grown


@dataclass(frozen=True, slots=True)
class Segment:
    """The newest `length` positions of one row in a pass."""

    cache: RowCache
    length: int


@contextmanager
def attending_rows(model: PreTrainedModel) -> Iterator[None]:
    """Let the model's decoder attend row by row, and give it its own attention back."""
    AttentionInterface.register(NAME, row_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config = model.get_decoder().config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


@torch.compiler.disable()
def row_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segments: Sequence[Segment],
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention function: `float[1, T, H, D]`, each segment seeing its own row alone."""
    device = query_1HTD.device.type
    if torch.is_autocast_enabled(device):  # as in packed_attention: norms may give fp32 where values are narrower
        dtype = torch.get_autocast_dtype(device)
        query_1HTD, key_1KTD, value_1KTD = query_1HTD.to(dtype), key_1KTD.to(dtype), value_1KTD.to(dtype)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    lengths = [segment.length for segment in segments]
    parts = zip(*(tensor[0].split(lengths, dim=1) for tensor in (query_1HTD, key_1KTD, value_1KTD)), strict=True)
    outputs = [
        _attend(query, *segment.cache.append(layer, key, value), segment.cache.length, scaling)
        for segment, (query, key, value) in zip(segments, parts, strict=True)
    ]
    return torch.cat(outputs, dim=1).transpose(0, 1)[None], None


def _attend(
    query_HTD: torch.Tensor, key_KTD: torch.Tensor, value_KTD: torch.Tensor, past: int, scaling: float | None
) -> torch.Tensor:
    """`float[H, T, D]` of the newest T positions, which follow `past` others."""
    heads, length, size = query_HTD.shape
    keys, values = key_KTD[None], value_KTD[None]
    if length == 1:
        # Heads that share keys become positions of one head: no copies of keys, and no mask.
        grouped = query_HTD.reshape(1, key_KTD.shape[0], -1, size)
        return F.scaled_dot_product_attention(grouped, keys, values, scale=scaling).reshape(heads, 1, size)
    assert past == 0, "a prompt goes through the model whole"
    query = query_HTD[None]
    return F.scaled_dot_product_attention(query, keys, values, scale=scaling, is_causal=True, enable_gqa=True)[0]
