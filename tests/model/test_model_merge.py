"""Tokens of a batch's images, gathered at once: those of the images put together one by one, in plain words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from parsit.model.merge import merge_images
from parsit.tiling import ImageLayout

SIZES = ((100, 40), (30, 200), (64, 64), (500, 20), (33, 31), (128, 96))
LAYOUTS = {
    "rows closed": ImageLayout(32, 8, "anyres", "(1x1),...,(4x4)", "spatial_unpad"),
    "no overview": ImageLayout(32, 8, "anyres", "(1x1),...,(4x4)", "spatial_unpad_nobase"),
    "raster": ImageLayout(32, 8, "anyres", "(1x1),...,(4x4)", "spatial"),
    "tile after tile": ImageLayout(32, 8, "anyres", "(1x1),...,(4x4)", "flat"),
    "shrunk": ImageLayout(32, 8, "anyres_max_2", "(1x1),...,(4x4)", "spatial_unpad"),
    "one square": ImageLayout(32, 8, "pad"),
    "one square without an end": ImageLayout(32, 8, "pad", mm_patch_merge_type="flat"),
}


def one_by_one(features, plans, layout, newline):
    """LLaVA-NeXT's way: tile by tile into a map, the map cut and shrunk, an end behind each row."""
    side, images, first = layout.features_per_side, [], 0
    for plan in plans:
        tiles = features[first : first + plan.num_tiles]
        first += plan.num_tiles
        tokens = list(tiles[0]) if plan.overview else []
        columns, rows = plan.grid
        if layout.mm_patch_merge_type == "flat":
            tokens = [token for tile in tiles for token in tile]
        elif plan.grid != (0, 0):
            whole = torch.zeros(rows * side, columns * side, features.shape[-1])
            for number, tile in enumerate(tiles[int(plan.overview) :]):
                top, left = number // columns * side, number % columns * side
                whole[top : top + side, left : left + side] = tile.view(side, side, -1)
            top, bottom, left, right = plan.crop
            kept = whole[top:bottom, left:right]
            if plan.shrunk:
                kept = F.interpolate(kept.permute(2, 0, 1)[None], plan.shrunk, mode="bilinear")[0].permute(1, 2, 0)
            for row in kept:
                tokens += [*row, newline] if newline is not None else [*row]
        elif newline is not None:
            tokens.append(newline)
        images += tokens
    return torch.stack(images)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_all_images_at_once_are_the_images_one_by_one(layout):
    torch.manual_seed(0)
    plans = [layout.plan(*size) for size in SIZES]
    assert any(plan.shrunk for plan in plans) == bool(layout.max_num_patches)
    features = torch.randn(sum(plan.num_tiles for plan in plans), layout.features_per_side**2, 6, requires_grad=True)
    newline = torch.randn(6, requires_grad=True) if layout.has_newline else None
    found, expected = (way(features, plans, layout, newline) for way in (merge_images, one_by_one))
    assert len(found) == sum(plan.num_tokens for plan in plans)
    assert torch.equal(found, expected)
    weights = torch.randn_like(found)
    inputs = [features] if newline is None else [features, newline]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
