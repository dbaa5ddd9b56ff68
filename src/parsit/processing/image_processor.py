"""Pixels to tiles: what the vision tower sees of an image, as the `ImagePlan` says.

Under native resolution a tile is one patch, and the image is scaled bilinearly, as SigLIP2 NaFlex was trained
(`transformers`' Siglip2ImageProcessor).

Tiles are made and travel as bytes, and become the tower's numbers where they are used: on a GPU that is nothing, and a
quarter of the memory goes through workers and bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from parsit.processing.images import load_image
from parsit.tiling import NATIVE, Layout, layout_of
from parsit.types import InputError


@dataclass(frozen=True, slots=True)
class PixelScale:
    """From bytes to the tower's numbers: `(pixel / 255 - mean) / std` for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """`uint8[N, 3, S, S]` to `float[N, 3, S, S]`, on the device where they are; the same numbers on each."""
        mean_C11, std_C11 = _scale_on(self, pixels_NCHW.device)
        return pixels_NCHW.float().sub_(mean_C11).div_(std_C11)


@lru_cache
def _scale_on(scale: PixelScale, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of bytes, `float[3, 1, 1]` each; kept, so that no step waits for their copy."""
    mean, std = (torch.tensor(values).mul_(255).view(-1, 1, 1).to(device) for values in (scale.mean, scale.std))
    return mean, std


class ParsitImageProcessor(BaseImageProcessor):
    """Cuts images into normalised tiles.

    Args: those of `parsit.tiling.ImageLayout`, with the same meaning, and
        max_image_tokens, image_height: with `image_aspect_ratio` native, see `parsit.tiling.NativeLayout`; `image_size`
            is not used.
        image_mean, image_std: per channel, for values between 0 and 1; SigLIP's are 0.5.

    Padding has the colour of `image_mean`, so that it is zero for the tower (as LLaVA pads in
    `pad` mode; LLaVA-NeXT pads anyres grids with black, a hard edge beside every white page).
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012  (transformers' interface)

    def __init__(
        self,
        image_size: int | None = 384,
        patch_size: int = 14,
        image_aspect_ratio: str = "anyres",
        image_grid_pinpoints: str | list[list[int]] = "(1x1),...,(2x2)",
        mm_patch_merge_type: str = "spatial_unpad",
        mm_spatial_pool_stride: int = 1,
        mm_spatial_pool_mode: str = "bilinear",
        mm_pixel_shuffle: int = 1,
        max_image_tokens: int | None = None,
        image_height: int | None = None,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.patch_size = patch_size
        self.image_aspect_ratio = image_aspect_ratio
        self.image_grid_pinpoints = image_grid_pinpoints
        self.mm_patch_merge_type = mm_patch_merge_type
        self.mm_spatial_pool_stride = mm_spatial_pool_stride
        self.mm_spatial_pool_mode = mm_spatial_pool_mode
        self.mm_pixel_shuffle = mm_pixel_shuffle
        self.max_image_tokens = max_image_tokens
        self.image_height = image_height
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @property
    def layout(self) -> Layout:
        """The rules from an image's size to its tokens."""
        return layout_of(self, self.image_size, self.patch_size)

    @property
    def size(self) -> dict[str, int]:
        """Height and width in pixels of an image that becomes as many tokens as any: what vLLM makes room for."""
        width, height = self.layout.largest_image
        return {"height": height, "width": width}

    @property
    def scale(self) -> PixelScale:
        """What turns `pixels` into `tiles`."""
        return PixelScale(tuple(self.image_mean), tuple(self.image_std))

    def tiles(self, image: Image.Image) -> torch.Tensor:
        """`pixels` as the tower takes them, `float[num_tiles, 3, S, S]`."""
        return self.scale(self.pixels(image))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """`uint8[num_tiles, 3, S, S]`: the overview first, then the grid row by row. S: side of a tile."""
        layout = self.layout
        plan, size = layout.plan(*image.size), layout.image_size
        resample = Image.Resampling.BILINEAR if self.image_aspect_ratio == NATIVE else Image.Resampling.BICUBIC
        colour = tuple(round(255 * mean) for mean in self.image_mean)
        parts: list[np.ndarray] = []
        if plan.grid == (0, 0):
            parts.append(np.asarray(_centred(image, plan.resized, (size, size), colour, resample))[None])
        else:
            if plan.overview:
                parts.append(np.asarray(image.resize((size, size), resample))[None])
            columns, rows = plan.grid
            canvas = np.asarray(_centred(image, plan.resized, (columns * size, rows * size), colour, resample))
            blocks = canvas.reshape(rows, size, columns, size, 3).transpose(0, 2, 1, 3, 4)
            parts.append(blocks.reshape(rows * columns, size, size, 3))
        return torch.from_numpy(np.concatenate(parts).transpose(0, 3, 1, 2).copy())

    def __call__(self, images: Any, return_tensors: str | None = "pt", **_: Any) -> BatchFeature:  # type: ignore
        """Images (one, a list, or a list of lists; files, bytes or Pillow images) to one batch of tiles.

        Returns:
            `pixel_values` `float[N, 3, S, S]`, tiles of all images in order, and `image_sizes`
            `int[images, 2]`, (height, width).
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}: only 'pt' is supported")
        loaded = [load_image(image) for image in _flatten(images)]
        return BatchFeature(
            {
                "pixel_values": torch.cat([self.tiles(image) for image in loaded]),
                "image_sizes": torch.tensor([[image.height, image.width] for image in loaded]),
            }
        )

    preprocess = __call__  # type: ignore


def require_siglips_scale(folder: Path, tower: str) -> None:
    """Refuse a tower that was trained on pixels of another scale, where its image processor says so.

    Args:
        folder: the tower's.
        tower: its name, for the error.

    Raises:
        InputError: which scale it has.
    """
    try:
        values, _ = ParsitImageProcessor.get_image_processor_dict(folder)
    except OSError:
        return  # configuration and weights alone
    ours = ParsitImageProcessor()
    for name, expected in (("image_mean", ours.image_mean), ("image_std", ours.image_std)):
        if values.get(name, expected) != expected:
            raise InputError(f"{tower}: its pixels are scaled with {name} {values[name]}, SigLIP's with {expected}: it "
                             "would see other images than it was trained on")  # fmt: skip


def _centred(
    image: Image.Image,
    resized: tuple[int, int],
    frame: tuple[int, int],
    colour: tuple[int, ...],
    resample: Image.Resampling,
) -> Image.Image:
    """`image` scaled to `resized`, in the middle of a canvas of size `frame`."""
    scaled = image if image.size == resized else image.resize(resized, resample)
    if resized == frame:
        return scaled
    canvas = Image.new("RGB", frame, colour)
    canvas.paste(scaled, ((frame[0] - resized[0]) // 2, (frame[1] - resized[1]) // 2))
    return canvas


def _flatten(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in _flatten(item)]
    return [images]
