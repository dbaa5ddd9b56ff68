"""Images for a page: small copies as data URIs, bounded in pixels and bytes, never a reason to fail.

They come through `load_image`, so a page shows what the model saw, and refuses what the model is refused.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from parsit.processing.images import load_image
from parsit.types import ImageRef, InputError

# A PNG above this is written as JPEG instead: text stays sharp where it is cheap.
_PNG_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to show: its data URI and size in pixels, or `error`, the reason why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    error: str = ""


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
        small = load_image(ref.source)
    except InputError as error:
        return Picture(error=f"the image cannot be shown: {error}")
    small.thumbnail((max_width, max_height))
    return Picture(_encode(small), small.width, small.height)
