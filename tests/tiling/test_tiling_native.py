"""Grids and token counts at native resolution, against transformers' rule for SigLIP2 NaFlex and by hand."""

from __future__ import annotations

import random

import pytest

from parsit.tiling import ImageLayout, NativeLayout, layout_of

SIZES = [(1240, 1754), (2480, 3508), (1754, 1240), (100, 5000), (5000, 40), (640, 480), (1, 1), (33, 17)]


def transformers_size(width, height, patch_size, max_num_patches):
    try:  # 5.x keeps the rule beside the processor that needs no torchvision
        from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches as rule
    except ImportError:
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches as rule
    found = rule(height, width, patch_size, max_num_patches)
    return found[1], found[0]


@pytest.mark.parametrize(("shuffle", "budget"), [(1, 256), (1, 1024), (2, 256), (2, 729), (3, 100)])
def test_what_is_larger_than_the_budget_has_the_size_that_transformers_gives_it(shuffle, budget):
    layout = NativeLayout(16, budget, "spatial", mm_pixel_shuffle=shuffle)
    side = 16 * shuffle
    rng = random.Random(budget + shuffle)
    sizes = SIZES + [(rng.randint(1, 4000), rng.randint(1, 4000)) for _ in range(300)]
    larger = [(w, h) for w, h in sizes if -(-w // side) * -(-h // side) > budget]
    assert len(larger) > 100
    for width, height in larger:
        assert layout.plan(width, height).resized == transformers_size(width, height, side, budget), (width, height)


def test_what_fits_is_rounded_up_and_never_enlarged():
    layout = NativeLayout(16, 2304, mm_pixel_shuffle=2)
    plan = layout.plan(400, 24)
    assert plan.resized == (416, 32)
    assert plan.grid == (26, 2)
    assert plan.num_tokens == 13 + 1  # its row's end
    assert layout.plan(1, 1).grid == (2, 2)


def test_a_page_at_150_dpi():
    layout = NativeLayout(16, 2304, mm_pixel_shuffle=2)
    plan = layout.plan(1240, 1754)
    assert plan.grid == (78, 110)
    assert plan.num_tokens == 55 * (39 + 1)
    larger = layout.plan(2480, 3508)
    assert larger.num_tokens == 2296 == 56 * (40 + 1)


@pytest.mark.parametrize("merge_type", ["spatial", "spatial_unpad"])
def test_no_image_has_more_tokens_than_the_budget_nor_much_less_where_it_is_scaled_down(merge_type):
    rng = random.Random(7)
    layout = NativeLayout(8, 300, merge_type, mm_spatial_pool_stride=2)
    for width, height in SIZES + [(rng.randint(1, 5000), rng.randint(1, 5000)) for _ in range(300)]:
        plan = layout.plan(width, height)
        columns, rows = plan.grid[0] // 2, plan.grid[1] // 2
        assert plan.num_tokens == rows * (columns + (merge_type == "spatial_unpad")) <= 300
        assert plan.num_tiles == 4 * rows * columns <= layout.max_tiles_per_image
        if plan.resized[0] < width and min(columns, rows) > 3:  # one row and column more would be too many
            assert (rows + 1) * (columns + 2) > 300


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_image_tokens": None}, "image_aspect_ratio native needs max_image_tokens"),
        ({"max_image_tokens": 1}, "max_image_tokens is 1: the smallest image has 2"),
        ({"mm_patch_merge_type": "flat"}, "image_aspect_ratio native has none: use spatial_unpad"),
        ({"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride is 0"),
        ({"mm_spatial_pool_mode": "median"}, "mm_spatial_pool_mode is 'median'"),
        ({"image_aspect_ratio": "anyres"}, "max_image_tokens is for image_aspect_ratio native"),
        ({"image_height": 24}, "image_height is 24: it must be a multiple of a token's 16 pixels"),
        ({"image_height": 0}, "image_height is 0: it must be a multiple"),
        (
            {"image_aspect_ratio": "anyres", "max_image_tokens": None, "image_height": 32},
            "image_height is for image_aspect_ratio native: tiles have a size of their own",
        ),
    ],
)
def test_choices_that_do_not_fit_are_refused_by_name(values, message):
    class Source:
        image_aspect_ratio, max_image_tokens, image_grid_pinpoints = "native", 100, "(1x1),...,(2x2)"
        mm_patch_merge_type, mm_spatial_pool_mode = "spatial_unpad", "average"
        mm_spatial_pool_stride, mm_pixel_shuffle, image_height = 1, 2, None

    for name, value in values.items():
        setattr(Source, name, value)
    with pytest.raises(ValueError, match=message):
        layout_of(Source, 32, 8)


@pytest.mark.parametrize("height", [*range(9, 64), 100, 333, 1000])
def test_with_a_height_every_line_has_the_same_rows_whatever_its_resolution(height):
    layout = NativeLayout(16, 128, image_height=32)
    for width in (1, height // 2 + 1, 5 * height, 9 * height):
        plan = layout.plan(width, height)
        assert plan.grid[1] == 2
        assert 0 <= plan.resized[0] - width * 32 / height < 16 + 1e-6  # rounded up to whole patches
        assert plan.num_tokens == 2 * (plan.grid[0] + 1)


def test_what_is_too_long_for_its_height_is_scaled_down_to_the_budget():
    layout = NativeLayout(16, 128, image_height=32)
    assert layout.plan(63 * 16, 32).grid == (63, 2)
    assert layout.plan(63 * 16 + 1, 32).num_tokens <= 128
    assert layout.plan(2000, 20).grid == (100, 1)
    assert layout.plan(1240, 1754).grid == (2, 2)  # a page: such a model reads lines


def test_an_image_without_pixels_has_no_patches():
    with pytest.raises(ValueError, match="0 x 5 pixels has no patches"):
        NativeLayout(16, 100).plan(0, 5)


@pytest.mark.parametrize(("pinpoints", "most"), [("(1x1),...,(4x5)", 21), ("[[768,384]]", 3)])
def test_the_most_tiles_of_an_image(pinpoints, most):
    layout = ImageLayout(384, 14, image_grid_pinpoints=pinpoints)
    assert layout.max_tiles_per_image == most
    assert max(layout.plan(w, h).num_tiles for w, h in SIZES) <= most
