"""Attention for packed rows: each conversation, or image, sees itself alone, and no T × T mask is ever made.

Registered with transformers' attention interface, so that any decoder of theirs that goes through it packs, unpatched.
On a GPU with half precision torch's own variable-length kernel takes the whole row in one call; elsewhere there is one
call for each segment. Conversations are causal, images (`parsit.model.native`) are not. Batches that are not packed go
to transformers' own SDPA function with its own mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "parsit_packed"
# transformers' names of attentions that pack by themselves, where they are told the cuts.
FLASH = ("flash_attention_2", "flash_attention_3")
IMAGES = "parsit_images"


def register() -> None:
    """Make `NAME` and `IMAGES` known to transformers; doing it twice does no harm."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionInterface.register(IMAGES, image_attention)
    # transformers makes the mask of a batch that is not packed as it does for SDPA.
    AttentionMaskInterface.register(NAME, sdpa_mask)


def packed_inputs(inputs_embeds: torch.Tensor, cu_seq_lens: torch.Tensor, implementation: str = NAME) -> dict[str, Any]:
    """Keyword arguments that make a decoder with this attention, or FlashAttention, treat a row as packed.

    Args:
        inputs_embeds: `float[1, T, D]`.
        cu_seq_lens: `int[conversations + 1]` on the CPU: where each conversation begins, and the end of the last.
        implementation: the decoder's attention, as transformers calls it.

    Raises:
        ValueError: more than one row, cuts that do not cover it, or an attention that packs nothing.
    """
    if implementation not in (NAME, *FLASH):
        raise ValueError("cu_seq_lens without enable_packing(): conversations would see each other")
    cuts = cu_seq_lens.tolist()
    if inputs_embeds.shape[0] != 1 or cuts[0] != 0 or cuts[-1] != inputs_embeds.shape[1]:
        raise ValueError(
            f"a packed batch is one row whose cu_seq_lens go from 0 to its length: "
            f"got {tuple(inputs_embeds.shape[:2])} and {cuts[0]} to {cuts[-1]}"
        )
    lengths = [end - start for start, end in pairwise(cuts)]
    on_device = cu_seq_lens.to(inputs_embeds.device, torch.int32, non_blocking=True)
    inputs: dict[str, Any] = {
        "cu_seq_lens_q": on_device,
        "cu_seq_lens_k": on_device,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    if implementation in FLASH:
        return inputs | {"attention_mask": None}
    # A mask with four dimensions is handed through as it is, whereas None would make transformers build one. The cuts
    # are a tensor, as numbers in a tuple would be compiled anew for each row.
    return inputs | {"attention_mask": inputs_embeds.new_zeros(1, 1, 1, 1), "cuts": cu_seq_lens}


class ImageCuts(NamedTuple):
    """Where the images of a row begin and the last ends: `int32[images + 1]` on the CPU, and on the row's device.

    `longest`: patches of the largest image.
    """

    cuts: torch.Tensor
    on_device: torch.Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> ImageCuts:
        """The cuts of images of so many patches."""
        cuts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        pinned = cuts.pin_memory() if device.type == "cuda" else cuts
        return cls(cuts, pinned.to(device, non_blocking=True), max(lengths))


def image_attention(
    module: nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: ImageCuts,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention function for a row of images: `float[1, H, T, D]` in, `float[1, T, H, D]` out.

    SigLIP2's layers hand nothing to it but the mask, so the cuts come in its place.
    """
    cuts, on_device, longest = attention_mask
    return _packed(query_BHTD, key_BHTD, value_BHTD, cuts, on_device, longest, dropout, scaling, causal=False), None


def packed_attention(
    module: nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cuts: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention function: `float[B, H, T, D]` in, `float[B, T, H, D]` out.

    With `cuts` the row is packed and causal inside each segment; without, this is SDPA.
    """
    if cuts is None:
        return sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    row = query_BHTD, key_BHTD, value_BHTD
    return _packed(*row, cuts, cu_seq_lens_q, max_length_q, dropout, scaling, causal=True), None


def _packed(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    cuts: torch.Tensor,
    cuts_on_device: torch.Tensor | None,
    longest: int,
    dropout: float,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """`float[B, T, H, D]`, by the quickest way that there is."""
    device = query_BHTD.device.type
    if torch.is_autocast_enabled(device):
        # As autocast does for SDPA; norms of queries and keys give fp32 where their weights are, and values do not.
        dtype = torch.get_autocast_dtype(device)
        query_BHTD, key_BHTD, value_BHTD = query_BHTD.to(dtype), key_BHTD.to(dtype), value_BHTD.to(dtype)
    if query_BHTD.is_cuda and query_BHTD.dtype in (torch.float16, torch.bfloat16) and not dropout and _VARLEN:
        assert cuts_on_device is not None
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query_BHTD, key_BHTD, value_BHTD))
        return _varlen(query, key, value, cuts_on_device, longest, scaling, causal)[None]
    return _by_segment(query_BHTD, key_BHTD, value_BHTD, cuts, dropout, scaling, causal)


@torch.compiler.disable()
def _by_segment(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    cuts: torch.Tensor,
    dropout: float,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """`float[B, T, H, D]`, one call for each segment: how many there are is known to no compiler."""
    lengths = cuts.diff().tolist()
    segments = zip(*(tensor.split(lengths, dim=2) for tensor in (query_BHTD, key_BHTD, value_BHTD)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=causal, enable_gqa=True)
        for q, k, v in segments
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _varlen_kernel() -> Callable[..., Any] | None:
    """Torch's variable-length attention (2.10 and later), or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


# Asked once, at import: what a compiler would stumble over does not belong into the step.
_VARLEN = _varlen_kernel()
_VARLEN_OPTIONS = frozenset(inspect.signature(_VARLEN).parameters) if _VARLEN else frozenset()


def _varlen(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    cuts: torch.Tensor,
    longest: int,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """`float[T, H, D]`, inside each segment."""
    assert _VARLEN is not None
    known = _VARLEN_OPTIONS
    groups = query_THD.shape[1] // key_THD.shape[1]
    options: dict[str, Any] = {"scale": scaling} if "scale" in known else {}
    # torch 2.10 says is_causal; later versions say it as a window that ends at the position itself.
    if causal:
        options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = groups > 1
    elif groups > 1:
        key_THD, value_THD = (t.repeat_interleave(groups, dim=1) for t in (key_THD, value_THD))
    if scaling is not None and "scale" not in known:
        query_THD = query_THD * (scaling * query_THD.shape[-1] ** 0.5)
    return _VARLEN(query_THD, key_THD, value_THD, cuts, cuts, longest, longest, **options)
