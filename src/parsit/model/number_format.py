"""Which number formats this machine is made for."""

from __future__ import annotations

import torch


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself: matrix tiles (Xeon) or dot products (Xeon, EPYC)."""
    # Both are private, but torch has no public way to ask.
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
