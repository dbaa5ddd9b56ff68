"""`ImageLayout`: the rules from an image's size to its tiles, its feature grid and its token count.

The rules are LLaVA-NeXT's (`llava/mm_utils.py`: `select_best_resolution`, `resize_and_pad_image`,
`process_anyres_image`; `llava/model/llava_arch.py`: `unpad_image`, `get_2dPool`,
`prepare_inputs_labels_for_multimodal`), so that grids and counts are those a LLaVA-NeXT user knows.
What is ours: everything is computed once, from the size alone, into an `ImagePlan` that both the
processor and the model follow; LLaVA computes it twice and finds out late when the two differ.

Sizes are (width, height) in pixels, as Pillow gives them; grids are (columns, rows).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

PATCH_MERGE_TYPES = ("flat", "spatial", "spatial_unpad", "spatial_nobase", "spatial_unpad_nobase")
POOL_MODES = ("average", "max", "bilinear")

# LLaVA-NeXT shrinks an `anyres_max_N` grid only when it is more than 10 % too long on each side.
_MAX_SHRINK_SLACK = 1.1


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How one image is cut and put together again.

    `grid`: (columns, rows) of tiles, (0, 0) when the overview tile is all there is. Under native resolution
    (`NativeLayout`) a tile is one patch.
    `resized`: (width, height) to which the image is scaled before it is centred on the grid.
    `crop`: (top, bottom, left, right) rows and columns of the grid's feature map, patches merged to tokens, that are
    kept (without padding when the merge type has `unpad`).
    `shrunk`: (height, width) to which the kept map is interpolated, None when it is not.
    `num_tokens`: tokens in all, the overview's and the row ends' included.
    """

    grid: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    shrunk: tuple[int, int] | None
    overview: bool
    num_tokens: int

    @property
    def num_tiles(self) -> int:
        """Tiles that go through the vision tower: the overview first, then the grid row by row."""
        return int(self.overview) + self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class ImageLayout:
    """The choices that decide how images become tokens.

    Args:
        image_size: side of a tile in pixels.
        patch_size: side of a patch in pixels.
        image_aspect_ratio: `pad` (one square tile), `anyres` or `anyres_max_N` (N: the grid's
            feature map holds at most about N tiles' worth of tokens).
        image_grid_pinpoints: for anyres, either `(1x1),...,(6x6)` (columns x rows, all between) or
            a list of (width, height) in pixels.
        mm_patch_merge_type: `flat` (tile after tile), `spatial` (one raster over all tiles),
            `spatial_unpad` (without the padding, each row closed by `image_newline`); `_nobase`
            leaves the overview tile out.
        mm_spatial_pool_stride: side of the square of tokens pooled into one, after the projector.
        mm_spatial_pool_mode: `average`, `max` or `bilinear`.
        mm_pixel_shuffle: side of the square of patches concatenated into one token, before the projector.

    Raises:
        ValueError: a choice that does not exist or does not fit the others.
    """

    image_size: int
    patch_size: int
    image_aspect_ratio: str = "anyres"
    image_grid_pinpoints: str | tuple[tuple[int, int], ...] = "(1x1),...,(2x2)"
    mm_patch_merge_type: str = "spatial_unpad"
    mm_spatial_pool_stride: int = 1
    mm_spatial_pool_mode: str = "bilinear"
    mm_pixel_shuffle: int = 1

    # What a row of `pixel_values` is called.
    unit: ClassVar[str] = "tiles"

    def __post_init__(self) -> None:
        if not isinstance(self.image_grid_pinpoints, str):  # JSON gives lists, which cannot be hashed
            object.__setattr__(self, "image_grid_pinpoints", tuple(tuple(pair) for pair in self.image_grid_pinpoints))
        if not re.fullmatch(r"pad|anyres|anyres_max_[1-9]\d*", self.image_aspect_ratio):
            raise ValueError(
                f"image_aspect_ratio is {self.image_aspect_ratio!r}: use pad, anyres or anyres_max_N, or native "
                "with a tower that takes it"
            )
        require_one_of("mm_patch_merge_type", self.mm_patch_merge_type, PATCH_MERGE_TYPES)
        require_one_of("mm_spatial_pool_mode", self.mm_spatial_pool_mode, POOL_MODES)
        if self.max_num_patches and "unpad" not in self.mm_patch_merge_type:
            raise ValueError(f"{self.image_aspect_ratio} needs mm_patch_merge_type spatial_unpad")
        if self.mm_pixel_shuffle < 1 or self.patches_per_side % self.mm_pixel_shuffle:
            raise ValueError(
                f"mm_pixel_shuffle {self.mm_pixel_shuffle} does not divide the tower's "
                f"{self.patches_per_side} x {self.patches_per_side} patches"
            )
        if not 1 <= self.mm_spatial_pool_stride <= self.patches_per_side // self.mm_pixel_shuffle:
            raise ValueError(f"mm_spatial_pool_stride {self.mm_spatial_pool_stride} does not fit the feature map")
        if self.is_anyres:
            _ = self.resolutions

    @property
    def is_anyres(self) -> bool:
        """Whether images are cut into a grid of tiles."""
        return self.image_aspect_ratio.startswith("anyres")

    @property
    def max_num_patches(self) -> int:
        """N of `anyres_max_N`; 0 when there is no limit."""
        return int(self.image_aspect_ratio.removeprefix("anyres_max_")) if "_max_" in self.image_aspect_ratio else 0

    @property
    def has_newline(self) -> bool:
        """Whether rows end with the learned `image_newline`."""
        return "unpad" in self.mm_patch_merge_type

    @property
    def has_overview(self) -> bool:
        """Whether a tile shows the whole image."""
        return not (self.is_anyres and self.mm_patch_merge_type.endswith("_nobase"))

    @property
    def max_tiles_per_image(self) -> int:
        """The most tiles that an image has."""
        sides = ((width // self.image_size, height // self.image_size) for width, height in self.resolutions)
        grid = max(columns * rows for columns, rows in sides) if self.is_anyres else 0
        return grid + self.has_overview

    @property
    def patches_per_side(self) -> int:
        """Patches along a tile's side, as the tower gives them."""
        return self.image_size // self.patch_size

    @property
    def features_per_side(self) -> int:
        """Tokens along a tile's side after pixel shuffle and pooling."""
        side = self.patches_per_side // self.mm_pixel_shuffle
        stride = self.mm_spatial_pool_stride
        return math.ceil(side / stride) if self.mm_spatial_pool_mode == "bilinear" else side // stride

    @property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """The (width, height) that a grid may have, in pixels."""
        return _resolutions(self.image_grid_pinpoints, self.image_size)

    def plan(self, width: int, height: int) -> ImagePlan:
        """The plan for an image of `width` x `height` pixels (after EXIF rotation).

        Raises:
            ValueError: a side smaller than one pixel.
        """
        if width < 1 or height < 1:
            raise ValueError(f"an image of {width} x {height} pixels has no tiles")
        return _plan(self, width, height)

    def num_image_tokens(self, width: int, height: int) -> int:
        """Tokens that an image of this size becomes."""
        return self.plan(width, height).num_tokens

    @property
    def largest_image(self) -> tuple[int, int]:
        """(width, height) of an image that becomes as many tokens as any."""
        return _largest_image(self)


@lru_cache
def _resolutions(pinpoints: str | tuple[tuple[int, int], ...], image_size: int) -> tuple[tuple[int, int], ...]:
    if isinstance(pinpoints, str) and pinpoints.lstrip().startswith("["):
        pinpoints = _parse_pixel_list(pinpoints)
    if isinstance(pinpoints, str):
        return tuple((columns * image_size, rows * image_size) for columns, rows in _parse_grid_range(pinpoints))
    if not pinpoints or any(side % image_size or side <= 0 for pair in pinpoints for side in pair):
        raise ValueError(f"image_grid_pinpoints must be multiples of the tile size {image_size}: {pinpoints}")
    return tuple((int(width), int(height)) for width, height in pinpoints)


@lru_cache
def _largest_image(layout: ImageLayout) -> tuple[int, int]:
    """A grid that is filled; where `anyres_max_N` shrinks those, the part of one that is just not shrunk."""
    if not layout.is_anyres:
        return layout.image_size, layout.image_size
    sizes = list(layout.resolutions)
    if layout.max_num_patches:
        steps = layout.features_per_side
        for width, height in layout.resolutions:
            rows, columns = height // layout.image_size * steps, width // layout.image_size * steps
            sizes += [(width, math.ceil(height * kept / rows)) for kept in range(1, rows)]
            sizes += [(math.ceil(width * kept / columns), height) for kept in range(1, columns)]
    return max(sizes, key=lambda size: layout.num_image_tokens(*size))


@lru_cache(maxsize=65536)
def _plan(layout: ImageLayout, width: int, height: int) -> ImagePlan:
    side = layout.features_per_side
    if not layout.is_anyres:
        resized = fit_inside((width, height), (layout.image_size, layout.image_size))
        tokens = side * side + int(layout.has_newline)
        return ImagePlan((0, 0), resized, (0, 0, 0, 0), None, True, tokens)
    best = select_best_resolution((width, height), layout.resolutions)
    columns, rows = best[0] // layout.image_size, best[1] // layout.image_size
    map_height, map_width = rows * side, columns * side
    crop = (0, map_height, 0, map_width)
    shrunk = None
    overview_tokens = side * side if layout.has_overview else 0
    if layout.has_newline:
        crop = unpad((width, height), map_width, map_height)
        kept_height, kept_width = crop[1] - crop[0], crop[3] - crop[2]
        shrunk = _shrink(kept_height, kept_width, side, layout.max_num_patches)
        kept_height, kept_width = shrunk or (kept_height, kept_width)
        tokens = overview_tokens + kept_height * (kept_width + 1)
    else:
        tokens = overview_tokens + map_height * map_width
    return ImagePlan((columns, rows), fit_inside((width, height), best), crop, shrunk, layout.has_overview, tokens)


def select_best_resolution(size: tuple[int, int], resolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution that keeps most of the image's pixels, then the one that wastes fewest (LLaVA-NeXT)."""
    width, height = size

    def score(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - resolution[0] * resolution[1]

    return max(resolutions, key=score)


def fit_inside(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """`size` scaled, its aspect kept, to touch `frame` from inside (LLaVA-NeXT's `resize_and_pad_image`)."""
    (width, height), (frame_width, frame_height) = size, frame
    scale_x, scale_y = frame_width / width, frame_height / height
    if scale_x < scale_y:
        return frame_width, min(math.ceil(height * scale_x), frame_height)
    return min(math.ceil(width * scale_y), frame_width), frame_height


def unpad(size: tuple[int, int], map_width: int, map_height: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a feature map without its padding (LLaVA-NeXT's `unpad_image`).

    One row or column at least is kept: LLaVA's rule leaves none for an image that is far longer
    than wide, and then the image would vanish from the prompt.
    """
    width, height = size
    if width / height > map_width / map_height:
        kept = max(1, int(height * (map_width / width)))
        padding = (map_height - kept) // 2
        return padding, map_height - padding, 0, map_width
    kept = max(1, int(width * (map_height / height)))
    padding = (map_width - kept) // 2
    return 0, map_height, padding, map_width - padding


def _shrink(height: int, width: int, side: int, max_num_patches: int) -> tuple[int, int] | None:
    """(height, width) that `anyres_max_N` interpolates the map to; None where it fits as it is."""
    if not max_num_patches:
        return None
    times = math.sqrt(height * width / (max_num_patches * side**2))
    if times <= _MAX_SHRINK_SLACK:
        return None
    return max(1, int(height // times)), max(1, int(width // times))


def _parse_grid_range(text: str) -> list[tuple[int, int]]:
    """(columns, rows) pairs of `(1x1),...,(6x6)`; also of a plain list such as `(1x2),(2x1)`."""
    pairs = [(int(columns), int(rows)) for columns, rows in re.findall(r"\((\d+)x(\d+)\)", text)]
    if not pairs or any(0 in pair for pair in pairs):
        raise ValueError(f"image_grid_pinpoints {text!r}: write (1x1),...,(6x6) or a list such as (1x2),(2x1)")
    if "..." not in text:
        return pairs
    (first_column, first_row), (last_column, last_row) = pairs[0], pairs[-1]
    return [(c, r) for c in range(first_column, last_column + 1) for r in range(first_row, last_row + 1)]


def _parse_pixel_list(text: str) -> tuple[tuple[int, int], ...]:
    """(width, height) pairs in pixels of a list as LLaVA writes it: `[[384,768],[768,384]]`, `[(384, 768), …]`."""
    try:
        pairs = json.loads(text.replace("(", "[").replace(")", "]"))
        sizes = tuple((width, height) for width, height in pairs)
    except (ValueError, TypeError) as error:
        raise ValueError(f"image_grid_pinpoints {text!r}: write (1x1),...,(6x6) or [[384,768],[768,384]]") from error
    if not all(isinstance(side, int) for pair in sizes for side in pair):
        raise ValueError(f"image_grid_pinpoints {text!r}: sides are whole numbers of pixels")
    return sizes


def require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raise `ValueError` for a choice that does not exist."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}: use one of {', '.join(known)}")
