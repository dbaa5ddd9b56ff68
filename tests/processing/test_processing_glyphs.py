"""Glyph boxes to patch targets, on boxes whose places can be worked out by hand."""

from __future__ import annotations

from parsit.processing.glyphs import BLANK, NOT_ASKED, OTHER, glyph_targets
from parsit.tiling import ImageLayout
from parsit.types import GlyphBox

# One row of tiles of 64 px with 4 x 4 patches of 16 px; no scaling for an image of 128 x 64.
LAYOUT = ImageLayout(64, 16, "anyres", "(1x1),...,(4x1)", "spatial_unpad_nobase")
A, B = 2 + (ord("A") - 33), 2 + (ord("B") - 33)


def test_a_glyph_marks_the_slots_whose_middle_it_covers():
    targets = glyph_targets([GlyphBox("A", 16, 16, 24, 32), GlyphBox("B", 24, 16, 28, 32)], (128, 64), LAYOUT)
    assert targets.shape == (2, 16, 4)
    row_of_patches = targets[0].view(4, 4, 4)
    assert row_of_patches[1, 1].tolist() == [A, A, B, BLANK]  # slots of 4 px from x = 16
    marked = (targets != BLANK).sum().item()
    assert marked == 3


def test_a_slot_belongs_to_the_glyph_over_its_middle_wherever_the_glyph_begins():
    # slots of 4 px from x = 16 have their middles at 18, 22, 26, 30
    for x0, x1, expected in (
        (17.9, 22.1, [A, A, BLANK, BLANK]),
        (18.1, 21.9, [BLANK] * 4),
        (16, 26.1, [A, A, A, BLANK]),
        (29.9, 40, [BLANK, BLANK, BLANK, A]),
    ):
        targets = glyph_targets([GlyphBox("A", x0, 16, x1, 32)], (128, 64), LAYOUT)
        assert targets[0].view(4, 4, 4)[1, 1].tolist() == expected, x0


def test_a_glyph_in_the_second_tile_is_in_the_second_tile():
    targets = glyph_targets([GlyphBox("A", 64, 0, 80, 16)], (128, 64), LAYOUT)
    assert targets[0].eq(BLANK).all()
    assert targets[1].view(4, 4, 4)[0, 0].tolist() == [A] * 4


def test_a_row_that_is_only_grazed_is_not_asked_and_an_unknown_glyph_is_other():
    targets = glyph_targets([GlyphBox("漢", 0, 12, 16, 32)], (128, 64), LAYOUT)
    first_tile = targets[0].view(4, 4, 4)
    assert first_tile[0, 0].tolist() == [NOT_ASKED] * 4  # 4 of 16 px
    assert first_tile[1, 0].tolist() == [OTHER] * 4


def test_boxes_follow_the_scaling_and_centring_of_the_image():
    # A 64 x 16 image fits one tile as it is, and lies in the middle of it.
    targets = glyph_targets([GlyphBox("A", 0, 0, 16, 16)], (64, 16), LAYOUT)
    tile = targets[0].view(4, 4, 4)
    top = (64 - 16) // 2  # 24: half of patch row 1, half of patch row 2
    assert top == 24
    assert tile[1, 0].tolist() == [A] * 4
    assert tile[2, 0].tolist() == [A] * 4
    assert tile[0, 0].tolist() == [BLANK] * 4


def test_the_overview_is_not_asked():
    layout = ImageLayout(64, 16, "anyres", "(1x1),...,(4x1)", "spatial_unpad")
    targets = glyph_targets([GlyphBox("A", 16, 16, 24, 32)], (128, 64), layout)
    assert targets.shape == (3, 16, 4)
    assert targets[0].eq(NOT_ASKED).all()
    assert targets[1].view(4, 4, 4)[1, 1, 0] == A
