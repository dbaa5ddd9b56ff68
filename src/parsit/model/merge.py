"""Features of tiles to the token sequence of an image: pooling, one raster over the tiles, row ends.

Everything follows the `ImagePlan`, whose numbers the processor wrote into the prompt; source:
LLaVA-NeXT, `llava/model/llava_arch.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from parsit.tiling import ImageLayout, ImagePlan


def pool_tiles(features_NPD: torch.Tensor, layout: ImageLayout) -> torch.Tensor:
    """`mm_spatial_pool_stride` squared tokens of a tile become one: `float[N, P, D]` to `float[N, P', D]`."""
    stride = layout.mm_spatial_pool_stride
    if stride == 1:
        return features_NPD
    side = layout.patches_per_side // layout.mm_pixel_shuffle
    map_NDHW = features_NPD.transpose(1, 2).unflatten(2, (side, side))
    if layout.mm_spatial_pool_mode == "bilinear":
        target = layout.features_per_side
        pooled = F.interpolate(map_NDHW, size=(target, target), mode="bilinear")
    elif layout.mm_spatial_pool_mode == "average":
        pooled = F.avg_pool2d(map_NDHW, stride)
    else:
        pooled = F.max_pool2d(map_NDHW, stride)
    return pooled.flatten(2).transpose(1, 2)


def merge_tiles(
    features_NPD: torch.Tensor, plan: ImagePlan, layout: ImageLayout, newline_D: torch.Tensor | None
) -> torch.Tensor:
    """One image's tokens.

    Args:
        features_NPD: `float[plan.num_tiles, features_per_side², D]`, the overview first.
        plan: the image's plan.
        layout: the model's layout.
        newline_D: `float[D]`, the learned end of a row; None where the merge type has none.

    Returns:
        `float[plan.num_tokens, D]`.
    """
    if plan.grid == (0, 0):
        tokens = features_NPD[0]
        return tokens if newline_D is None else torch.cat([tokens, newline_D[None].to(tokens)])
    overview = features_NPD[:1] if plan.overview else features_NPD[:0]
    tiles = features_NPD[int(plan.overview) :]
    if layout.mm_patch_merge_type == "flat":
        grid_TD = tiles.flatten(0, 1)
    else:
        raster_HWD = _raster(tiles, plan.grid, layout.features_per_side)
        grid_TD = raster_HWD.flatten(0, 1) if newline_D is None else _close_rows(raster_HWD, plan, newline_D)
    return torch.cat([overview.flatten(0, 1), grid_TD])


def _raster(tiles_NPD: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """`float[columns * rows, side², D]` to one map `float[rows * side, columns * side, D]`."""
    columns, rows = grid
    blocks = tiles_NPD.unflatten(1, (side, side)).unflatten(0, (rows, columns))
    return blocks.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)


def _close_rows(raster_HWD: torch.Tensor, plan: ImagePlan, newline_D: torch.Tensor) -> torch.Tensor:
    """The map without its padding, shrunk where `anyres_max_N` says so, a newline at the end of each row; flat."""
    top, bottom, left, right = plan.crop
    kept_HWD = raster_HWD[top:bottom, left:right]
    if plan.shrunk is not None:
        kept_HWD = F.interpolate(kept_HWD.permute(2, 0, 1)[None], size=plan.shrunk, mode="bilinear")[0].permute(1, 2, 0)
    newlines_H1D = newline_D.to(kept_HWD).expand(kept_HWD.shape[0], 1, -1)
    return torch.cat([kept_HWD, newlines_H1D], dim=1).flatten(0, 1)
