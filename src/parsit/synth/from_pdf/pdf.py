"""PDF pages with the places of their characters, read and drawn in a process that can be killed."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parsit.parse.pdf import PdfFile
from parsit.synth.render import HYPHENS

LAYOUT_WORKER = Path(__file__).with_name("layout_worker.py")
NUMBERS_PER_CHAR = 13
GENERATED, HYPHEN, UNMAPPED = 1, 2, 4

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Quarter turns clockwise of the text → what turns the picture upright.
_UPRIGHT = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True)
class Chars:
    """The characters of a page in drawing order.

    Boxes are float[n, 4], (x0, y0, x1, y1) with y downwards, and origins float[n, 2], in sides of the picture, 0 to 1.
    `tight` is the box of the ink; `loose` is the advance wide and the ascent to descent high. `angle` is the direction
    of writing in degrees clockwise, 0 to 360. `generated` marks spaces and line ends that PDFium made up.
    """

    text: tuple[str, ...]
    tight: Floats
    loose: Floats
    origin: Floats
    angle: Floats
    generated: Flags
    unmapped: Flags

    def __len__(self) -> int:
        return len(self.text)

    @property
    def printed(self) -> Flags:
        """bool[n]: neither white space nor made up."""
        return ~self.generated & np.array([not text.isspace() for text in self.text], bool)

    def only(self, kept: Flags) -> Chars:
        """Some of the characters, in their order."""
        where = np.flatnonzero(kept)
        rest = {field.name: getattr(self, field.name)[where] for field in fields(self) if field.name != "text"}
        return replace(self, text=tuple(self.text[index] for index in where.tolist()), **rest)

    def turned(self, quarters: int) -> Chars:
        """The characters on the page turned by so many quarters against the clock."""
        if not quarters:
            return self
        return replace(
            self,
            tight=_turned_boxes(self.tight, quarters),
            loose=_turned_boxes(self.loose, quarters),
            origin=_turned(self.origin, quarters),
            angle=(self.angle - 90 * quarters) % 360,
        )


@dataclass(frozen=True, slots=True)
class PageLayout:
    """A page's characters, the share of it that images cover, and whether the file says it runs from right to left."""

    chars: Chars
    image_share: float
    right_to_left: bool = False


class LayoutPdf(PdfFile):
    """A PDF whose pages can be drawn and whose characters have places. Arguments and errors as `PdfFile`."""

    worker_script = LAYOUT_WORKER

    def layout(self, number: int) -> PageLayout:
        """The characters of page `number` (from 1). Raises `WorkerError`."""
        header, payload = self._ask(do="layout", page=number - 1)
        numbers = np.frombuffer(payload, np.float32).reshape(-1, NUMBERS_PER_CHAR).astype(np.float64)
        chars = _chars(numbers, header["to_picture"])
        return PageLayout(chars, float(header["image_share"]), bool(header["right_to_left"]))

    def background(self, number: int, *, dpi: float, max_pixels: int) -> Image.Image:
        """Page `number` as `render` draws it, without its text. Raises `WorkerError`."""
        return self._drawn("background", number, dpi, max_pixels)[0]


def upright(layout: PageLayout) -> tuple[PageLayout, int]:
    """The page with most of its text upright, and the quarters that its picture must be turned against the clock."""
    printed = layout.chars.printed
    if not printed.any():
        return layout, 0
    quarters = np.rint(layout.chars.angle[printed] / 90).astype(int) % 4
    most = int(np.bincount(quarters, minlength=4).argmax())
    return replace(layout, chars=layout.chars.turned(most)), most


def turn_picture(image: Image.Image, quarters: int) -> Image.Image:
    """The picture turned by so many quarters against the clock."""
    return image.transpose(_UPRIGHT[quarters]) if quarters else image


def _chars(numbers: Floats, to_picture: list[float]) -> Chars:
    flags = numbers[:, 1].astype(int)
    text, keep = _texts(numbers[:, 0].astype(int).tolist(), (flags & HYPHEN).astype(bool).tolist())
    text, numbers = _without_joiners(text, numbers[keep])
    flags = numbers[:, 1].astype(int)
    a, b, c, d, e, f = to_picture
    matrix, offset = np.array([[a, b], [c, d]]), np.array([e, f])
    # PDFium's angle is clockwise, the page's y goes up.
    direction = np.stack([np.cos(numbers[:, 12]), -np.sin(numbers[:, 12])], axis=1) @ matrix
    # The picture's sides differ in length: one side's share is compared in points.
    direction *= np.array([1 / max(np.hypot(a, c), 1e-12), 1 / max(np.hypot(b, d), 1e-12)])
    angle = np.degrees(np.arctan2(direction[:, 1], direction[:, 0])) % 360
    tight, loose = (_mapped_boxes(numbers[:, start : start + 4], matrix, offset) for start in (2, 6))
    origin = numbers[:, 10:12] @ matrix + offset
    generated = (flags & GENERATED).astype(bool)
    part, parts = _ligatures(numbers[:, 2:12], generated)
    for boxes in (tight, loose):
        _cut(boxes, part, parts, angle, origin if boxes is loose else None)
    return Chars(
        tuple(text),
        tight,
        loose,
        origin,
        angle,
        generated,
        (flags & UNMAPPED).astype(bool),
    )


def _without_joiners(text: list[str], numbers: Floats) -> tuple[list[str], Floats]:
    """Characters less soft hyphens, joiners and the like that one glyph means together with its letter.

    PDFium gives all that a glyph means one origin and each a part of the box, which goes back to the letter here.
    """
    numbers, origins = numbers.copy(), numbers[:, 10:12]
    kept = [0] if text else []
    for index in range(1, len(text)):
        before = kept[-1]
        pair = (text[before], text[index])
        one_glyph = (origins[index] == origins[before]).all() and any(
            unicodedata.category(char) == "Cf" for char in pair
        )
        if not one_glyph:
            kept.append(index)
            continue
        for low, high in ((slice(2, 4), slice(4, 6)), (slice(6, 8), slice(8, 10))):
            numbers[[before, index], low] = np.minimum(numbers[before, low], numbers[index, low])
            numbers[[before, index], high] = np.maximum(numbers[before, high], numbers[index, high])
        if unicodedata.category(pair[0]) == "Cf":
            kept[-1] = index
    return [text[index] for index in kept], numbers[kept]


def _ligatures(places: Floats, generated: Flags) -> tuple[Floats, Floats]:
    """Which part of how many each character is: those of a ligature have one and the same place in PDFium's answer."""
    same = np.zeros(len(places), bool)
    same[1:] = (places[1:] == places[:-1]).all(axis=1) & ~generated[1:] & ~generated[:-1]
    starts = np.flatnonzero(~same)
    sizes = np.diff(np.append(starts, len(places)))
    part = np.arange(len(places)) - np.repeat(starts, sizes)
    return part.astype(np.float64), np.repeat(sizes, sizes).astype(np.float64)


def _cut(boxes: Floats, part: Floats, parts: Floats, angle: Floats, origin: Floats | None) -> None:
    """Give each character of a ligature its equal part of the box, in the direction of writing; in place."""
    quarter = np.rint(angle / 90).astype(int) % 4
    for axis in (0, 1):
        chosen = (parts > 1) & (quarter % 2 == axis)
        low, width = boxes[chosen, axis].copy(), (boxes[chosen, axis + 2] - boxes[chosen, axis]) / parts[chosen]
        step = np.where(quarter[chosen] < 2, part[chosen], parts[chosen] - 1 - part[chosen])
        boxes[chosen, axis], boxes[chosen, axis + 2] = low + step * width, low + (step + 1) * width
        if origin is not None:
            origin[chosen, axis] += np.where(quarter[chosen] < 2, 1, -1) * part[chosen] * width


def _texts(codes: list[int], hyphens: list[bool]) -> tuple[list[str], list[int]]:
    """Characters from code points, and where they stand; halves of a pair are one character."""
    text: list[str] = []
    keep: list[int] = []
    for index, (code, is_hyphen) in enumerate(zip(codes, hyphens, strict=True)):
        if 0xDC00 <= code < 0xE000 and text and 0xD800 <= ord(text[-1]) < 0xDC00:
            text[-1] = chr(0x10000 + ((ord(text[-1]) - 0xD800) << 10) + code - 0xDC00)
            continue
        char = chr(code) if 0 <= code < 0x110000 else "\ufffd"
        # What PDFium takes for a hyphen at a line's end is reported as one of several characters; a soft one stays.
        text.append("-" if is_hyphen and char in HYPHENS and char != "\u00ad" else char)
        keep.append(index)
    return text, keep


def _mapped_boxes(boxes: Floats, matrix: Floats, offset: Floats) -> Floats:
    """(left, bottom, right, top) on the page to (x0, y0, x1, y1) in the picture."""
    one, other = boxes[:, :2] @ matrix + offset, boxes[:, 2:] @ matrix + offset
    return np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=1)


def _turned(points: Floats, quarters: int) -> Floats:
    x, y = points[:, 0], points[:, 1]
    return np.stack({1: (y, 1 - x), 2: (1 - x, 1 - y), 3: (1 - y, x)}[quarters], axis=1)


def _turned_boxes(boxes: Floats, quarters: int) -> Floats:
    one, other = _turned(boxes[:, :2], quarters), _turned(boxes[:, 2:], quarters)
    return np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=1)
