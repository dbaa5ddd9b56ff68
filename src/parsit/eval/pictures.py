"""Images for a page: small copies as data URIs, bounded in pixels and bytes, never a reason to fail."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from parsit.types import FileSlice, ImageRef

# Larger images are not decoded for a thumbnail: 100 million pixels are 300 MB as RGB.
_MAX_PIXELS = 100_000_000
# A PNG above this is written as JPEG instead: text stays sharp where it is cheap.
_PNG_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to show: its data URI and size in pixels, or `error`, the reason why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    error: str = ""


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB as it is seen: rotated as EXIF says, transparency on white, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = image.convert("F").point(lambda value: value * (255 / 65535)).convert("L")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _encode(image: Image.Image) -> str:
    buffer, kind = io.BytesIO(), "png"
    image.save(buffer, "PNG", optimize=True)
    if buffer.tell() > _PNG_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(ref: ImageRef, max_width: int, max_height: int) -> Picture:
    """A copy of at most `max_width` × `max_height` pixels; what cannot be shown says why in `error`."""
    try:
        source = ref.source
        if not isinstance(source, Image.Image):
            source = source.read() if isinstance(source, FileSlice) else source
            source = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if source.width * source.height > _MAX_PIXELS:
            return Picture(error=f"{source.width} × {source.height} pixels are too many to show here")
        small = _to_rgb(source)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Picture(error=f"the image cannot be shown: {error}")
    small.thumbnail((max_width, max_height))
    return Picture(_encode(small), small.width, small.height)
