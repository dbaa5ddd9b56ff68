"""Short crops of a page: pieces of text lines, table cells and field values, with their glyph boxes.

Two ways of cutting. `words` cuts at white space only, never longer than a number of characters. `reader` cuts where
`parsit parse` cuts a page (`parsit.parse.lines`), so that a model is trained on what it is given later: the same paper
around the ink, the same pieces of long lines, words that are cut where they must be.

Each crop is damaged on its own: a page is typeset once but looks different in every crop, which is what a model trained
for a few minutes needs. What that costs is that the crops of one page do not share one scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Literal

import numpy as np
from PIL import Image

from parsit.parse.lines import split_lines
from parsit.parse.reader import MAX_LINE_ASPECT
from parsit.synth.degrade import Damage, Degrade, cut, draw_damage, encode, wear
from parsit.synth.render import Glyph, PlacedLeaf, RenderedPage
from parsit.synth.split import Texts

# More crops from one page would mean fewer fonts and sizes for the same time.
MAX_CROPS_PER_PAGE = 64
LONGEST_SHARE = 0.5
# Of a glyph's height: glyphs whose middles are further apart stand on two lines, words nearer than this touch.
OTHER_LINE, TOUCHING = 0.6, 0.06

Cut = Literal["words", "reader"]
CUTS: tuple[Cut, ...] = ("words", "reader")

Area = tuple[float, float, float, float]


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
class Piece:
    """What one crop shows: its text, its place on the page (x0, y0, x1, y1 in pixels), its characters."""

    text: str
    box: Area
    glyphs: tuple[Glyph, ...]


@dataclass(frozen=True, slots=True)
class Crop:
    """An encoded image of a piece; the glyph boxes are in the crop's pixels."""

    text: str
    data: bytes
    suffix: str
    glyphs: tuple[Glyph, ...]


def page_crops(
    page: RenderedPage,
    texts: Texts,
    cut_by: Cut,
    max_chars: int,
    degrade: Degrade,
    rng: Random,
    noise_rng: np.random.Generator,
) -> list[Crop]:
    """Up to `MAX_CROPS_PER_PAGE` crops whose texts belong to the page's split, in a random order."""
    if cut_by == "reader":
        words = [word for leaf in page.leaves for line in leaf_lines(leaf) for word in line]
        return reader_crops(page.image, words, page.dpi, texts.owns, degrade, rng, noise_rng)
    groups = [
        group for leaf in page.leaves for line in leaf_lines(leaf) for group in line_pieces(line, texts, max_chars, rng)
    ]
    chosen = rng.sample(groups, min(len(groups), MAX_CROPS_PER_PAGE))
    return [cut_group(page.image, group, page.dpi, degrade, rng, noise_rng) for group in chosen]


def reader_crops(
    image: Image.Image,
    words: Sequence[Word],
    dpi: int,
    owns: Callable[[str], bool],
    degrade: Degrade,
    rng: Random,
    noise_rng: np.random.Generator,
) -> list[Crop]:
    """Up to `MAX_CROPS_PER_PAGE` crops of a clean page, cut as `parsit parse` cuts it, in a random order.

    Args:
        image: the page.
        words: all that is printed on it.
        dpi: its resolution.
        owns: whether a text may be used.
        degrade: the level of damage.
        rng: the page's, for what is drawn of it.
        noise_rng: the page's, for noise.
    """
    pieces = [piece for piece in read_pieces(image, words) if owns(piece.text)]
    chosen = rng.sample(pieces, min(len(pieces), MAX_CROPS_PER_PAGE))
    crops = []
    for piece in chosen:
        damage = draw_damage(rng, degrade, dpi)
        crops.append(cut_piece(image, piece, damage, noise_rng))
    return crops


def read_pieces(image: Image.Image, words: Sequence[Word]) -> list[Piece]:
    """The pieces of lines that the reader makes of a clean page, with what is printed in each.

    A glyph is in a piece that holds its middle. Pieces without a glyph (figures) and those that hold parts of two
    lines are left out.
    """
    glyphs = [glyph for word in words for glyph in word.glyphs]
    word_of_glyph = np.repeat(np.arange(len(words)), [len(word.glyphs) for word in words])
    boxes_G4 = np.array([[glyph.x0, glyph.y0, glyph.x1, glyph.y1] for glyph in glyphs]).reshape(-1, 4)
    x_G, y_G = (boxes_G4[:, 0] + boxes_G4[:, 2]) / 2, (boxes_G4[:, 1] + boxes_G4[:, 3]) / 2
    pieces = []
    for box in split_lines(image, max_aspect=MAX_LINE_ASPECT):
        inside = np.flatnonzero((x_G >= box.x0) & (x_G < box.x1) & (y_G >= box.y0) & (y_G < box.y1))
        if not len(inside) or np.ptp(y_G[inside]) > OTHER_LINE * (boxes_G4[inside, 3] - boxes_G4[inside, 1]).max():
            continue
        parts = [[glyphs[index] for index in part] for _, part in groupby(inside, lambda i: word_of_glyph[i])]
        parts.sort(key=lambda part: part[0].x0)
        found = tuple(glyph for part in parts for glyph in part)
        pieces.append(Piece(text_of(parts), box, found))
    return pieces


def text_of(parts: Sequence[Sequence[Glyph]]) -> str:
    """Words, or what a cut left of them, from left to right as text; what touches is one word."""
    text, end = "", -np.inf
    for part in parts:
        apart = part[0].x0 - end > TOUCHING * (part[0].y1 - part[0].y0)
        text += (" " if text and apart else "") + "".join(glyph.text for glyph in part)
        end = part[-1].x1
    return text


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


def cut_group(
    image: Image.Image, group: WordGroup, dpi: int, degrade: Degrade, rng: Random, noise_rng: np.random.Generator
) -> Crop:
    """Cut, damage and encode some words."""
    damage = draw_damage(rng, degrade, dpi)
    piece = Piece(group.text, crop_box(group, rng), group.glyphs)
    return cut_piece(image, piece, damage, noise_rng)


def cut_piece(image: Image.Image, piece: Piece, damage: Damage, noise_rng: np.random.Generator) -> Crop:
    """Cut, damage and encode one piece."""
    x0, y0, x1, y1 = piece.box
    # A turned line rises over its length; half of that is added above and below.
    rise = abs(damage.skew_deg) * 0.0175 * (x1 - x0) / 2
    turned, forward = cut(image, (x0, y0 - rise, x1, y1 + rise), damage.skew_deg)
    data = encode(wear(turned, damage, noise_rng), damage)
    return Crop(piece.text, data, damage.suffix, tuple(move(glyph, forward, turned.size) for glyph in piece.glyphs))


def crop_box(group: WordGroup, rng: Random) -> Area:
    """The words' box with some white around it; neighbours on the line stay outside."""
    glyphs = group.glyphs
    x0, x1 = min(glyph.x0 for glyph in glyphs), max(glyph.x1 for glyph in glyphs)
    y0, y1 = min(glyph.y0 for glyph in glyphs), max(glyph.y1 for glyph in glyphs)
    height = y1 - y0
    left = rng.uniform(0.2, 0.8) * min(group.gap_left, height / 2)
    right = rng.uniform(0.2, 0.8) * min(group.gap_right, height / 2)
    top, bottom = (rng.uniform(0.0, 0.2) * height for _ in range(2))
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
