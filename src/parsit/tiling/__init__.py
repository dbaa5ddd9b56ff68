"""Geometry of images: what an image is cut into and how many tokens it becomes. Pure integers, no pixels.

Processing (which cuts the image and writes the placeholders) and the model (which puts the
features back together) both ask this room, so that the two can never disagree on a number.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeAlias

from parsit.tiling.layout import ImageLayout, ImagePlan
from parsit.tiling.native import NATIVE, NativeLayout

Layout: TypeAlias = ImageLayout | NativeLayout


def layout_of(source: Any, image_size: int | None, patch_size: int) -> Layout:
    """The layout whose choices are `source`'s attributes of the same names.

    Args:
        source: a configuration or an image processor; its `image_aspect_ratio` says whether images are cut into tiles.
        image_size: side of a tile in pixels; None: there are none.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: choices that do not fit each other.
    """
    native = source.image_aspect_ratio == NATIVE
    if native and source.max_image_tokens is None:
        raise ValueError("image_aspect_ratio native needs max_image_tokens: the most tokens of an image")
    if not native and source.max_image_tokens is not None:
        raise ValueError("max_image_tokens is for image_aspect_ratio native: image_grid_pinpoints bounds tiles")
    if not native and source.image_height is not None:
        raise ValueError("image_height is for image_aspect_ratio native: tiles have a size of their own")
    kind = NativeLayout if native else ImageLayout
    given = {"patch_size": patch_size} | ({} if native else {"image_size": image_size})
    names = [field.name for field in fields(kind) if field.name not in given]
    return kind(**given, **{name: getattr(source, name) for name in names})


__all__ = ["NATIVE", "ImageLayout", "ImagePlan", "Layout", "NativeLayout", "layout_of"]
