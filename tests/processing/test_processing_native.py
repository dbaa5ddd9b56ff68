"""Patches, counts and glyph targets at native resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from parsit import hf
from parsit.processing.collate import collate
from parsit.processing.glyphs import BLANK, NOT_ASKED, glyph_targets
from parsit.processing.image_processor import ParsitImageProcessor
from parsit.tiling import NativeLayout
from parsit.types import GlyphBox, ImageRef, Turn

A, B = 2 + (ord("A") - 33), 2 + (ord("B") - 33)


@pytest.fixture(scope="module")
def processor(mini_native):
    return hf.new_processor(mini_native)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def images_of(patch_size, budget, **values):
    return ParsitImageProcessor(None, patch_size, "native", max_image_tokens=budget, **values)


def test_an_image_that_fits_is_cut_into_its_patches_row_by_row():
    image = noise(48, 32)
    pixels = images_of(16, 100).pixels(image)
    assert (pixels.shape, pixels.dtype) == ((6, 3, 16, 16), torch.uint8)
    for number, patch in enumerate(pixels):
        y, x = 16 * (number // 3), 16 * (number % 3)
        assert np.array_equal(patch.permute(1, 2, 0).numpy(), np.asarray(image)[y : y + 16, x : x + 16])


def test_another_image_is_scaled_to_whole_tokens_without_padding():
    pixels = images_of(8, 100, mm_pixel_shuffle=2).pixels(Image.new("RGB", (33, 5), (7, 8, 9)))
    assert pixels.shape == (2 * 6, 3, 8, 8)  # 48 x 16 pixels
    assert {tuple(colour) for colour in pixels.permute(0, 2, 3, 1).reshape(-1, 3).tolist()} == {(7, 8, 9)}


@pytest.mark.parametrize("sizes", [[], [(90, 40)], [(30, 200), (5, 5), (400, 300)]])
def test_what_is_counted_from_headers_is_what_is_encoded(processor, picture, sizes):
    images = [ImageRef(picture(*size, name=f"{number}.png")) for number, size in enumerate(sizes)]
    turns = (Turn("user", (*images, "Read.")), Turn("assistant", ("Hi",)))
    features = processor.encode(turns, with_glyphs=True)
    assert processor.count(turns) == (len(features.input_ids), 0 if features.pixels is None else len(features.pixels))
    expected = sum(processor.image_processor.layout.num_image_tokens(*size) for size in sizes)
    assert len(features.image_positions) == expected
    called = processor(images=[image.source for image in images], text="<|image_pad|>" * len(sizes))
    assert (called["input_ids"] == processor.chat_tokens.image).sum() == expected
    if sizes:
        assert torch.equal(called["pixel_values"], features.pixel_values)
        batch = collate([features, features], processor.chat_tokens.pad)
        assert torch.equal(batch.pixels, torch.cat([features.pixels] * 2))
        assert batch.glyph_targets.shape[:2] == (len(batch.pixels), 1)


# Patches of 16 px with 4 slots of 4 px each.
LAYOUT = NativeLayout(16, 1000)


def test_a_glyph_marks_the_slots_of_its_patches():
    glyphs = [GlyphBox("A", 16, 16, 24, 32), GlyphBox("B", 24, 16, 28, 32)]
    targets = glyph_targets(glyphs, (64, 48), LAYOUT)
    assert targets.shape == (12, 1, 4)
    assert targets[1 * 4 + 1, 0].tolist() == [A, A, B, BLANK]  # second row, second column
    assert (targets != BLANK).sum() == 3


def test_boxes_follow_the_scaling_of_each_side():
    # 50 x 20 pixels become 64 x 32: sides are scaled apart, and nothing is shifted.
    targets = glyph_targets([GlyphBox("A", 25, 10, 50, 20)], (50, 20), LAYOUT).view(2, 4, 4)
    assert targets[1].tolist() == [[BLANK] * 4] * 2 + [[A] * 4] * 2
    assert targets[0].eq(BLANK).all()


def test_boxes_follow_an_image_that_is_scaled_down():
    layout = NativeLayout(16, 6, "spatial")  # 96 x 64 pixels to 48 x 32
    assert layout.plan(96, 64).resized == (48, 32)
    targets = glyph_targets([GlyphBox("A", 32, 32, 64, 64)], (96, 64), layout).view(2, 3, 4)
    assert targets[1].tolist() == [[BLANK] * 4, [A] * 4, [BLANK] * 4]
    assert targets[0].eq(BLANK).all()


def test_an_image_without_known_glyphs_is_not_asked(processor, picture):
    known, unknown = picture(32, 32, name="a.png"), picture(16, 16, name="b.png")
    images = (ImageRef(known, (GlyphBox("A", 0, 0, 8, 8),)), ImageRef(unknown))
    targets = processor.encode((Turn("user", (*images, "Read.")),), with_glyphs=True).glyph_targets
    assert targets.shape[0] == 16 + 4
    assert targets[:16].ne(NOT_ASKED).all()
    assert targets[16:].eq(NOT_ASKED).all()
