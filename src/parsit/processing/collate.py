"""Several conversations to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from parsit.processing.chat import IGNORE_INDEX
from parsit.processing.processor import Features


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch.

    `input_ids`, `attention_mask`, `labels`: `int[B, T]`. `pixel_values`: `float[N, 3, S, S]`, tiles
    of all images in order, or None. `image_sizes`: `int[images, 2]`, (height, width), or None.
    `glyph_targets`: `int[N, P, slots]` or None.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None
    image_sizes: torch.Tensor | None
    glyph_targets: torch.Tensor | None = None

    @property
    def num_supervised(self) -> int:
        """Positions that carry a label."""
        return int((self.labels != IGNORE_INDEX).sum())

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})

    def model_inputs(self, with_labels: bool = True) -> dict[str, torch.Tensor | None]:
        """Keyword arguments of the model's `forward` (or `generate`, without labels)."""
        names = ["input_ids", "attention_mask", "pixel_values", "image_sizes"] + (["labels"] if with_labels else [])
        return {name: getattr(self, name) for name in names}


def collate(features: Sequence[Features], pad_token_id: int, padding_side: str = "right") -> Batch:
    """Pad to the longest conversation: on the right for training, on the left for generation."""
    longest = max(len(item.input_ids) for item in features)
    shape = (len(features), longest)
    input_ids = torch.full(shape, pad_token_id)
    labels = torch.full(shape, IGNORE_INDEX)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    for row, item in enumerate(features):
        length = len(item.input_ids)
        where = slice(0, length) if padding_side == "right" else slice(longest - length, longest)
        input_ids[row, where] = item.input_ids
        labels[row, where] = item.labels
        attention_mask[row, where] = 1
    pixels = [item.pixel_values for item in features if item.pixel_values is not None]
    glyphs = [item.glyph_targets for item in features if item.glyph_targets is not None]
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        labels=labels,
        pixel_values=torch.cat(pixels) if pixels else None,
        image_sizes=torch.cat([item.image_sizes for item in features]) if pixels else None,
        glyph_targets=torch.cat(glyphs) if glyphs else None,
    )
