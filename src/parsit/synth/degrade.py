"""What scanning and copying do to a page: skew, blur, uneven light, paper, contrast, noise, JPEG.

Decides on cheap, seeded operations in 8 bits, in the order in which they happen to real paper. They
are drawn mildly enough that a person can still read the text; wear such as stains or folds is left out.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageFilter

Degrade = Literal["none", "light", "full"]
LEVELS: tuple[Degrade, ...] = ("none", "light", "full")


@dataclass(frozen=True, slots=True)
class Damage:
    """One page's damage.

    `skew_deg` turns the page; `blur_px` is a Gaussian's radius; `ink` and `paper` are the values
    (0..255) that black and white become, per channel; `shade` darkens one side by that share;
    `noise` is a standard deviation in grey values; `jpeg_quality` 0 stores PNG.
    """

    skew_deg: float = 0.0
    blur_px: float = 0.0
    ink: tuple[int, int, int] = (0, 0, 0)
    paper: tuple[int, int, int] = (255, 255, 255)
    shade: float = 0.0
    shade_deg: float = 0.0
    noise: float = 0.0
    gray: bool = False
    jpeg_quality: int = 0

    @property
    def suffix(self) -> str:
        """The file type that the damaged image is stored in."""
        return "jpg" if self.jpeg_quality else "png"


def draw_damage(rng: Random, level: Degrade, dpi: int) -> Damage:
    """Damage of a level; the blur grows with the resolution so that it stays as readable."""
    if level == "none":
        return Damage()
    full = level == "full"
    ink = rng.randint(0, 70 if full else 30)
    white = rng.randint(215 if full else 242, 255)
    warm = rng.randint(0, 22 if full else 6)
    return Damage(
        skew_deg=rng.uniform(-1.2, 1.2) if full and rng.random() < 0.7 else 0.0,
        blur_px=rng.uniform(0.2, 0.85) * dpi / 150 if full and rng.random() < 0.6 else 0.0,
        ink=(ink, ink, min(255, ink + rng.randint(0, 12))),
        paper=(white, white - warm // 3, white - warm),
        shade=rng.uniform(0.0, 0.2) if full and rng.random() < 0.4 else 0.0,
        shade_deg=rng.uniform(0, 360),
        noise=rng.uniform(0.0, 11.0 if full else 3.0),
        gray=rng.random() < 0.4,
        jpeg_quality=rng.randint(40 if full else 80, 95),
    )


def cut(
    image: Image.Image, box: tuple[float, float, float, float], skew_deg: float
) -> tuple[Image.Image, tuple[float, ...]]:
    """Cut `box` (x0, y0, x1, y1 in pixels) out of `image`, turned about the box's centre by `skew_deg`.

    Returns the cut and the affine map (a, b, c, d, e, f) from the image's to the cut's coordinates:
    x' = a·x + b·y + c, y' = d·x + e·y + f. Where the box leaves the image the cut is white.
    """
    x0, y0, x1, y1 = round(box[0]), round(box[1]), round(box[2]), round(box[3])
    width, height = x1 - x0, y1 - y0
    if skew_deg == 0.0:
        return image.crop((x0, y0, x1, y1)), (1.0, 0.0, -x0, 0.0, 1.0, -y0)
    cos, sin = math.cos(math.radians(skew_deg)), math.sin(math.radians(skew_deg))
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    inverse = (
        cos, sin, centre_x - cos * width / 2 - sin * height / 2,
        -sin, cos, centre_y + sin * width / 2 - cos * height / 2,
    )  # fmt: skip
    turned = image.transform(
        (width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor="white"
    )
    forward = (
        cos, -sin, width / 2 - cos * centre_x + sin * centre_y,
        sin, cos, height / 2 - sin * centre_x - cos * centre_y,
    )  # fmt: skip
    return turned, forward


def wear(image: Image.Image, damage: Damage, noise_rng: np.random.Generator) -> Image.Image:
    """Everything but skew and JPEG: blur, ink and paper, shade, noise; RGB in (L where `gray`), RGB or L out."""
    if damage.gray and image.mode != "L":
        image = image.convert("L")
    if damage.blur_px > 0.05:
        image = image.filter(ImageFilter.GaussianBlur(damage.blur_px))
    if (damage.ink, damage.paper) != ((0, 0, 0), (255, 255, 255)):
        image = image.point(tone_table(damage))
    if damage.shade:
        image = ImageChops.multiply(image, like(gradient(image.size, damage), image))
    if damage.noise > 0.2:
        image = ImageChops.add(image, like(noise_image(image.size, damage.noise, noise_rng), image), 1.0, -128)
    return image


def tone_table(damage: Damage) -> list[int]:
    """A lookup table that takes black to ink and white to paper (the first channel's, for grey images)."""
    channels = 1 if damage.gray else 3
    ink_C1, paper_C1 = (np.array(tone[:channels], np.float32)[:, None] for tone in (damage.ink, damage.paper))
    return np.rint(ink_C1 + (paper_C1 - ink_C1) * np.arange(256) / 255).astype(np.uint8).ravel().tolist()


def like(grey: Image.Image, image: Image.Image) -> Image.Image:
    """A grey image in the mode of `image`."""
    return grey if image.mode == "L" else Image.merge("RGB", (grey, grey, grey))


def gradient(size: tuple[int, int], damage: Damage) -> Image.Image:
    """Light that falls off by `shade` in the direction `shade_deg`."""
    steps = np.linspace(-0.5, 0.5, 16)
    angle = math.radians(damage.shade_deg)
    slope_HW = steps[:, None] * math.sin(angle) + steps[None, :] * math.cos(angle)
    light_HW = 255 * (1 - damage.shade * np.clip(slope_HW + 0.5, 0, 1))
    return Image.fromarray(light_HW.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def noise_image(size: tuple[int, int], deviation: float, noise_rng: np.random.Generator) -> Image.Image:
    """Grey noise about 128."""
    noise_HW = noise_rng.standard_normal((size[1], size[0]), dtype=np.float32)
    noise_HW *= deviation
    noise_HW += 128.5
    return Image.fromarray(np.clip(noise_HW, 0, 255, out=noise_HW).astype(np.uint8))


def encode(image: Image.Image, damage: Damage) -> bytes:
    """The stored file: JPEG with the damage's quality, or PNG without loss."""
    buffer = io.BytesIO()
    if damage.jpeg_quality:
        image.save(buffer, "JPEG", quality=damage.jpeg_quality)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
