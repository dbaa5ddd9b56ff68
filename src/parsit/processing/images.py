"""Images in: any allowed file, its bytes or a decoded image becomes one RGB image, in a defined way.

Every image of Parsit, in training and in reading, comes through `load_image`, so a scan looks the
same to the model wherever it is opened. Pillow decodes; only formats on the allow-list are tried,
and the size in the header is checked before one pixel is decoded. A file that is cut off is an
error: half a page trained on, or read, as a whole one would go unnoticed.

How each Pillow mode becomes RGB (`to_rgb` is the only place that does it):

| mode                        | rule                                                                 |
|-----------------------------|----------------------------------------------------------------------|
| RGB                         | as it is; 16 bits a channel: the high byte (Pillow's decoder)        |
| L, 1                        | the grey value in all three channels; 1-bit: 0 or 255                |
| I;16, I;16B, I;16L, I;16N   | 16-bit grey, v / 257 rounded: 0 is black, 65535 white; never clipped |
| the same, of a 12-bit TIFF  | v × 255 / 4095, rounded                                              |
| the same, and I, with values| an error: 8-bit grey that was stored in more bits would be black     |
| up to 255 alone             |                                                                      |
| I;16 …, I, F of a TIFF that | the same, and then 255 less it                                       |
| says that 0 is white        |                                                                      |
| I                           | 32-bit integers, read as 16-bit grey; a value outside is an error    |
| F                           | floats, 0.0 is black, 1.0 white; a value outside, or NaN, an error   |
| P                           | through its palette                                                  |
| LA, La, PA, RGBA, RGBa      | composited on white: what is transparent is paper                    |
| P, L, RGB with one          | the transparent colour (GIF, PNG tRNS) is paper                      |
| transparent colour          |                                                                      |
| CMYK                        | R = (255 - C)(255 - K) / 255 and so on, no colour profile; a CMYK    |
|                             | JPEG holds inverted values, as Adobe writes them (Pillow undoes it)  |
| YCbCr, LAB, HSV, RGBX       | Pillow's `convert("RGB")`                                            |

Pixels that are not square, by the file's resolution (a fax of 204 × 98 dpi), are made so: the shorter side grows. A
TIFF's thumbnails and masks are no pages; where one comes first, the first page is the image.

Given up: ICC colour profiles are ignored, and of an animated image only one frame is read.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from parsit.types import FileSlice, InputError

# Pillow's names. JPEG covers MPO, the JPEG with several pictures that phones write; PPM all of netpbm.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
FORMATS_IN_WORDS = "PNG, JPEG, TIFF, WebP, BMP, GIF, PPM"

# 256 MiB of RGB, the size at which Pillow too begins to warn; A3 at 600 dpi has 70 million pixels.
MAX_PIXELS = 89_478_485

# What Pillow's decoders raise on bytes that are not what they claim to be.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
)

Source = str | Path | FileSlice | bytes | Image.Image

# EXIF 2.32, tag 274 (Orientation): what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 274

# TIFF 6.0: BitsPerSample, PhotometricInterpretation and its WhiteIsZero, NewSubfileType and its bits for a picture of
# fewer pixels and for a mask, and the older SubfileType with its value for fewer pixels.
_BITS_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 258, 262, 0
_NEW_SUBFILE_TAG, _REDUCED_OR_MASK, _SUBFILE_TAG, _REDUCED = 254, 0b101, 255, 2

# How many times as long as wide a pixel is: below it hardly shows (a fine fax has 1.04), above the file is wrong.
MIN_PIXEL_ASPECT, MAX_PIXEL_ASPECT = 1.05, 4.0

_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS, frame: int | None = None) -> Image.Image:
    """Decode an image to RGB, upright.

    Args:
        source: A file, a part of a file, the encoded bytes, or an image that Pillow has opened.
        max_pixels: The most pixels (width × height) that may be decoded. Pillow's own limit of
            178,956,970 holds above it.
        frame: Which picture of a TIFF or an animated file, from 0; None: the first page of a file, and of an opened
            image the picture it stands at.

    Returns:
        A new image of mode RGB.

    Raises:
        InputError: The file is missing, a folder, empty, of no known format, cut off, damaged or
            larger than `max_pixels`, or has no such frame. The message names the file.
    """
    with open_image(source, max_pixels=max_pixels) as image:
        return decode_image(image, name_of(source), max_pixels=max_pixels, frame=frame)


def image_size(source: Source) -> tuple[int, int]:
    """Width and height in pixels of what `load_image` gives, from the header alone.

    Raises:
        InputError: The file is missing, a folder, empty or of no known format. A size above any
            limit is no error here, as far as Pillow's own limit (178,956,970 pixels).
    """
    with open_image(source, max_pixels=None) as image:
        width, height = _square_size(image)
        return (height, width) if _orientation(image) >= 5 else (width, height)


@contextmanager
def open_image(source: Source, *, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open an image, its pixels not yet decoded, and check its size; closed afterwards if opened here.

    Raises:
        InputError: As `load_image`, without what only decoding can find.
    """
    name = name_of(source)
    if isinstance(source, Image.Image):
        _check_size(source.size, name, max_pixels)
        yield source
        return
    if isinstance(source, (bytes, FileSlice)):
        data = source if isinstance(source, bytes) else read_slice(source)
        if not data:
            raise InputError(f"{name} is empty (0 bytes)")
        image = _open_stream(io.BytesIO(data), name, max_pixels)
    else:
        check_file(Path(source))
        image = _open_stream(Path(source), name, max_pixels)
    with image:
        if image.format == "TIFF" and not _is_page(image):
            image.seek(page_frames(image, name)[0])
        _check_size(image.size, name, max_pixels)
        yield image


def decode_image(
    image: Image.Image, name: str, *, max_pixels: int = MAX_PIXELS, frame: int | None = None
) -> Image.Image:
    """Decode one frame of an opened image to RGB, upright; `name` is what error messages call it.

    For files with many pages: opened once, their directory is walked once. Raises as `load_image`.
    """
    _seek(image, name, frame, max_pixels)
    orientation, size = _orientation(image), _square_size(image)
    _check_size(size, name, max_pixels)
    try:
        with quiet():
            image.load()
    except Image.DecompressionBombError as error:
        raise _too_large(name, _pixels_in(error), max_pixels) from error
    except DECODE_ERRORS as error:
        raise InputError(f"{name} is damaged or cut off and cannot be decoded: {_one_line(error)}") from error
    rgb = to_rgb(image, name)
    rgb = rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BICUBIC)
    rgb.info.clear()  # or whoever opens this image again would make its pixels square again
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def page_frames(image: Image.Image, name: str) -> list[int]:
    """The frames of an opened image that are pages: a TIFF's pictures, the first one alone of every other format.

    Thumbnails and masks are no pages, unless there is nothing else.

    Raises:
        InputError: The directory of the TIFF is damaged.
    """
    if image.format != "TIFF":
        return [0]
    try:
        with quiet():
            frames = range(getattr(image, "n_frames", 1))
            pages = [frame for frame in frames if not image.seek(frame) and _is_page(image)]
    except Image.DecompressionBombError as error:
        raise _too_large(name, _pixels_in(error), None) from error
    except DECODE_ERRORS as error:
        raise InputError(f"{name} is damaged: {_one_line(error)}") from error
    return pages or list(frames)


def _is_page(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return not tags.get(_NEW_SUBFILE_TAG, 0) & _REDUCED_OR_MASK and tags.get(_SUBFILE_TAG) != _REDUCED


def check_file(path: Path) -> int:
    """The size in bytes of a file that can be opened and is not empty.

    Raises:
        InputError: There is no such file, it is a folder or something else that is no file, it may
            not be read, or it is empty.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file")
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be opened: {_one_line(error)}") from error
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    return size


def read_slice(source: FileSlice) -> bytes:
    """A part of a file, whole.

    Raises:
        InputError: The file cannot be read, or ends before the part does.
    """
    try:
        data = source.read()
    except (OSError, ValueError) as error:
        raise InputError(f"{name_of(source)} cannot be read: {_one_line(error)}") from error
    if len(data) < source.size:
        raise InputError(f"{name_of(source)} is cut off: the file ends after {len(data):,} of {source.size:,} bytes")
    return data


def name_of(source: Source) -> str:
    """What an error message calls this source, on one line whatever its name holds."""
    if isinstance(source, FileSlice):
        name = f"{source.path} at byte {source.offset}"
    elif isinstance(source, bytes):
        name = f"image of {len(source):,} bytes"
    elif isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"image of {source.width} × {source.height} pixels"
    else:
        name = str(source)
    return name if name.isprintable() else repr(name)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded image as a new RGB image, by the table at the top of this module.

    Raises:
        InputError: Integer or float pixels lie outside their range.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey_from_numbers(image, name).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        straight = image.convert({"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, straight).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _grey_from_numbers(image: Image.Image, name: str) -> Image.Image:
    """8-bit grey from 16-bit, integer or float pixels."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits = 12 if tags.get(_BITS_TAG, (16,))[0] == 12 else 16
    top = 1.0 if image.mode == "F" else 2**bits - 1
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also true of NaN
        raise InputError(f"{name} has grey values from {low} to {high}, outside 0 to {top}; save it with 8 or 16 bits")
    white_is_zero = tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    if image.mode != "F" and 0 < high <= 255 and not white_is_zero:
        raise InputError(f"{name} has grey values up to {high} in more than 8 bits, all black; save it with 8 bits")
    grey = np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)
    return Image.fromarray(255 - grey if white_is_zero else grey)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: large sizes are judged here, damaged pixels raise, damaged metadata is not used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


def _open_stream(file: Path | io.BytesIO, name: str, max_pixels: int | None) -> Image.Image:
    """`Image.open` on the allow-list, with its errors turned into ours."""
    try:
        with quiet():
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(name, _pixels_in(error), max_pixels) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{name} is no image of a known format ({FORMATS_IN_WORDS}), or its header is damaged"
        ) from error
    except DECODE_ERRORS as error:
        raise InputError(f"{name} cannot be opened as an image: {_one_line(error)}") from error


def _seek(image: Image.Image, name: str, frame: int | None, max_pixels: int) -> None:
    """Go to a frame and check its size, which in a TIFF is its own."""
    if frame is not None and frame != image.tell():
        try:
            with quiet():
                image.seek(frame)
        except Image.DecompressionBombError as error:
            raise _too_large(name, _pixels_in(error), max_pixels) from error
        except EOFError as error:
            raise InputError(f"{name} has no frame {frame} (frames count from 0)") from error
        except DECODE_ERRORS as error:
            raise InputError(f"{name} is damaged at frame {frame}: {_one_line(error)}") from error
    _check_size(image.size, name, max_pixels)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1 to 8, without decoding pixels.

    Pillow itself turns TIFFs upright. A PNG's EXIF block counts if it stands before the pixels:
    looking for a later one would mean decoding.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        with quiet():
            orientation = image.getexif().get(_ORIENTATION_TAG)
    except DECODE_ERRORS:
        return 1  # a damaged EXIF block says nothing about the picture
    return orientation if orientation in _UPRIGHT else 1


def _square_size(image: Image.Image) -> tuple[int, int]:
    """The size with square pixels, as the file's resolution says, before any turning by EXIF."""
    width, height = image.size
    across, down = _resolution(image)
    if not MIN_PIXEL_ASPECT <= max(across, down) / min(across, down) <= MAX_PIXEL_ASPECT:
        return width, height
    return (width, round(height * across / down)) if across > down else (round(width * down / across), height)


def _resolution(image: Image.Image) -> tuple[float, float]:
    """Pixels per unit across and down, from the header; (1, 1) where it does not say."""
    found = image.info.get("dpi") or image.info.get("aspect") or image.info.get("jfif_density")
    try:
        across, down = (float(value) for value in found or (1, 1))
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0, 1.0
    if not (0 < across < math.inf and 0 < down < math.inf):
        return 1.0, 1.0
    # Pillow turns TIFFs upright, but not their resolution.
    turned = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_ORIENTATION_TAG, 1) >= 5
    return (down, across) if turned else (across, down)


def _check_size(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name} has no pixels ({width} × {height})")
    if max_pixels is not None and width * height > max_pixels:
        raise _too_large(name, f"{width:,} × {height:,} = {width * height:,}", max_pixels)


def _too_large(name: str, pixels: str, max_pixels: int | None) -> InputError:
    pillow_limit = 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
    limit = min(max_pixels, pillow_limit) if max_pixels is not None else pillow_limit
    return InputError(f"{name} is too large: {pixels} pixels, the limit is {limit:,}")


def _pixels_in(error: Image.DecompressionBombError) -> str:
    """The pixel count in Pillow's message, the only place where it says it."""
    number = re.search(r"\d+", str(error))
    return f"{int(number.group()):,}" if number else "an unknown number of"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
