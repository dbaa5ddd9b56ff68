"""Short crops of a page: pieces of text lines, table cells and field values, with their glyph boxes.

Decides to cut at white space only, never longer than a number of characters, and to damage each crop
on its own: a page is typeset once but looks different in every crop, which is what a model trained
for a few minutes needs. What that costs is that the crops of one page do not share one scanner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from parsit.synth.degrade import Degrade, cut, draw_damage, encode, wear
from parsit.synth.render import Glyph, PlacedLeaf, RenderedPage
from parsit.synth.split import Texts

# More crops from one page would mean fewer fonts and sizes for the same time.
MAX_CROPS_PER_PAGE = 64
LONGEST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Word:
    """Characters without white space between them, on one line."""

    text: str
    glyphs: tuple[Glyph, ...]


@dataclass(frozen=True, slots=True)
class WordGroup:
    """Words to cut out, and how much white is beside them (pixels, left and right)."""

    words: tuple[Word, ...]
    gap_left: float
    gap_right: float

    @property
    def text(self) -> str:
        """What the piece says."""
        return " ".join(word.text for word in self.words)

    @property
    def glyphs(self) -> tuple[Glyph, ...]:
        """Its characters."""
        return tuple(glyph for word in self.words for glyph in word.glyphs)


@dataclass(frozen=True, slots=True)
class Crop:
    """An encoded image of a piece; the glyph boxes are in the crop's pixels."""

    text: str
    data: bytes
    suffix: str
    glyphs: tuple[Glyph, ...]


def page_crops(
    page: RenderedPage, texts: Texts, max_chars: int, degrade: Degrade, rng: Random, noise_rng: np.random.Generator
) -> list[Crop]:
    """Up to `MAX_CROPS_PER_PAGE` crops whose texts belong to the page's split, in a random order."""
    pieces = [
        piece for leaf in page.leaves for line in leaf_lines(leaf) for piece in line_pieces(line, texts, max_chars, rng)
    ]
    chosen = rng.sample(pieces, min(len(pieces), MAX_CROPS_PER_PAGE))
    return [cut_piece(page.image, piece, page.dpi, degrade, rng, noise_rng) for piece in chosen]


def leaf_lines(leaf: PlacedLeaf) -> list[list[Word]]:
    """A leaf's words by printed line; a word that is broken at a hyphen becomes two."""
    lines: list[list[Word]] = []
    previous: Glyph | None = None
    for glyphs in leaf_words(leaf):
        start = 0
        for index, glyph in enumerate(glyphs):
            if previous is None or begins_line(previous, glyph):
                if index > start:
                    lines[-1].append(word_of(glyphs[start:index]))
                lines.append([])
                start = index
            previous = glyph
        lines[-1].append(word_of(glyphs[start:]))
    return lines


def leaf_words(leaf: PlacedLeaf) -> Iterator[tuple[Glyph, ...]]:
    """The glyphs of each word of a leaf's text."""
    position = 0
    for word in leaf.text.split():
        yield leaf.glyphs[position : position + len(word)]
        position += len(word)


def word_of(glyphs: tuple[Glyph, ...]) -> Word:
    """A word from its glyphs."""
    return Word("".join(glyph.text for glyph in glyphs), glyphs)


def begins_line(previous: Glyph, glyph: Glyph) -> bool:
    """Whether a glyph stands on another line than the one before it."""
    return abs(glyph.y1 - previous.y1) > 0.3 * (previous.y1 - previous.y0)


def line_pieces(line: list[Word], texts: Texts, max_chars: int, rng: Random) -> Iterator[WordGroup]:
    """Cut a line into pieces that belong to the split; words that fit none are left out."""
    start = 0
    while start < len(line):
        ends = [
            end
            for end in range(start + 1, len(line) + 1)
            if sum(len(word.text) + 1 for word in line[start:end]) - 1 <= max_chars
        ]
        if rng.random() >= LONGEST_SHARE:
            rng.shuffle(ends)
        else:
            ends.reverse()
        for end in ends:
            piece = piece_of(line, start, end)
            if texts.owns(piece.text):
                yield piece
                start = end
                break
        else:
            start += 1


def piece_of(line: list[Word], start: int, end: int) -> WordGroup:
    """Words `start` to `end` (exclusive) of a line, with the gaps to their neighbours."""
    first, last = line[start].glyphs[0], line[end - 1].glyphs[-1]
    height = first.y1 - first.y0
    left = first.x0 - line[start - 1].glyphs[-1].x1 if start else height / 2
    right = line[end].glyphs[0].x0 - last.x1 if end < len(line) else height / 2
    return WordGroup(tuple(line[start:end]), max(left, 0.0), max(right, 0.0))


def cut_piece(
    image: Image.Image, piece: WordGroup, dpi: int, degrade: Degrade, rng: Random, noise_rng: np.random.Generator
) -> Crop:
    """Cut, damage and encode one piece."""
    damage = draw_damage(rng, degrade, dpi)
    glyphs = piece.glyphs
    turned, forward = cut(image, crop_box(piece, damage.skew_deg, rng), damage.skew_deg)
    data = encode(wear(turned, damage, noise_rng), damage)
    return Crop(piece.text, data, damage.suffix, tuple(move(glyph, forward, turned.size) for glyph in glyphs))


def crop_box(piece: WordGroup, skew_deg: float, rng: Random) -> tuple[float, float, float, float]:
    """The piece's box with some white around it; neighbours on the line stay outside."""
    glyphs = piece.glyphs
    x0, x1 = min(glyph.x0 for glyph in glyphs), max(glyph.x1 for glyph in glyphs)
    y0, y1 = min(glyph.y0 for glyph in glyphs), max(glyph.y1 for glyph in glyphs)
    height = y1 - y0
    # A turned line rises over its length; half of that is added above and below.
    rise = abs(skew_deg) * 0.0175 * (x1 - x0) / 2
    left = rng.uniform(0.2, 0.8) * min(piece.gap_left, height / 2)
    right = rng.uniform(0.2, 0.8) * min(piece.gap_right, height / 2)
    top, bottom = (rng.uniform(0.0, 0.2) * height + rise for _ in range(2))
    return x0 - left - 0.5, y0 - top, x1 + right + 0.5, y1 + bottom


def move(glyph: Glyph, forward: tuple[float, ...], size: tuple[int, int]) -> Glyph:
    """A glyph after an affine map: its centre moves, its size stays, and it is clipped to the image."""
    a, b, c, d, e, f = forward
    x, y = (glyph.x0 + glyph.x1) / 2, (glyph.y0 + glyph.y1) / 2
    half_width, half_height = (glyph.x1 - glyph.x0) / 2, (glyph.y1 - glyph.y0) / 2
    x, y = a * x + b * y + c, d * x + e * y + f
    width, height = size
    return Glyph(
        glyph.text,
        min(max(x - half_width, 0.0), width),
        min(max(y - half_height, 0.0), height),
        min(max(x + half_width, 0.0), width),
        min(max(y + half_height, 0.0), height),
    )
