"""Images and glyphs in records: by path, bytes, data URL or tar member, never outside the image folder."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsit.data.faults import DataFault
from parsit.data.formats.common import Context, is_unicode, short
from parsit.types import FileSlice, GlyphBox, ImageRef, Sample

# Pixels; no image has so many on a side, and boxes may stand out of it.
_FARTHEST = 1e6


def image_list(value: Any) -> list[Any]:
    """One image or a list of them, as a list; None: no image."""
    return [] if value is None else value if isinstance(value, list) else [value]


def images_of(record: Mapping[str, Any], context: Context) -> list[ImageRef]:
    """The images in a record's `images` or `image`.

    Raises:
        DataFault: one is no image, or the record has both fields.
    """
    one, several = image_list(record.get("image")), image_list(record.get("images"))
    if one and several:
        raise DataFault("image-wrong-type", "the record has images in both 'image' and 'images'")
    return [image_ref(value, context) for value in one or several]


# A path to an image, or a data URL; names of fields that hold one.
_IMAGE_WORDS = re.compile(r"data:image/|.*\.(png|jpe?g|jpe|jfif|mpo|tiff?|webp|bmp|gif|p[bgnp]m)", re.I | re.S)
_IMAGE_NAME = re.compile(r"image|img|picture|photo|screenshot", re.I)
_IN_OBJECT = ("bytes", "path", "url", "base64")


def looks_like_image(value: Any) -> bool:
    """Whether a value that nothing reads may be an image: bytes, a path, a data URL, an object or a list of such."""
    if isinstance(value, str):
        return bool(_IMAGE_WORDS.match(value) if value.startswith("data:") else _IMAGE_WORDS.fullmatch(value))
    if isinstance(value, dict):
        return any(looks_like_image(value.get(key)) for key in _IN_OBJECT)
    if isinstance(value, list):
        return any(map(looks_like_image, value))
    return isinstance(value, (bytes, FileSlice)) and bool(value)


def named_like_image(field: str) -> bool:
    """Whether a field's name says that it holds an image."""
    return bool(_IMAGE_NAME.search(field))


def image_ref(value: Any, context: Context, glyphs: tuple[GlyphBox, ...] = ()) -> ImageRef:
    """An image by path, bytes, data URL, or as Hugging Face's `{"bytes", "path"}`.

    Only the path's words are looked at here; whether the file is there, and where links lead, is `data.check`'s.

    Raises:
        DataFault: it is none of these, or the path leaves the image folder.
    """
    if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, FileSlice)):
        return ImageRef(value, glyphs)
    if not isinstance(value, str):
        raise DataFault("image-wrong-type", f"an image is {short(value)}")
    if value.startswith("data:"):
        return ImageRef(_bytes_of_data_url(value), glyphs)
    if value in context.files:
        return ImageRef(context.files[value], glyphs)
    return ImageRef(_inside(context.root, value), glyphs)


def _inside(root: Path, path: str) -> Path:
    """The path under the image folder, which it may not leave: whoever wrote the data set is not trusted."""
    if not path:
        raise DataFault("image-path-empty", "an image's path is empty")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
        raise DataFault("image-url-remote", f"image {short(path)} is a web address")
    if "\0" in path or not is_unicode(path):
        raise DataFault("image-wrong-type", f"image {short(path)} holds a NUL character or a lone surrogate")
    if path.startswith(("/", "\\")) or re.match(r"[a-zA-Z]:[\\/]", path):
        raise DataFault("image-path-absolute", f"image {short(path)} is an absolute path")
    if ".." in re.split(r"[\\/]", path):
        raise DataFault("image-path-leaves-root", f"image {short(path)} leaves the image folder")
    return root / path


def _bytes_of_data_url(url: str) -> bytes:
    header, comma, body = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise DataFault("data-url-broken", f"{short(url)} is no base64 data URL")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataFault("data-url-broken", f"{short(url)}: {error}") from error


def glyph_lists(record: Mapping[str, Any], num_images: int) -> list[tuple[GlyphBox, ...]]:
    """The glyphs of each image of a record; empty where it has none.

    Raises:
        DataFault: not one list for each image, or lists of something else.
    """
    value = record.get("glyphs")
    if value is None:
        return [()] * num_images
    if not isinstance(value, list) or not all(isinstance(boxes, list) for boxes in value):
        raise DataFault("glyphs-wrong-type", "'glyphs' is not a list of lists")
    if len(value) != num_images:
        raise DataFault("glyphs-wrong-number", f"{len(value)} lists in 'glyphs', but {num_images} images")
    try:
        return [tuple(_glyph_box(*box) for box in boxes) for boxes in value]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataFault("glyphs-wrong-type", f"'glyphs' must hold lists of [text, x0, y0, x1, y1] ({error})") from error


def _glyph_box(text: str, *corners: float) -> GlyphBox:
    """One glyph's box. Raises `TypeError`, `ValueError` or `OverflowError` where it is none."""
    if not isinstance(text, str) or len(corners) != 4:
        raise TypeError(f"not {short([text, *corners])}")
    for number in corners:
        if number.__class__ not in (int, float):  # a bool is an int, and float() would take "nan"
            raise TypeError(f"{short(number)} is no number")
        if not -_FARTHEST <= number <= _FARTHEST:  # not so for NaN either
            raise ValueError(f"{number:g} is no place in an image")
    x0, y0, x1, y1 = corners
    return GlyphBox(text, float(x0), float(y0), float(x1), float(y1))


def native_extras(sample: Sample) -> tuple[str, ...]:
    """What a format without the native one's additions loses of a sample, for `Written`."""
    glyphs = ("glyphs",) if any(image.glyphs for image in sample.images) else ()
    return (*glyphs, "answers") if sample.other_answers else glyphs
