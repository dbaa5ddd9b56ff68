"""`NativeLayout`: an image as one grid of patches at its own aspect ratio, within a budget of tokens.

The rule is that of SigLIP2 NaFlex (Tschannen et al. 2025, section 2.4; `transformers`,
`models/siglip2/image_processing_siglip2.py`: `get_image_size_for_max_num_patches`): the image is scaled, and each side
then rounded up to whole squares, so that nothing is padded. Three things differ. What is rounded to and what is counted
are tokens instead of patches, as neighbouring patches are merged into tokens; row ends count, since they stand in the
prompt as well; and no image is enlarged: a line of 400 x 24 pixels holds no more than it does. `image_height` makes all
images equally high, smaller ones too: a model that reads lines then sees letters at one size, whatever the resolution.

To everything but the tower such an image is a grid of tiles of one patch each, without an overview and without padding.
So the plan is an `ImagePlan`, and what cuts pixels, places glyphs and counts has no second way of doing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from parsit.tiling.layout import POOL_MODES, ImagePlan, require_one_of

NATIVE = "native"
_MERGE_TYPES = ("spatial", "spatial_unpad")
# Between which scales the largest that fits is looked for, and how closely: as in `transformers`, so that sizes agree.
_SMALLEST_SCALE, _LARGEST_SCALE, _SCALE_STEP = 1e-6, 100.0, 1e-5
_HAIR = 1e-9


@dataclass(frozen=True)
class NativeLayout:
    """The choices that decide how images become tokens where no tiles are cut.

    Args:
        patch_size: side of a patch in pixels.
        max_image_tokens: the most tokens that an image becomes, row ends included.
        mm_patch_merge_type: `spatial_unpad`: each row of tokens is closed by `image_newline`; `spatial`: it is not.
        mm_spatial_pool_stride, mm_spatial_pool_mode, mm_pixel_shuffle: as for `ImageLayout`.
        image_height: pixels that every image is scaled to in height, unless it would have too many tokens; None: a
            size of its own.

    Raises:
        ValueError: a choice that does not exist or does not fit the others.
    """

    patch_size: int
    max_image_tokens: int
    mm_patch_merge_type: str = "spatial_unpad"
    mm_spatial_pool_stride: int = 1
    mm_spatial_pool_mode: str = "bilinear"
    mm_pixel_shuffle: int = 1
    image_height: int | None = None

    # What a row of `pixel_values` is called, and how many patches lie along a side of it.
    unit: ClassVar[str] = "patches"
    patches_per_side: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.mm_patch_merge_type not in _MERGE_TYPES:
            raise ValueError(
                f"mm_patch_merge_type {self.mm_patch_merge_type} puts tiles together, and image_aspect_ratio native "
                "has none: use spatial_unpad (rows closed by image_newline) or spatial"
            )
        require_one_of("mm_spatial_pool_mode", self.mm_spatial_pool_mode, POOL_MODES)
        for name in ("mm_spatial_pool_stride", "mm_pixel_shuffle"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        least = 1 + self.has_newline
        if self.max_image_tokens < least:
            raise ValueError(f"max_image_tokens is {self.max_image_tokens}: the smallest image has {least}")
        side = self.patch_size * math.prod(self.patches_per_token)
        if self.image_height is not None and (self.image_height < side or self.image_height % side):
            raise ValueError(f"image_height is {self.image_height}: it must be a multiple of a token's {side} pixels")

    @property
    def image_size(self) -> int:
        """Side of a row of `pixel_values` in pixels: a patch's."""
        return self.patch_size

    @property
    def has_newline(self) -> bool:
        """Whether rows end with the learned `image_newline`."""
        return self.mm_patch_merge_type == "spatial_unpad"

    @property
    def patches_per_token(self) -> tuple[int, int]:
        """Along a side of a token's square: (what is pooled after the projector, what is shuffled before it)."""
        return self.mm_spatial_pool_stride, self.mm_pixel_shuffle

    @property
    def max_tiles_per_image(self) -> int:
        """The most patches that an image has."""
        return self.max_image_tokens * math.prod(self.patches_per_token) ** 2

    def plan(self, width: int, height: int) -> ImagePlan:
        """The plan for an image of `width` x `height` pixels (after EXIF rotation).

        Raises:
            ValueError: a side smaller than one pixel.
        """
        if width < 1 or height < 1:
            raise ValueError(f"an image of {width} x {height} pixels has no patches")
        return _plan(self, width, height)

    def num_image_tokens(self, width: int, height: int) -> int:
        """Tokens that an image of this size becomes."""
        return self.plan(width, height).num_tokens

    @property
    def largest_image(self) -> tuple[int, int]:
        """(width, height) of an image that becomes as many tokens as any: the squarest that fills the budget."""
        most = self.max_image_tokens
        shapes = [(rows, most // rows - self.has_newline) for rows in range(1, most + 1) if most % rows == 0]
        rows, columns = min((s for s in shapes if s[1] > 0), key=lambda shape: abs(shape[0] - shape[1]))
        pixels = math.prod(self.patches_per_token) * self.patch_size
        return columns * pixels, rows * pixels


@lru_cache(maxsize=65536)
def _plan(layout: NativeLayout, width: int, height: int) -> ImagePlan:
    side = math.prod(layout.patches_per_token)
    wanted = layout.image_height / height if layout.image_height else 1.0

    def tokens_at(scale: float) -> tuple[int, int]:
        pixels = side * layout.patch_size
        # A height that was divided and multiplied again may be a hair more than it was.
        columns, rows = (max(1, math.ceil(length * scale / pixels - _HAIR)) for length in (width, height))
        return columns, rows

    def fits(scale: float) -> bool:
        columns, rows = tokens_at(scale)
        return rows * (columns + layout.has_newline) <= layout.max_image_tokens

    columns, rows = tokens_at(wanted if fits(wanted) else _largest(fits))
    grid = columns * side, rows * side
    return ImagePlan(
        grid=grid,
        resized=(grid[0] * layout.patch_size, grid[1] * layout.patch_size),
        crop=(0, rows, 0, columns),
        shrunk=None,
        overview=False,
        num_tokens=rows * (columns + layout.has_newline),
    )


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest scale that fits, by bisection."""
    low, high = _SMALLEST_SCALE, _LARGEST_SCALE
    while high - low >= _SCALE_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
