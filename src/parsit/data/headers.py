"""The size of an ordinary PNG or JPEG, from its first bytes, without Pillow.

Opening an image through Pillow takes several times as long as reading its header, and an index opens every image of a
data set. What is read here is only what leaves no doubt: segments that are known, whole and in order, checksums that
are right, pixels that are square. About everything else nothing is said, and Pillow decides, faults and all; so a size
from here is always the one that Pillow would give of a file that it would open.

Sources: PNG (W3C Recommendation, third edition), JPEG (ITU-T T.81, annex B), JFIF 1.02, EXIF 2.32.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import Struct, unpack_from

# What is read of a file at once; headers are shorter, unless they hold a picture or a colour profile of their own.
HEAD_BYTES = 65536

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
# Chunks before the pixels that Pillow takes as they are, and their length where it is fixed.
_PNG_CHUNKS: dict[bytes, int | None] = {b"PLTE": None, b"tEXt": None, b"gAMA": 4, b"sRGB": 1, b"pHYs": 9}
_PNG_END = b"IEND\xaeB`\x82"
_CHUNK = Struct(">I4s")

_SOF = (0xC0, 0xC2)  # baseline, progressive
_SOS, _DQT, _APP0, _APP1, _APP14 = 0xDA, 0xDB, 0xE0, 0xE1, 0xEE
_PLAIN_SEGMENTS = (0xC4, 0xDD, 0xFE)  # Huffman tables, restart interval, comment
_JPEG_END = b"\xff\xd9"
_SEGMENT, _FRAME = Struct(">BBH"), Struct(">BHHB")

# Tags that Pillow looks at (how the picture is turned, resolution, its unit), and the types of their one value.
_ORIENTATION = 274
_LOOKED_AT = {_ORIENTATION: 3, 282: 5, 296: 3}
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # of EXIF's types by number


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels, upright; where the pixels' data begins, and the bytes that a whole file ends with."""

    width: int
    height: int
    pixels_start: int
    end: bytes


def read_header(head: bytes) -> Header | None:
    """The header of an ordinary image; None: Pillow must be asked.

    Args:
        head: the file's first bytes, up to `HEAD_BYTES`.
    """
    if head.startswith(_PNG_SIGNATURE):
        return _png(head)
    return _jpeg(head) if head.startswith(b"\xff\xd8\xff") else None


def _png(head: bytes) -> Header | None:
    place, width, height, seen = len(_PNG_SIGNATURE), 0, 0, set[bytes]()
    while place + 12 <= len(head):
        length, kind = _CHUNK.unpack_from(head, place)
        start, end = place + 8, place + 8 + length
        if kind == b"IDAT":
            return Header(width, height, 0, _PNG_END) if width and height else None
        if end + 4 > len(head) or (kind in seen and kind != b"tEXt"):
            return None
        if zlib.crc32(head[place + 4 : end]) != int.from_bytes(head[end : end + 4], "big"):
            return None
        if not seen:
            if kind != b"IHDR" or length != 13:
                return None
            width, height, depth, colour, compression, kind_of_filter, interlace = unpack_from(">IIBBBBB", head, start)
            if depth not in _PNG_DEPTHS.get(colour, ()) or compression or kind_of_filter or interlace > 1:
                return None
        elif kind not in _PNG_CHUNKS or _PNG_CHUNKS[kind] not in (None, length):
            return None
        elif kind == b"pHYs" and head[start : start + 4] != head[start + 4 : start + 8]:
            return None  # the pixels are not as wide as high
        elif kind == b"tEXt" and not head[start : start + 1].isupper():
            return None  # Pillow keeps texts beside what it knows of the picture, such as `dpi`
        seen.add(kind)
        place = end + 4
    return None


def _jpeg(head: bytes) -> Header | None:
    place, size, orientation = 2, (0, 0), 0
    while place + 4 <= len(head):
        filler, marker, length = _SEGMENT.unpack_from(head, place)
        start, end = place + 4, place + 2 + length
        if filler != 0xFF or length < 2 or end > len(head):
            return None
        if marker == _SOS:
            width, height = size if orientation < 5 else (size[1], size[0])
            return Header(width, height, end, _JPEG_END) if width and height else None
        if marker in _SOF:
            if size != (0, 0) or length < 8:
                return None
            bits, height, width, layers = _FRAME.unpack_from(head, start)
            if bits != 8 or layers not in (1, 3, 4) or length != 8 + 3 * layers:
                return None
            size = (width, height)
        elif marker == _DQT:
            if not _are_tables(head, start, end):
                return None
        elif marker == _APP1:
            if orientation or not (orientation := _orientation(head[start:end])):
                return None
        elif marker not in _PLAIN_SEGMENTS and not _is_plain_application(marker, head[start:end]):
            return None
        place = end
    return None


def _are_tables(head: bytes, start: int, end: int) -> bool:
    """Whether a segment is made of whole quantization tables."""
    while start < end:
        start += 1 + 64 * (1 if head[start] < 16 else 2)
    return start == end


def _is_plain_application(marker: int, data: bytes) -> bool:
    """Whether an application's segment says nothing of the picture's size or number: JFIF, Adobe's colours."""
    if marker == _APP0 and data.startswith(b"JFIF"):
        return len(data) >= 12 and data[8:10] == data[10:12]  # the pixels are as wide as high
    return marker == _APP14 and data.startswith(b"Adobe") and len(data) == 12


def _orientation(data: bytes) -> int:
    """How a picture is turned, 1 to 8, by its EXIF segment; 0: there is doubt."""
    if not data.startswith((b"Exif\0\0II*\0", b"Exif\0\0MM\0*")):
        return 0
    order, tags = "<" if data[6:7] == b"I" else ">", data[6:]
    if len(tags) < 10:
        return 0
    directory = unpack_from(f"{order}I", tags, 4)[0]
    if not 8 <= directory <= len(tags) - 2:
        return 0
    count, found = unpack_from(f"{order}H", tags, directory)[0], 0
    if directory + 2 + 12 * count > len(tags):
        return 0
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, values, place = unpack_from(f"{order}HHII", tags, entry)
        if not 1 <= kind <= 12:
            return 0
        num_bytes = values * _TYPE_BYTES[kind]
        if not num_bytes or (num_bytes > 4 and place + num_bytes > len(tags)):
            return 0
        if tag in _LOOKED_AT and (kind, values) != (_LOOKED_AT[tag], 1):
            return 0
        if tag == _ORIENTATION:
            found = unpack_from(f"{order}H", tags, entry + 8)[0]
            if not 1 <= found <= 8:
                return 0
    return found or 1
