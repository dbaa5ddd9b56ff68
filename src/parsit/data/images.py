"""Is an image there, whole and allowed? Answered from its header and its last bytes.

Decoding every image of a large data set would take hours; a file that was cut off shows at its end. What each format
should end with is only a suspicion, since odd files are whole too: a suspicious image is decoded, and passes if that
works. What this cannot see is damage in the middle: `deep` decodes every image, which finds it where the format has
checksums or strict codes (JPEG has neither: its decoder draws something in any case). Sizes come from
`parsit.processing.images`, so they are what training gets.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from parsit.data.faults import DataFault
from parsit.data.headers import HEAD_BYTES, Header, read_header
from parsit.processing.images import (
    DECODE_ERRORS,
    FORMATS,
    FORMATS_IN_WORDS,
    MAX_PIXELS,
    decode_image,
    image_size,
    name_of,
    quiet,
)
from parsit.types import FileSlice, InputError

MAX_FILE_BYTES = 2**30
_TAIL_BYTES = 4096

# The first bytes of each format of the allow-list: a file that begins so and cannot be opened is a damaged image.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"RIFF", "WEBP"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),
)
_LFS_POINTER = b"version https://git-lfs."
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_GIF_END = b"\0;"  # every block of a GIF ends with a zero, and the file with a semicolon
_STRIP_TAGS = ((273, 279), (324, 325))  # TIFF 6.0: offsets and sizes of strips, of tiles


def check_image(source: Path | FileSlice | bytes, root: Path | None = None, deep: bool = False) -> tuple[int, int]:
    """Look at an image without decoding it, unless it looks cut off.

    Args:
        source: a file, part of a file, or the encoded bytes.
        root: the folder that a file may not leave through symbolic links; None: it may lie anywhere.
        deep: decode it in any case.

    Returns:
        Width and height in pixels of what `load_image` gives.

    Raises:
        DataFault: `image-…`, see `FAULTS`; without a place.
    """
    name = name_of(source)
    try:
        with _opened(source, name, root) as file:
            return _check(file, name, deep)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise _os_fault(name, error) from error


def _opened(source: Path | FileSlice | bytes, name: str, root: Path | None) -> BinaryIO:
    if isinstance(source, bytes):
        _check_bytes(len(source), name)
        return io.BytesIO(source)
    if isinstance(source, FileSlice):
        _check_bytes(source.size, name)
        data = source.read()
        if len(data) < source.size:
            raise DataFault("image-cut-off", f"{name}: the file ends after {len(data):,} of {source.size:,} bytes")
        return io.BytesIO(data)
    status = os.lstat(source)
    is_link = stat.S_ISLNK(status.st_mode)
    if is_link:
        status = os.stat(source)  # noqa: PTH116  (Path.stat is slower, and this is done a million times)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise DataFault("image-not-a-file", f"{name} is {kind}")
    if root is not None:
        _check_root(source, name, root, is_link)
    _check_bytes(status.st_size, name)
    return open(source, "rb")  # noqa: PTH123


def _check_bytes(size: int, name: str) -> None:
    if not size:
        raise DataFault("image-empty", f"{name} is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise DataFault("image-too-large", f"{name} has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")


def _check_root(path: Path, name: str, root: Path, is_link: bool) -> None:
    """Refuse a file that lies outside the folder when all links are followed."""
    here = os.getcwd()  # noqa: PTH109  (relative names are kept by what they mean, since a program may change it)
    folder = os.path.realpath(path) if is_link else _real_folder(os.path.join(here, os.path.dirname(path)))  # noqa: PTH118, PTH120
    allowed = _real_folder(os.path.join(here, root))  # noqa: PTH118
    if folder != allowed and not folder.startswith(allowed.rstrip(os.sep) + os.sep):
        raise DataFault("image-symlink-leaves-root", f"{name} leads to {folder}, outside {root}")


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _os_fault(name: str, error: OSError | ValueError) -> DataFault:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return DataFault("image-missing", f"{name}: no such file")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DataFault("image-unreadable", f"{name} cannot be read: {reason}")


def _check(file: BinaryIO, name: str, deep: bool) -> tuple[int, int]:
    head = file.read(HEAD_BYTES)
    size = len(head) if len(head) < HEAD_BYTES else file.seek(0, io.SEEK_END)
    header = None if deep else read_header(head)
    if header is not None and _is_whole(header, file, size):
        return header.width, header.height
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    suspicious = _header_promises_more(kind, head, size)
    file.seek(0)
    try:
        with quiet(), Image.open(file, formats=FORMATS) as image:
            width, height = image_size(image)
            if width * height > MAX_PIXELS:
                raise _too_large(name, f"{width:,} × {height:,} pixels")
            suspicious = suspicious or _looks_cut_off(image, file, size)
            if deep or suspicious:
                decode_image(image, name)
            return width, height
    except Image.DecompressionBombError as error:
        raise _too_large(name, f"more than {2 * MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        if not kind:
            pointer = "a Git LFS pointer, for `git lfs pull`: " if head.startswith(_LFS_POINTER) else ""
            raise DataFault("image-unknown-format", f"{name} is {pointer}none of {FORMATS_IN_WORDS}") from error
        raise _broken(name, f"its header says {kind}, but cannot be read", suspicious) from error
    except DataFault:
        raise
    except InputError as error:  # its message names the image
        raise _broken("", str(error), suspicious) from error
    except DECODE_ERRORS as error:
        raise _broken(name, " ".join(str(error).split()) or type(error).__name__, suspicious) from error


def _is_whole(header: Header, file: BinaryIO, size: int) -> bool:
    """Whether an image is neither too large nor cut off, by its header and its end."""
    small_enough = header.width * header.height <= MAX_PIXELS
    return small_enough and header.end in _tail(file, header.pixels_start, size)


def _too_large(name: str, what: str) -> DataFault:
    return DataFault("image-too-large", f"{name} has {what}, the limit is {MAX_PIXELS:,}")


def _broken(name: str, reason: str, cut_off: bool) -> DataFault:
    code = "image-cut-off" if cut_off or "truncated" in reason else "image-damaged"
    return DataFault(code, f"{name}: {reason}" if name else reason)


def _header_promises_more(kind: str, head: bytes, size: int) -> bool:
    """Whether the first bytes name a place that the file does not have; asked before Pillow, which may give up."""
    try:
        if kind == "WEBP":
            return struct.unpack_from("<I", head, 4)[0] + 8 > size
        if kind == "BMP":
            return not 26 <= struct.unpack_from("<I", head, 2)[0] <= size
        if kind == "TIFF":
            order = "<" if head.startswith(b"II") else ">"
            big = head[2:4] in (b"+\0", b"\0+")
            return struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)[0] >= size
    except struct.error:
        return True
    return kind in ("PNG", "JPEG", "GIF") and size < 26  # no image of these is so small


def _looks_cut_off(image: Image.Image, file: BinaryIO, size: int) -> bool:
    """Whether the end of an opened image is not what its format ends with."""
    if image.format == "TIFF":
        return _strips_end(image) > size
    if image.format == "PPM":
        return _raw_end(image) > size
    if image.format in ("WEBP", "BMP"):
        return False  # their headers have said it
    here = file.tell()
    # A JPEG's pixels start here; before them stand other pictures' ends, such as a thumbnail's.
    tail = _tail(file, here if image.format in ("JPEG", "MPO") else 0, size)
    file.seek(here)
    if image.format == "PNG":
        return _PNG_END not in tail
    if image.format == "GIF":
        return not tail.rstrip(b"\0").endswith(_GIF_END)
    return _JPEG_END not in tail  # in a JPEG's pixels these two bytes mean nothing else


def _tail(file: BinaryIO, start: int, size: int) -> bytes:
    """The last bytes of a file, none of them before `start`."""
    file.seek(max(size - _TAIL_BYTES, start))
    return file.read()


def _strips_end(image: Image.Image) -> float:
    """The byte behind a TIFF's last strip or tile; infinite where its directory does not say."""
    tags = image.tag_v2  # type: ignore[attr-defined]  (of Pillow's TIFF class, which is loaded lazily)
    for starts_tag, sizes_tag in _STRIP_TAGS:
        starts, sizes = tags.get(starts_tag), tags.get(sizes_tag)
        if starts and sizes and len(starts) == len(sizes):
            return max(start + count for start, count in zip(starts, sizes, strict=True))
    return float("inf")


def _raw_end(image: Image.Image) -> float:
    """The byte behind the pixels of a raw netpbm file; infinite for text and 16 bits, which are decoded to be sure."""
    tile = image.tile[0]  # type: ignore[attr-defined]  (of Pillow's file classes)
    bits = {"1;I": 1, "L": 8, "RGB": 24}.get(tile.args)
    if tile.codec_name != "raw" or bits is None:
        return float("inf")
    return tile.offset + (image.width * bits + 7) // 8 * image.height
