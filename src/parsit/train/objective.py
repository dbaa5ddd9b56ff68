"""What is minimised: the language-model loss, and optionally the glyph loss beside it.

The glyph loss asks each patch of the tower which characters stand in it (see
`parsit.processing.glyphs`). Its head belongs to the training run and not to the model: it is saved
with the run's state, and the model that is read with does not know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from parsit.model import ParsitForConditionalGeneration
from parsit.processing.collate import Batch
from parsit.processing.glyphs import NOT_ASKED, NUM_CLASSES, slots_per_patch


@dataclass(frozen=True, slots=True)
class StepCounts:
    """What the summed losses of one optimizer step are divided by, over all its batches."""

    supervised: int
    glyphs: int

    @classmethod
    def of(cls, batches: list[Batch]) -> StepCounts:
        """Count the labels of one step's batches."""
        asked = [b.glyph_targets.ne(NOT_ASKED).sum().item() for b in batches if b.glyph_targets is not None]
        return cls(sum(batch.num_supervised for batch in batches), int(sum(asked)))


# A tuple, because DeepSpeed looks for a module's outputs in tuples, lists and dictionaries alone. A tensor that it does
# not find gets no hook, and weights that belong to the module itself are then not gathered for its backward pass.
class Losses(NamedTuple):
    """One batch's share of the step's losses: scalars that add up over the step's batches."""

    total: torch.Tensor
    language: torch.Tensor
    glyph: torch.Tensor | None


class GlyphHead(nn.Module):
    """Tower features to characters: `float[N, P, D]` to `float[N, P, slots, classes]`."""

    def __init__(self, vision_size: int, patch_size: int) -> None:
        super().__init__()
        self.slots = slots_per_patch(patch_size)
        self.norm = nn.LayerNorm(vision_size)
        self.classify = nn.Linear(vision_size, self.slots * NUM_CLASSES)

    def forward(self, features_NPD: torch.Tensor) -> torch.Tensor:
        """Logits of each slot's character."""
        return self.classify(self.norm(features_NPD)).unflatten(-1, (self.slots, NUM_CLASSES))


class Objective(nn.Module):
    """The model and, where `glyph_loss_weight` is not 0, the glyph head."""

    def __init__(self, model: ParsitForConditionalGeneration, glyph_loss_weight: float) -> None:
        super().__init__()
        self.model = model
        self.glyph_loss_weight = glyph_loss_weight
        vision = model.config.vision_config
        self.glyph_head = GlyphHead(vision.hidden_size, vision.patch_size) if glyph_loss_weight else None

    def forward(self, batch: Batch, counts: StepCounts) -> Losses:
        """The batch's losses, divided by the step's counts."""
        output = self.model(**batch.model_inputs(), num_items_in_batch=max(counts.supervised, 1))
        if self.glyph_head is None:
            return Losses(output.loss, output.loss.detach(), None)
        glyph = self._glyph_loss(output.vision_features_NPD, batch.glyph_targets, counts.glyphs)
        total = output.loss + self.glyph_loss_weight * glyph
        return Losses(total, output.loss.detach(), glyph.detach())

    def _glyph_loss(
        self, features_NPD: torch.Tensor | None, targets: torch.Tensor | None, num_glyphs: int
    ) -> torch.Tensor:
        """Summed cross-entropy of the slots over `num_glyphs`; zero, through the head, where none is asked."""
        assert self.glyph_head is not None
        if features_NPD is None or targets is None:
            weight = self.glyph_head.norm.weight  # in bfloat16 under DeepSpeed, which has no autocast
            size = self.glyph_head.norm.normalized_shape[0]
            blank = torch.zeros(1, 1, size, dtype=weight.dtype, device=self.model.device)
            return self.glyph_head(blank).sum() * 0.0
        logits = self.glyph_head(features_NPD).float()
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=NOT_ASKED, reduction="sum")
        return loss / max(num_glyphs, 1)
