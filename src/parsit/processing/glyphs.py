"""Targets for the tower's patches: which character stands where in each, or which characters stand on the line.

A small tower trained from scratch with the language-model loss alone does not begin to read for
tens of thousands of images: the signal has to find its way through the decoder first. Where the
characters' boxes are known, each patch can be asked directly. A patch is divided into columns of
about `SLOT_WIDTH` pixels, and each column's target is the character over its middle, so that order
within a patch counts; a column where nothing stands is blank, and one that only grazes a line is
not asked.

Where there are no boxes, as in scans that somebody has copied out, a line's text is enough: its characters are asked of
the same columns from left to right, wherever they are (`text_classes`, for a CTC loss).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from parsit.tiling import Layout
from parsit.types import GlyphBox

SLOT_WIDTH = 4
BLANK = 0
OTHER = 1
NOT_ASKED = -100
# Printable ASCII and the characters that European documents add; any other glyph is OTHER.
GLYPHS = "".join(map(chr, range(33, 127))) + "äöüÄÖÜßéèêëàâçîïôûùñáíóúåøæ€£¥–—“”‘’„«»•·°§±×÷½¼²³µ©®™…"
NUM_CLASSES = 2 + len(GLYPHS)
# In a line's text there are spaces as well; in patches they are blank.
SPACE = NUM_CLASSES
NUM_TEXT_CLASSES = NUM_CLASSES + 1

_CLASS_OF = {glyph: index + 2 for index, glyph in enumerate(GLYPHS)}
# A glyph counts as in a patch row when it fills this share of the row (or the row this share of it).
_ENOUGH, _GRAZES = 0.5, 0.1


def slots_per_patch(patch_size: int) -> int:
    """Columns into which a patch is divided."""
    return max(1, patch_size // SLOT_WIDTH)


def glyph_targets(glyphs: Sequence[GlyphBox], size: tuple[int, int], layout: Layout) -> torch.Tensor:
    """Targets of one image.

    Args:
        glyphs: boxes in pixels of the image.
        size: (width, height) of the image.
        layout: the model's layout.

    Returns:
        `int[num_tiles, patches_per_side², slots_per_patch]`, the overview tile (too coarse to tell
        glyphs apart) not asked; under native resolution `int[patches, 1, slots_per_patch]`.
    """
    plan = layout.plan(*size)
    side = layout.patches_per_side
    columns, rows = plan.grid if plan.grid != (0, 0) else (1, 1)
    scale_x, scale_y = plan.resized[0] / size[0], plan.resized[1] / size[1]
    left = (columns * layout.image_size - plan.resized[0]) // 2
    top = (rows * layout.image_size - plan.resized[1]) // 2
    slots = slots_per_patch(layout.patch_size)
    slot_width = layout.patch_size / slots
    targets_HW = torch.full((rows * side, columns * side * slots), BLANK)
    for glyph in glyphs:
        first = max(0, math.ceil((glyph.x0 * scale_x + left) / slot_width - 0.5))
        last = math.ceil((glyph.x1 * scale_x + left) / slot_width - 0.5)
        y0, y1 = glyph.y0 * scale_y + top, glyph.y1 * scale_y + top
        for row in range(
            max(0, int(y0 // layout.patch_size)), min(targets_HW.shape[0], math.ceil(y1 / layout.patch_size))
        ):
            share = _overlap(y0, y1, row, layout.patch_size)
            if share >= _ENOUGH:
                targets_HW[row, first:last] = _CLASS_OF.get(glyph.text, OTHER)
            elif share > _GRAZES:
                targets_HW[row, first:last] = NOT_ASKED
    blocks = targets_HW.view(rows, side, columns, side, slots).permute(0, 2, 1, 3, 4)
    tiles = blocks.reshape(rows * columns, side * side, slots)
    if plan.grid == (0, 0) or not plan.overview:
        return tiles
    return torch.cat([torch.full_like(tiles[:1], NOT_ASKED), tiles])


def text_classes(text: str) -> torch.Tensor:
    """The classes of a line's characters, `int[L]`; white space of any length is one `SPACE`, at the ends none."""
    classes = [SPACE if character == " " else _CLASS_OF.get(character, OTHER) for character in " ".join(text.split())]
    return torch.tensor(classes, dtype=torch.long)


def _overlap(y0: float, y1: float, row: int, patch_size: int) -> float:
    """Share of the smaller of glyph and patch row that both have in common."""
    common = min(y1, (row + 1) * patch_size) - max(y0, row * patch_size)
    return common / max(min(patch_size, y1 - y0), 1e-6)
