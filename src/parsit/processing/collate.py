"""Several conversations to one batch: padded to one length, or packed into one row without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F

from parsit.processing.chat import IGNORE_INDEX
from parsit.processing.image_processor import PixelScale
from parsit.processing.processor import Features


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, padded or packed.

    `input_ids`, `labels`: `int[B, T]`. `pixels`: `uint8[N, 3, S, S]`, tiles (under native resolution patches) of all
    images in order, or None; `scale` makes the tower's numbers of them.
    `image_sizes`: `int[images, 2]`, (height, width), or None. `glyph_targets`: `int[N, P, slots]` or None.
    `image_positions`, `label_positions`: `int[M]`, `int[N]`, where the flattened `input_ids` have image tokens, and
    where the next token has a label: known here, they need not be looked for on a GPU.
    `line_texts`: `int[characters]`, the texts of all images one after another, `line_lengths`: `int[images]`, their
    lengths, or None.
    Padded: `attention_mask`: `int[B, T]`, 0 for padding. Packed: B is 1, `position_ids`: `int[1, T]` begins again
    with each conversation, and `cu_seq_lens`: `int32[conversations + 1]` says where each begins and the last ends.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    image_positions: torch.Tensor
    label_positions: torch.Tensor
    pixels: torch.Tensor | None
    scale: PixelScale | None
    image_sizes: torch.Tensor | None
    glyph_targets: torch.Tensor | None = None
    line_texts: torch.Tensor | None = None
    line_lengths: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    cu_seq_lens: torch.Tensor | None = None
    num_samples: int = 0

    @property
    def pixel_values(self) -> torch.Tensor | None:
        """`float[N, 3, S, S]`, what the tower takes, made where the batch is; None without images."""
        return None if self.pixels is None or self.scale is None else self.scale(self.pixels)

    @property
    def num_supervised(self) -> int:
        """Positions that carry a label."""
        return int((self.labels != IGNORE_INDEX).sum())

    @property
    def num_tokens(self) -> int:
        """Positions that are not padding."""
        return self.input_ids.numel() if self.attention_mask is None else int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        # The row's cuts and the images' sizes stay on the CPU: they decide which kernels are called.
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in values.items()
            if isinstance(value, torch.Tensor) and name not in ("cu_seq_lens", "image_sizes", "line_lengths")
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (called by `DataLoader`)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.pin_memory() for k, v in tensors.items() if isinstance(v, torch.Tensor)})

    def model_inputs(self, with_labels: bool = True) -> dict[str, torch.Tensor]:
        """Keyword arguments of the model's `forward` (or `generate`, without labels)."""
        names = ("input_ids", "attention_mask", "position_ids", "cu_seq_lens", "pixel_values", "image_sizes")
        names += ("image_positions",) + (("labels", "label_positions") if with_labels else ())
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def collate(features: Sequence[Features], pad_token_id: int, padding_side: str = "right") -> Batch:
    """Pad to the longest conversation: on the right for training, on the left for generation.

    Without a conversation, one row of one padding token without a label.
    """
    longest = max((len(item.input_ids) for item in features), default=1)
    shape = (max(len(features), 1), longest)
    input_ids = torch.full(shape, pad_token_id)
    labels = torch.full(shape, IGNORE_INDEX)
    # A row without a position that may be seen would be NaN; the lone padding token sees itself.
    attention_mask = torch.zeros(shape, dtype=torch.long) if features else torch.ones(shape, dtype=torch.long)
    for row, item in enumerate(features):
        length = len(item.input_ids)
        where = slice(0, length) if padding_side == "right" else slice(longest - length, longest)
        input_ids[row, where] = item.input_ids
        labels[row, where] = item.labels
        attention_mask[row, where] = 1
    firsts = [row * longest + (0 if padding_side == "right" else longest - len(item.input_ids))
              for row, item in enumerate(features)]  # fmt: skip
    return Batch(
        input_ids=input_ids,
        labels=labels,
        **_positions(features, firsts, labels),
        attention_mask=attention_mask,
        num_samples=len(features),
        **_image_tensors(features),
    )


def collate_packed(features: Sequence[Features], pad_token_id: int) -> Batch:
    """One row, conversation after conversation; a single padding token without a label where there is none.

    No conversation can learn from the one before it: the first token of each has no label.
    """
    ids = [item.input_ids for item in features] or [torch.tensor([pad_token_id])]
    labels = [item.labels for item in features] or [torch.tensor([IGNORE_INDEX])]
    lengths = torch.tensor([len(item) for item in ids])
    row_of_labels = torch.cat(labels)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    row_of_labels[starts[:-1]] = IGNORE_INDEX
    return Batch(
        input_ids=torch.cat(ids)[None],
        labels=row_of_labels[None],
        **_positions(features, starts.tolist(), row_of_labels[None]),
        position_ids=torch.cat([torch.arange(len(item)) for item in ids])[None],
        cu_seq_lens=starts.int(),
        num_samples=len(features),
        **_image_tensors(features),
    )


def _positions(features: Sequence[Features], firsts: Sequence[int], labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Where image tokens and what is supervised are, conversations beginning at `firsts` of the flattened batch."""
    of_images = [item.image_positions + first for item, first in zip(features, firsts, strict=False)]
    next_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    return {
        "image_positions": torch.cat([torch.zeros(0, dtype=torch.long), *of_images]),
        "label_positions": (next_labels != IGNORE_INDEX).nonzero()[:, 0],
    }


def _image_tensors(features: Sequence[Features]) -> dict[str, Any]:
    pixels = [item.pixels for item in features if item.pixels is not None]
    glyphs = [item.glyph_targets for item in features if item.glyph_targets is not None]
    texts = [text for item in features for text in item.line_texts or ()]
    return {
        "pixels": torch.cat(pixels) if pixels else None,
        "scale": features[0].scale if features else None,
        "image_sizes": torch.cat([item.image_sizes for item in features]) if pixels else None,
        "glyph_targets": torch.cat(glyphs) if glyphs else None,
        "line_texts": torch.cat(texts) if texts else None,
        "line_lengths": torch.tensor([len(text) for text in texts]) if texts else None,
    }
