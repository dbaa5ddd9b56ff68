"""Grids and token counts against LLaVA-NeXT's rules, written out here a second time from its published code."""

from __future__ import annotations

import math
import random

import pytest

from parsit.tiling import ImageLayout


def llava_best_resolution(size, resolutions):
    """llava/mm_utils.py select_best_resolution."""
    width, height = size
    best, max_effective, min_wasted = None, 0, float("inf")
    for w, h in resolutions:
        scale = min(w / width, h / height)
        down_w, down_h = int(width * scale), int(height * scale)
        effective = min(down_w * down_h, width * height)
        wasted = w * h - effective
        if effective > max_effective or (effective == max_effective and wasted < min_wasted):
            best, max_effective, min_wasted = (w, h), effective, wasted
    return best


def llava_unpadded(size, height, width):
    """llava/model/llava_arch.py unpad_image: (height, width) of what is left."""
    original_w, original_h = size
    if original_w / original_h > width / height:
        new_h = int(original_h * (width / original_w))
        padding = (height - new_h) // 2
        return height - 2 * padding, width
    new_w = int(original_w * (height / original_h))
    padding = (width - new_w) // 2
    return height, width - 2 * padding


def llava_num_tokens(size, side, tile, resolutions, merge_type, max_patches):
    """llava/model/llava_arch.py prepare_inputs_labels_for_multimodal, one image under anyres: (grid, tokens)."""
    best = llava_best_resolution(size, resolutions)
    columns, rows = best[0] // tile, best[1] // tile
    height, width = rows * side, columns * side
    if "unpad" in merge_type:
        height, width = llava_unpadded(size, height, width)
        if max_patches:
            times = math.sqrt(height * width / (max_patches * side**2))
            if times > 1.1:
                height, width = int(height // times), int(width // times)
        width += 1  # image_newline
    base = 0 if "nobase" in merge_type else side * side
    return (columns, rows), base + height * width


@pytest.mark.parametrize(
    ("merge_type", "mode", "pinpoints"),
    [
        ("flat", "anyres", "(1x1),...,(4x5)"),
        ("spatial", "anyres", "(1x1),...,(4x5)"),
        ("spatial_unpad", "anyres", "(1x1),...,(4x5)"),
        ("spatial_unpad_nobase", "anyres", "(1x1),...,(4x5)"),
        ("spatial_unpad", "anyres_max_4", "(1x1),...,(6x6)"),
        ("spatial_unpad_nobase", "anyres_max_4", "(1x1),...,(6x6)"),
    ],
)
def test_grids_and_counts_are_llava_next_s_on_ten_thousand_sizes(merge_type, mode, pinpoints):
    layout = ImageLayout(384, 14, mode, pinpoints, merge_type)
    tile, side = 384, 27
    last = (4, 5) if mode == "anyres" else (6, 6)
    resolutions = [(c * tile, r * tile) for c in range(1, last[0] + 1) for r in range(1, last[1] + 1)]
    rng = random.Random(0)
    for _ in range(10_000):
        size = (rng.randint(8, 3000), rng.randint(8, 3000))
        if max(size) / min(size) > 25:  # LLaVA leaves such an image no row at all; see the next test
            continue
        grid, tokens = llava_num_tokens(size, side, tile, resolutions, merge_type, 4 if "max" in mode else 0)
        plan = layout.plan(*size)
        assert (plan.grid, plan.num_tokens) == (grid, tokens), size


def test_an_image_far_longer_than_wide_keeps_a_row():
    layout = ImageLayout(64, 16, "anyres", "(1x1),...,(4x4)", "spatial_unpad_nobase")
    assert layout.num_image_tokens(5000, 3) >= 4
    assert layout.num_image_tokens(3, 5000) >= 4


def test_counts_that_can_be_worked_out_by_hand():
    square = ImageLayout(384, 14, "pad", mm_patch_merge_type="flat")
    assert square.num_image_tokens(100, 100) == 27 * 27
    assert ImageLayout(384, 14, "pad").num_image_tokens(100, 100) == 27 * 27 + 1  # LLaVA's one newline
    pooled = ImageLayout(384, 14, "pad", mm_patch_merge_type="flat", mm_spatial_pool_stride=2)
    assert pooled.num_image_tokens(100, 100) == 14 * 14  # bilinear rounds up
    average = ImageLayout(
        384, 14, "pad", mm_patch_merge_type="flat", mm_spatial_pool_stride=2, mm_spatial_pool_mode="average"
    )
    assert average.num_image_tokens(100, 100) == 13 * 13  # an average pool drops the odd row
    shuffled = ImageLayout(384, 14, "pad", mm_patch_merge_type="flat", mm_pixel_shuffle=3)
    assert shuffled.num_image_tokens(100, 100) == 9 * 9
    # 768 x 384 is a 2 x 1 grid without padding: 27 rows of 54 and a newline, after 729 of the overview.
    assert ImageLayout(384, 14).num_image_tokens(768, 384) == 729 + 27 * 55


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_aspect_ratio": "anyres_max_0"}, "pad, anyres or anyres_max_N"),
        ({"mm_patch_merge_type": "round"}, "mm_patch_merge_type"),
        ({"mm_spatial_pool_mode": "sum"}, "mm_spatial_pool_mode"),
        ({"mm_pixel_shuffle": 2}, "27 x 27"),
        ({"image_grid_pinpoints": "2 by 2"}, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": "[[384,300]]"}, "multiples of the tile size"),
        ({"image_grid_pinpoints": "[[384"}, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": "[384,384]"}, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": "[[384,384.0]]"}, "whole numbers"),
        ({"image_grid_pinpoints": "[]"}, "multiples of the tile size"),
        ({"image_grid_pinpoints": ((384, 300),)}, "multiples of the tile size"),
        ({"image_aspect_ratio": "anyres_max_4", "mm_patch_merge_type": "spatial"}, "spatial_unpad"),
        ({"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride"),
    ],
)
def test_choices_that_do_not_exist_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        ImageLayout(384, 14, **values)


@pytest.mark.parametrize("text", ["[[384,768],[768,384]]", "[(384, 768), (768, 384)]", " [[384, 768], [768, 384]]"])
def test_pinpoints_in_pixels_are_read_as_llava_writes_them(text):
    layout = ImageLayout(384, 14, "anyres", text)
    assert layout.resolutions == ((384, 768), (768, 384)) == ImageLayout(384, 14, "anyres", "(1x2),(2x1)").resolutions
