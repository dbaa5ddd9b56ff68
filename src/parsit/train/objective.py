"""What is minimised: the language-model loss, and optionally two losses of the tower's own beside it.

The glyph loss asks each patch of the tower which characters stand in it, the CTC loss (Graves et al., "Connectionist
temporal classification", ICML 2006) which characters stand on the line at all, from left to right (see
`parsit.processing.glyphs`). The first needs the characters' boxes, the second images of one line and their text. Their
heads belong to the training run and not to the model: they are saved with the run's state, and the model that is read
with does not know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from parsit.config import TrainConfig
from parsit.model import ParsitForConditionalGeneration
from parsit.processing.collate import Batch
from parsit.processing.glyphs import BLANK, NOT_ASKED, NUM_CLASSES, NUM_TEXT_CLASSES, slots_per_patch
from parsit.tiling import ImagePlan


@dataclass(frozen=True, slots=True)
class StepCounts:
    """What the summed losses of one optimizer step are divided by, over all its batches."""

    supervised: int
    glyphs: int
    characters: int = 1

    @classmethod
    def of(cls, batches: list[Batch]) -> StepCounts:
        """Count the labels of one step's batches."""
        asked = [b.glyph_targets.ne(NOT_ASKED).sum().item() for b in batches if b.glyph_targets is not None]
        characters = sum(len(batch.line_texts) for batch in batches if batch.line_texts is not None)
        return cls(sum(batch.num_supervised for batch in batches), int(sum(asked)), characters)


# A tuple, because DeepSpeed looks for a module's outputs in tuples, lists and dictionaries alone. A tensor that it does
# not find gets no hook, and weights that belong to the module itself are then not gathered for its backward pass.
class Losses(NamedTuple):
    """One batch's share of the step's losses: scalars that add up over the step's batches.

    `language`: the language model's, or where the decoder does not run `total`.
    """

    total: torch.Tensor
    language: torch.Tensor
    glyph: torch.Tensor | None
    ctc: torch.Tensor | None = None


class ColumnHead(nn.Module):
    """Tower features to characters, `SLOT_WIDTH` pixels wide: `float[…, D]` to `float[…, slots, classes]`."""

    def __init__(self, vision_size: int, patch_size: int, num_classes: int) -> None:
        super().__init__()
        self.slots, self.num_classes = slots_per_patch(patch_size), num_classes
        self.norm = nn.LayerNorm(vision_size)
        self.classify = nn.Linear(vision_size, self.slots * num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of each slot's character."""
        return self.classify(self.norm(features)).unflatten(-1, (self.slots, self.num_classes))


class Objective(nn.Module):
    """The model and the heads of the losses whose weights are not 0.

    Args:
        model: the model.
        glyph_loss_weight: of the glyph loss.
        ctc_loss_weight: of the CTC loss.
        language_loss_weight: of the language model's; 0: projector and decoder do not run at all, which makes a step of
            the tower alone twice as quick.
    """

    def __init__(
        self,
        model: ParsitForConditionalGeneration,
        glyph_loss_weight: float = 0.0,
        ctc_loss_weight: float = 0.0,
        language_loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.language_weight = language_loss_weight
        self.glyph_weight, self.ctc_weight = glyph_loss_weight, ctc_loss_weight
        vision = model.config.vision_config
        shape = vision.hidden_size, vision.patch_size
        self.glyph_head = ColumnHead(*shape, NUM_CLASSES) if glyph_loss_weight else None
        self.ctc_head = ColumnHead(*shape, NUM_TEXT_CLASSES) if ctc_loss_weight else None

    @classmethod
    def of(cls, model: ParsitForConditionalGeneration, config: TrainConfig) -> Objective:
        """A run's objective."""
        return cls(model, config.glyph_loss_weight, config.ctc_loss_weight, config.language_loss_weight)

    def forward(self, batch: Batch, counts: StepCounts) -> Losses:
        """The batch's losses, divided by the step's counts."""
        language = None
        if self.language_weight:
            output = self.model(**batch.model_inputs(), num_items_in_batch=max(counts.supervised, 1))
            language, features_NPD = output.loss, output.vision_features_NPD
            assert features_NPD is not None, "with labels the tower runs in each step"
        else:
            features_NPD = self._tower_features(batch)
        total = 0.0 if language is None else self.language_weight * language
        glyph = ctc = None
        if self.glyph_head is not None:
            glyph = self._glyph_loss(self.glyph_head, features_NPD, batch.glyph_targets, counts.glyphs)
            total = total + self.glyph_weight * glyph
        if self.ctc_head is not None:
            ctc = self._ctc_loss(self.ctc_head, features_NPD, batch, counts.characters)
            total = total + self.ctc_weight * ctc
        assert isinstance(total, torch.Tensor), "a run has a loss"
        told = total if language is None else language
        return Losses(total, told.detach(), *(None if loss is None else loss.detach() for loss in (glyph, ctc)))

    def _tower_features(self, batch: Batch) -> torch.Tensor:
        """The tower's features alone; of a blank image where the batch has none (design D6)."""
        layout, pixels, sizes = self.model.layout, batch.pixel_values, batch.image_sizes
        if pixels is None or sizes is None:
            sizes = torch.ones(1, 2, dtype=torch.long)
            tiles = layout.plan(1, 1).num_tiles
            pixels = torch.zeros(tiles, 3, layout.image_size, layout.image_size, device=self.model.device)
        return self.model.encode_tiles(pixels, self.model.plans(sizes, pixels.shape[0]))

    def _glyph_loss(
        self, head: ColumnHead, features_NPD: torch.Tensor, targets: torch.Tensor | None, num_glyphs: int
    ) -> torch.Tensor:
        """Summed cross-entropy of the slots over `num_glyphs`; zero, through the head, where none is asked."""
        if targets is None:
            return head(features_NPD).sum() * 0.0
        logits = head(features_NPD).float()
        loss = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=NOT_ASKED, reduction="sum")
        return loss / max(num_glyphs, 1)

    def _ctc_loss(
        self, head: ColumnHead, features_NPD: torch.Tensor, batch: Batch, num_characters: int
    ) -> torch.Tensor:
        """Summed nats of the lines' texts over `num_characters`; zero, through the head, where there is no text.

        A text that has more characters than its image has columns cannot be read from them, and counts nothing.
        """
        sizes, texts, lengths = batch.image_sizes, batch.line_texts, batch.line_lengths
        if sizes is None or texts is None or lengths is None or not len(texts):
            return head(features_NPD).sum() * 0.0
        columns = image_columns(features_NPD, self.model.plans(sizes, features_NPD.shape[0]))
        asked = [image for image, length in enumerate(lengths.tolist()) if length]
        logits_IWSC = head(pad_sequence([columns[image] for image in asked], batch_first=True)).float()
        log_probs_TIC = logits_IWSC.flatten(1, 2).log_softmax(-1).transpose(0, 1)
        widths = torch.tensor([len(columns[image]) * head.slots for image in asked])
        loss = F.ctc_loss(
            log_probs_TIC, texts, widths, lengths[asked], blank=BLANK, reduction="sum", zero_infinity=True
        )
        return loss / max(num_characters, 1)


def image_columns(features_NPD: torch.Tensor, plans: Sequence[ImagePlan]) -> list[torch.Tensor]:
    """The features of each image's columns of patches, rows averaged, without the overview: `float[columns, D]`."""
    side = round(features_NPD.shape[1] ** 0.5)
    columns, first = [], 0
    for plan in plans:
        across, down = plan.grid if plan.grid != (0, 0) else (1, 1)
        start = first + (plan.num_tiles - across * down)
        first += plan.num_tiles
        grid = features_NPD[start:first].unflatten(0, (down, across)).unflatten(2, (side, side))
        columns.append(grid.mean(dim=(0, 2)).flatten(0, 1))
    return columns
