"""Features of tiles to the tokens of images: pooling, one raster over the tiles, row ends.

Everything follows the `ImagePlan`, whose numbers the processor wrote into the prompt; source:
LLaVA-NeXT, `llava/model/llava_arch.py`. A plan says where each token's feature lies, so that the
tokens of a whole batch are gathered at once: image by image there would be a dozen operations for
each, more than a small model has layers, and on a GPU each of them costs its launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
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


def merge_images(
    features_NPD: torch.Tensor, plans: Sequence[ImagePlan], layout: ImageLayout, newline_D: torch.Tensor | None
) -> torch.Tensor:
    """All images' tokens, one image after another.

    Args:
        features_NPD: `float[tiles of all images, features_per_side², D]`, of each image the overview first.
        plans: the images' plans.
        layout: the model's layout.
        newline_D: `float[D]`, the learned end of a row; None where the merge type has none.

    Returns:
        `float[sum of plan.num_tokens, D]`.
    """
    features_SD = features_NPD.flatten(0, 1)
    if any(plan.shrunk for plan in plans):
        of_images = features_NPD.split([plan.num_tiles for plan in plans])
        features_SD = torch.cat(
            [
                _shrunk(tiles, plan, layout) if plan.shrunk else tiles.flatten(0, 1)
                for tiles, plan in zip(of_images, plans, strict=True)
            ]
        )
    sources_M = _sources_of_batch(plans, layout)
    if newline_D is None:
        return features_SD.index_select(0, on_device(sources_M, features_SD.device))
    places = np.flatnonzero(sources_M >= 0)
    features_MD = features_SD.index_select(0, on_device(sources_M[places], features_SD.device))
    return _between_row_ends(features_MD, places, len(sources_M), newline_D)


def merge_rows(
    features_SD: torch.Tensor, shapes: Sequence[tuple[int, int]], newline_D: torch.Tensor | None
) -> torch.Tensor:
    """The tokens of images that have no tiles: each row closed, where the merge type has row ends.

    Args:
        features_SD: of all images, row by row.
        shapes: (rows, columns) of each image.
        newline_D: `float[D]`, the learned end of a row; None where the merge type has none.
    """
    if newline_D is None:
        return features_SD
    is_end = np.concatenate([np.tile(np.arange(columns + 1) == columns, rows) for rows, columns in shapes])
    return _between_row_ends(features_SD, np.flatnonzero(~is_end), len(is_end), newline_D)


def _between_row_ends(
    features_SD: torch.Tensor, places: np.ndarray, num_tokens: int, newline_D: torch.Tensor
) -> torch.Tensor:
    """`float[num_tokens, D]`: features at their places, row ends at the others."""
    # Each feature is used once at most, and row ends are one sum in the backward pass: the same to the bit each time.
    row_ends_MD = newline_D.to(features_SD.dtype).expand(num_tokens, -1)
    return row_ends_MD.index_copy(0, on_device(places, features_SD.device), features_SD)


def _sources_of_batch(plans: Sequence[ImagePlan], layout: ImageLayout) -> np.ndarray:
    """`int[M]`: which row of all images' features each token is; -1: the end of a row."""
    parts, first = [], 0
    for plan in plans:
        sources = _sources(plan, layout)
        parts.append(np.where(sources < 0, sources, sources + first))
        first += _num_features(plan, layout)
    return np.concatenate(parts)


def _num_features(plan: ImagePlan, layout: ImageLayout) -> int:
    of_tile = layout.features_per_side**2
    return plan.overview * of_tile + plan.shrunk[0] * plan.shrunk[1] if plan.shrunk else plan.num_tiles * of_tile


@lru_cache(maxsize=4096)
def _sources(plan: ImagePlan, layout: ImageLayout) -> np.ndarray:
    """`int[plan.num_tokens]`: as `_sources_of_batch`, of one image."""
    side = layout.features_per_side
    overview = np.arange(side * side if plan.overview else 0)
    row_end = [-1] * layout.has_newline
    if plan.grid == (0, 0):
        return np.concatenate([overview, np.array(row_end, np.int64)])
    columns, rows = plan.grid
    if plan.shrunk:
        map_HW = np.arange(plan.shrunk[0] * plan.shrunk[1]).reshape(plan.shrunk)
    elif layout.mm_patch_merge_type == "flat":
        map_HW = np.arange(rows * columns * side * side)[None]
    else:
        top, bottom, left, right = plan.crop
        tiles = np.arange(rows * columns * side * side).reshape(rows, columns, side, side)
        map_HW = tiles.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)[top:bottom, left:right]
    closed_HW = np.pad(map_HW + len(overview), ((0, 0), (0, len(row_end))), constant_values=-1)
    return np.concatenate([overview, closed_HW.ravel()])


def on_device(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor on a device, without waiting for what a GPU has still to do."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _shrunk(tiles_NPD: torch.Tensor, plan: ImagePlan, layout: ImageLayout) -> torch.Tensor:
    """An image's features where `anyres_max_N` shrinks its map: `float[overview + height * width, D]`."""
    assert plan.shrunk is not None
    first = int(plan.overview)
    top, bottom, left, right = plan.crop
    columns, rows = plan.grid
    side = layout.features_per_side
    blocks = tiles_NPD[first:].unflatten(1, (side, side)).unflatten(0, (rows, columns))
    kept_HWD = blocks.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)[top:bottom, left:right]
    small_HWD = F.interpolate(kept_HWD.permute(2, 0, 1)[None], size=plan.shrunk, mode="bilinear")[0].permute(1, 2, 0)
    return torch.cat([tiles_NPD[:first].flatten(0, 1), small_HWD.flatten(0, 1)])
