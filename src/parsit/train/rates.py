"""How well a step uses the machine: MFU.

MFU, model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", appendix B), is the share of the devices' peak that the
model's own arithmetic takes:

    FLOPs = per_token · Σ length + per_token_squared · Σ length² + per_label · labels
            + per_tile · tiles + per_tile_squared · Σ tiles²
    MFU   = FLOPs / seconds / (peak FLOP/s · devices)

The sums go over the conversations, and the images, of one optimizer step on all ranks; the factors are
`parsit.model.flops.step_flops`: matrix products of forward and backward pass by what is trained, attention causal and
within a conversation alone, no look-up of input embeddings, `lm_head` for supervised positions alone. Padding, blank
tiles and what gradient checkpointing computes a second time are work for the device and none for the model: they lower
the MFU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from parsit.model.flops import StepFlops
from parsit.processing.collate import Batch
from parsit.tiling import Layout

# Peak FLOP/s of dense bf16 products with fp32 accumulation, by what the driver calls the device. From NVIDIA's data
# sheets of each product, which for H100, H200, L40S, L4 and A10 give the figure with sparsity, twice this; the RTX
# 4090's is from the Ada architecture's white paper, appendix A.
_PEAK_FLOPS = {
    r"A100\b": 312e12,
    r"H100 NVL": 835e12,
    r"H100 PCIe": 756e12,
    r"H100 \d+GB HBM3": 989e12,  # SXM
    r"H200 NVL": 835e12,
    r"H200\b": 989e12,
    r"L40S": 362e12,
    r"RTX 4090(?! D| Laptop)": 165e12,
    r"A10\b": 125e12,
    r"L4\b": 121e12,
}


def peak_flops(device_name: str) -> float | None:
    """Peak dense bf16 FLOP/s of a GPU by its driver's name; None: not known (a CPU, a slice of a GPU)."""
    if "MIG" in device_name:
        return None
    return next((peak for name, peak in _PEAK_FLOPS.items() if re.search(rf"(?<![\w-]){name}", device_name)), None)


def peak_flops_of(device: torch.device) -> float | None:
    """`peak_flops` of the device that is there; None for a CPU."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a step computes on: numbers that add up over batches and ranks.

    `tokens`: sum of the conversations' lengths. `tokens_squared`: sum of their squares. `labels`: supervised
    positions. `tiles`: tiles of images. `tiles_squared`: sum of the squares of each image's tiles.
    """

    tokens: int = 0
    tokens_squared: int = 0
    labels: int = 0
    tiles: int = 0
    tiles_squared: int = 0

    @classmethod
    def of(cls, batches: Iterable[Batch], layout: Layout) -> StepWork:
        """The work of some batches, padded or packed, of a model with this layout."""
        total = cls()
        for batch in batches:
            lengths = _lengths(batch)
            sizes = [] if batch.image_sizes is None else batch.image_sizes.tolist()
            tiles = [layout.plan(width, height).num_tiles for height, width in sizes]
            squares, tiles_squared = int((lengths * lengths).sum()), sum(number**2 for number in tiles)
            total = total + cls(int(lengths.sum()), squares, batch.num_supervised, sum(tiles), tiles_squared)
        return total

    def __add__(self, other: StepWork) -> StepWork:
        return StepWork(
            self.tokens + other.tokens,
            self.tokens_squared + other.tokens_squared,
            self.labels + other.labels,
            self.tiles + other.tiles,
            self.tiles_squared + other.tiles_squared,
        )

    def flops(self, per: StepFlops) -> float:
        """Model FLOPs of this work, see the module's formula."""
        return (
            per.per_token * self.tokens
            + per.per_token_squared * self.tokens_squared
            + per.per_label * self.labels
            + per.per_tile * self.tiles
            + per.per_tile_squared * self.tiles_squared
        )


def _lengths(batch: Batch) -> torch.Tensor:
    """`int64[conversations]`."""
    if batch.cu_seq_lens is not None:
        return batch.cu_seq_lens.long().diff()
    if batch.attention_mask is not None:
        return batch.attention_mask.sum(dim=1)
    return torch.full((batch.input_ids.shape[0],), batch.input_ids.shape[1])


def mfu(work: StepWork, per: StepFlops, seconds: float, peak: float | None, devices: int = 1) -> float | None:
    """Model FLOPs utilisation, 0 to 1.

    Args:
        work: of the step, over all ranks.
        per: what the model's parts cost; count them before the weights are sharded.
        seconds: that the step took.
        peak: FLOP/s of one device, see `peak_flops`.
        devices: how many there are.

    Returns:
        None where the peak is not known.
    """
    if peak is None:
        return None
    return work.flops(per) / seconds / (peak * devices)
