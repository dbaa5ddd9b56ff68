"""Cut a page into its text lines, top to bottom and column by column, for a model that reads lines.

A recursive XY-cut (Nagy, Seth and Viswanathan, "A prototype document image analysis system for
technical journals", IEEE Computer 25(7), 1992) on the page's ink. A region is cut at its empty rows
into strips. Neighbouring strips with a wide empty column in common, and running text on both sides
of it, are columns and are read one after the other; any other strip is cut at its wide gaps, so
that a table is read row by row. Ruling lines are taken out first, so bordered tables split too; cells of a few lines
between them are read one after the other, as are blocks whose lines are spaced differently and so are no rows.

Given up: pages skewed by more than about 1° (`parsit.parse.skew` turns them straight before), curved lines, text in
dark boxes and on photographs, vertical text, columns less than 1.5 line heights apart, titles more than three times as
large as the text (they may be cut), and blocks whose lines happen to stand in rows. Figures come out as lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parsit.parse.ink import MIN_INK_IN_WINDOW, Mask, Print, printed
from parsit.parse.spans import Span, extent, length, overlaps, runs

# In line heights:
WIDE_GAP = 1.5  # words in justified text stay closer than this
COLUMN_WIDTH = 8.0  # running text is at least this wide; columns of figures are narrower
PADDING = 0.2  # paper left around a line
TALL = 1.8  # above this a strip may hold lines that touch
ACCENT = 0.35  # a lower strip this near to another belongs to it (dots, accents)

COLUMN_FILL = 0.6  # running text fills this share of its column's width in most lines
GUTTER = 8.0  # columns of running text are no further apart than this; figures may stand far from what they belong to
COLUMN_STRIPS = 3  # fewer strips side by side are rows
RULED = 0.8  # of its way between two cells there is ink of a ruling line; the rest is noise, and where lines cross
CELL_LINES = 3  # a cell has no more: what it is for, and an entry of one or two lines
UNEVEN = 0.1  # of their distance: how much lines of one block may differ in it
DRIFT = 0.25  # line heights: lines that have drifted apart by more are not set in rows
MAX_PITCHES = 1.5  # times: beyond, cells of two lines may stand beside cells of one
MIN_HEIGHT = 4  # pixels; what is lower is not counted when the page's line height is found
VALLEY = 0.4  # of the lower peak beside it: what ink may lie between two lines that touch
NEAR_LIMIT = 0.6  # of the widest line: where the search for a gap to cut at begins
FAR_LIMIT = 0.25  # and how far back it goes for one between words, where that window lies in a long word
HALF_A_WORD = 1.35  # line heights, three letters: where gaps are further apart, most of them are between words
WORD_GAP = (0.15, 0.3)  # line heights: a gap of the first or less parts no words, of more than the second always


class Box(NamedTuple):
    """A rectangle in pixels: left, top, right, bottom; the right and bottom edges lie outside."""

    x0: int
    y0: int
    x1: int
    y1: int


class Piece(NamedTuple):
    """A part of a line that is read in one go. `ends_word`: False where the cut behind it goes through a word."""

    box: Box
    ends_word: bool = True


@dataclass(frozen=True, slots=True)
class _Region:
    """A part of the page: what is printed there, where its corner lies, and the page's line height."""

    marks: Print
    x: int
    y: int
    line_height: float

    @property
    def ink(self) -> Mask:
        """bool[height, width], where letters are."""
        return self.marks.letters

    def cut(self, rows: Span, columns: Span) -> _Region:
        """The part between two rows and two columns, trimmed to its ink."""
        ink = self.ink[slice(*rows), slice(*columns)]
        row, column = extent(ink.any(axis=1)), extent(ink.any(axis=0))
        top, left = rows[0] + row[0], columns[0] + column[0]
        place = (slice(top, rows[0] + row[1]), slice(left, columns[0] + column[1]))
        marks = Print(*(mask[place] for mask in self.marks))
        return _Region(marks, self.x + left, self.y + top, self.line_height)


def split_lines(image: Image.Image, *, max_aspect: float | None = None) -> list[Box]:
    """The boxes of a page's text lines in reading order; with `max_aspect`, of their pieces.

    See `line_pieces`, which keeps the pieces of one line together.
    """
    return [piece.box for pieces in line_pieces(image, max_aspect=max_aspect) for piece in pieces]


def line_pieces(image: Image.Image, *, max_aspect: float | None = None) -> list[tuple[Piece, ...]]:
    """A page's text lines in reading order, each as its pieces from left to right.

    Args:
        image: An upright page.
        max_aspect: The most times its height that a box may be wide; a wider line is cut between
            two words near that limit, or where there are none through a word, which the piece says.
            None: lines stay whole.

    Returns:
        Pieces whose boxes are inside the image with a little paper around the ink; no lines for an
        empty page.
    """
    return pieces_of_print(printed(image), max_aspect=max_aspect)


def pieces_of_print(marks: Print, *, max_aspect: float | None = None) -> list[tuple[Piece, ...]]:
    """`line_pieces` of a page of which is known what is printed on it."""
    height, width = marks.letters.shape
    page = _Region(marks, 0, 0, _line_height(marks.letters)).cut((0, height), (0, width))
    return [_padded(line, (width, height), max_aspect) for line in _lines(page)]


def _padded(line: _Region, page_size: tuple[int, int], max_aspect: float | None) -> tuple[Piece, ...]:
    """A line's pieces with their padded boxes, all as high as the line."""
    height, width = line.ink.shape
    pad_x = max(1, round(PADDING * line.line_height))
    # "nnn" and dashes are given a whole line's height, as they have among other words.
    pad_y = pad_x + max(0, round((line.line_height - height) / 2))
    y0, y1 = max(0, line.y - pad_y), min(page_size[1], line.y + height + pad_y)
    max_width = width if max_aspect is None else int(max_aspect * (y1 - y0)) - 2 * pad_x
    return tuple(
        Piece(Box(max(0, part.x - pad_x), y0, min(page_size[0], part.x + part.ink.shape[1] + pad_x), y1), ends_word)
        for part, ends_word in _parts(line, max(1, max_width), _word_gap(line))
    )


def _lines(region: _Region) -> list[_Region]:
    """The lines of a region in reading order, each trimmed to its ink."""
    strips = _strips(region.ink, region.line_height)
    gaps = [_wide_gaps(region, strip) for strip in strips]
    lines: list[_Region] = []
    position = 0
    while position < len(strips):
        end, gap = _columns(region, strips[position:], gaps[position:])
        if not gap:
            end, gap = _cells(region, strips, gaps, position)
        if not gap:
            end, gap = _blocks(region, strips[position:], gaps[position:])
        rows = (strips[position][0], strips[position + end - 1][1])
        if gap:
            lines += _lines(region.cut(rows, (0, gap[0]))) + _lines(region.cut(rows, (gap[1], region.ink.shape[1])))
        else:
            lines += _row(region.cut(rows, (0, region.ink.shape[1])))
        position += end
    return lines


def _row(strip: _Region) -> list[_Region]:
    """The lines of one strip: what its wide gaps set apart, from left to right."""
    height = strip.ink.shape[0]
    parts = runs(strip.ink.any(axis=0), join=WIDE_GAP * strip.line_height)
    if len(parts) > 1:
        return [line for part in parts for line in _lines(strip.cut((0, height), part))]
    if strip.ink.sum() < MIN_INK_IN_WINDOW:
        return []
    return _parted(strip) if height > TALL * strip.line_height else [strip]


def _strips(ink: Mask, line_height: float) -> list[Span]:
    """Rows of ink between empty rows; accents and dots stay with their letters."""
    strips: list[Span] = []
    for strip in runs(ink.any(axis=1)):
        low, near = ACCENT * line_height, ACCENT * line_height
        if strips and strip[0] - strips[-1][1] <= near and min(length(strip), length(strips[-1])) < low:
            strips[-1] = (strips[-1][0], strip[1])
        else:
            strips.append(strip)
    return strips


def _parted(strip: _Region) -> list[_Region]:
    """The lines of a strip in which descenders and ascenders meet: cut in the valleys of its profile of ink."""
    reach = max(1, round(strip.line_height / 3))
    profile = np.convolve(strip.ink.sum(axis=1), np.ones(reach), mode="same")
    cuts, height = [0], len(profile)
    for row in range(2 * reach, height - 2 * reach):
        before, after = profile[cuts[-1] : row].max(), profile[row : row + 4 * reach].max()
        is_lowest = profile[row] == profile[row - reach : row + reach + 1].min() and row - cuts[-1] > 2 * reach
        if is_lowest and profile[row] < VALLEY * min(before, after):
            cuts.append(row)
    return [strip.cut(rows, (0, strip.ink.shape[1])) for rows in pairwise([*cuts, height])]


def _columns(region: _Region, strips: list[Span], gaps: list[list[Span]]) -> tuple[int, Span | None]:
    """How many of the first strips belong together, and the gap between two columns in them, if any."""
    common, end = gaps[0], 1
    while end < len(strips):
        narrower = overlaps(common, gaps[end], WIDE_GAP * region.line_height)
        if not narrower:
            break
        common, end = narrower, end + 1
    if end >= COLUMN_STRIPS:
        edges = [0, *(edge for gap in common for edge in gap), region.ink.shape[1]]
        rows = slice(strips[0][0], strips[end - 1][1])
        sides = [side for side in zip(edges[::2], edges[1::2], strict=True) if region.ink[rows, slice(*side)].any()]
        is_near = all(after[0] - side[1] <= GUTTER * region.line_height for side, after in pairwise(sides))
        # Where one of them is no running text, such as figures, all are a table's, and are read row by row.
        if len(sides) > 1 and is_near and all(_is_running_text(region, strips[:end], side) for side in sides):
            return end, (sides[0][1], sides[1][0])
    return 1, None


def _cells(region: _Region, strips: list[Span], gaps: list[list[Span]], position: int) -> tuple[int, Span | None]:
    """How many strips from `position` on fill cells side by side, and the gap with the ruling line between two cells.

    A few lines between two ruling lines across are a row of cells; more of them are rows of a table that is ruled
    upright alone. The first and the last strip need no line beyond them.
    """
    if position and not _is_ruled(region, strips[position - 1], strips[position]):
        return 1, None
    common, last = gaps[position], position
    while last + 1 < len(strips) and not _is_ruled(region, strips[last], strips[last + 1]):
        last += 1
        common = overlaps(common, gaps[last], WIDE_GAP * region.line_height)
        if last - position == CELL_LINES:
            return 1, None
    rows = slice(strips[position][0], strips[last][1])
    inner = [gap for gap in common if region.ink[rows, : gap[0]].any() and region.ink[rows, gap[1] :].any()]
    ruled = [gap for gap in inner if region.marks.upright[rows, slice(*gap)].any(axis=1).mean() >= RULED]
    return (last - position + 1, ruled[0]) if ruled and last > position else (1, None)


def _is_ruled(region: _Region, above: Span, below: Span) -> bool:
    """Whether a ruling line across parts two strips, as far as they reach."""
    columns = slice(*extent(region.ink[above[0] : below[1]].any(axis=0)))
    return bool(region.marks.across[above[1] : below[0], columns].any(axis=0).mean() >= RULED)


def _blocks(region: _Region, strips: list[Span], gaps: list[list[Span]]) -> tuple[int, Span | None]:
    """How many of the first strips are two blocks side by side whose lines are no rows, and the gap between, if any.

    Such as an address beside a letter's dates: the lines of each are evenly spaced, those of one further apart.
    """
    common, found = gaps[0], (1, None)
    for end in range(1, len(strips) + 1):
        common = overlaps(common, gaps[end - 1], WIDE_GAP * region.line_height)
        first = region.ink[slice(*strips[0])]
        inner = [gap for gap in common if first[:, : gap[0]].any() and first[:, gap[1] :].any()]
        if not inner:
            break
        gap, rows = max(inner, key=length), (strips[0][0], strips[end - 1][1])
        left, right = (_base_lines(region, rows, side) for side in ((0, gap[0]), (gap[1], region.ink.shape[1])))
        if not _is_even(left) or not _is_even(right):
            break
        if min(len(left), len(right)) >= 2 and max(len(left), len(right)) >= COLUMN_STRIPS:
            if not _drift_apart(left, right, region.line_height):
                break
            found = (end, gap)
    return found


def _base_lines(region: _Region, rows: Span, columns: Span) -> NDArray[np.int_]:
    """The row of the base line of each line in a part of a region: most lower edges of its ink lie on it."""
    ink = region.ink[slice(*rows), slice(*columns)]
    edges = (ink & ~np.pad(ink[1:], ((0, 1), (0, 0)))).sum(axis=1)
    strips = _strips(ink, region.line_height)
    return np.array([strip[0] + int(edges[slice(*strip)].argmax()) for strip in strips])


def _is_even(base_lines: NDArray[np.int_]) -> bool:
    pitches = np.diff(base_lines)
    return len(pitches) == 0 or float(np.ptp(pitches)) <= max(2, UNEVEN * float(np.median(pitches)))


def _drift_apart(left: NDArray[np.int_], right: NDArray[np.int_], line_height: float) -> bool:
    """Whether the lines of two evenly spaced blocks are neither in the same rows nor in every second one."""
    lines = min(len(left), len(right))
    pitches = sorted((np.ptp(left) / (len(left) - 1), np.ptp(right) / (len(right) - 1)))
    drift = float(pitches[1] - pitches[0]) * (lines - 1)
    return drift > DRIFT * line_height and bool(pitches[1] < MAX_PITCHES * pitches[0])


def _is_running_text(region: _Region, strips: list[Span], side: Span) -> bool:
    """Whether there are some lines between two gaps, of which most are long and fill their column."""
    if length(side) < COLUMN_WIDTH * region.line_height:
        return False
    inks = [region.ink[slice(*strip), slice(*side)].any(axis=0) for strip in strips]
    join = WIDE_GAP * region.line_height
    filled = [sum(map(length, runs(ink, join=join))) for ink in inks if ink.any()]
    width = length(extent(np.any(inks, axis=0)))
    least = max(COLUMN_FILL * width, COLUMN_WIDTH * region.line_height)
    return len(filled) >= COLUMN_STRIPS and float(np.median(filled)) >= least


def _parts(line: _Region, max_width: int, word_gap: float) -> list[tuple[_Region, bool]]:
    """A line cut into parts of at most `max_width` pixels; of each, whether the cut behind it is between words."""
    height, width = line.ink.shape
    if width <= max_width:
        return [(line, True)]
    cut, ends_word = _place_to_cut(line.ink[:, : max_width + 1].sum(axis=0), max_width, word_gap)
    rest = line.cut((0, height), (cut, width))
    return [(line.cut((0, height), (0, cut)), ends_word), *_parts(rest, max_width, word_gap)]


def _place_to_cut(profile: NDArray[np.int_], max_width: int, word_gap: float) -> tuple[int, bool]:
    """The column to cut a line at, from the ink in each of its first columns, and whether that is between words.

    The widest gap near the limit; if that parts no words, the last one before it that does; else through a word.
    """
    near, far = int(NEAR_LIMIT * max_width), int(FAR_LIMIT * max_width)
    least = profile[near:].min()
    gaps = [(near + left, near + right) for left, right in runs(profile[near:] == least)]
    widest = max(reversed(gaps), key=length)
    if least or length(widest) <= word_gap:
        between = [(far + left, far + right) for left, right in runs(profile[far:] == 0)]
        words = [gap for gap in between if length(gap) > word_gap]
        if not words:
            return max(1, sum(widest) // 2), False
        widest = words[-1]
    return max(1, sum(widest) // 2), True


def _word_gap(line: _Region) -> float:
    """More empty columns than that part two words: half as many again as the line's usual gap, between letters, has.

    Within limits. Where letters touch, as in blurred print, the usual gap is between words: gaps are few then.
    """
    least, most = (share * line.line_height for share in WORD_GAP)
    gaps = [length(gap) for gap in runs(~line.ink.any(axis=0))]
    if len(gaps) * HALF_A_WORD * line.line_height < line.ink.shape[1]:
        return least
    return min(max(1.5 * float(np.median(gaps)), least), most)


def _line_height(ink: Mask) -> float:
    """The usual height of a line's ink in pixels, from sixteen upright slices, which columns do not blur."""
    slices = np.array_split(ink, min(16, ink.shape[1]), axis=1)
    heights = [length(run) for part in slices for run in runs(part.any(axis=1)) if length(run) > MIN_HEIGHT]
    return float(np.median(heights)) if heights else 16.0


def _wide_gaps(region: _Region, strip: Span) -> list[Span]:
    """Empty columns of a strip that are wide enough to part two columns, margins included."""
    gaps = runs(~region.ink[slice(*strip)].any(axis=0))
    return [gap for gap in gaps if length(gap) >= WIDE_GAP * region.line_height]
