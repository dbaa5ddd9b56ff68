"""Reading order of a page's pieces of lines: columns one after the other, tables row by row.

A recursive XY-cut (Nagy, Seth and Viswanathan, "A prototype document image analysis system for technical journals",
IEEE Computer 25(7), 1992) on boxes, with the rule of `parsit.parse.lines`, which does the same on ink: neighbouring
strips with a gap in common, and running text on both sides of it, are columns; so is what the file draws as a whole
before it draws what stands beside it (two addresses). A line at the top or bottom of the page with much paper beside it
is a header or footer; it stays where it stands and is no part of a column below.

Given up: text that flows around a figure, columns of fewer than three lines, tables whose cells hold paragraphs as wide
as columns, columns of fewer than eight lines that the file draws line for line from left to right, and magazines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from parsit.synth.from_pdf.words import TextRun

GUTTER = 0.6  # of the usual line height: the narrowest gap between columns
COLUMN_WIDTH = 8.0  # line heights: running text is at least this wide
COLUMN_FILL = 0.6  # of its column's width: what most lines of running text fill
COLUMN_LINES = 3
BLOCK_LINES = 2  # of what the file draws all of before it draws what stands beside it
BAND = 0.6  # line heights of paper between two strips: here columns may end
# A file that draws left and right in turn, line for line, has a table there, unless it is as large as columns of text:
DRAWN_IN_TURN = 0.5  # of the lines with both sides
MANY_LINES, WIDE_COLUMN = 8, 15.0
MARGIN = 0.13  # of the page's height: where headers and footers stand
MARGIN_LINES = 2
MARGIN_GAP = 1.0  # line heights of paper beside a header or footer, and
MARGIN_GAP_SHARE = 1.5  # so many times the paper that a quarter of the lines have at most

Row = tuple[TextRun, ...]
Gap = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Rows that follow each other in one column, each from left to right."""

    rows: tuple[Row, ...]


def reading_order(pieces: Sequence[TextRun], page_height: float) -> list[TextBlock]:
    """The pieces of a page as blocks in reading order."""
    if not pieces:
        return []
    height = median(piece.height for piece in pieces)
    strips = _strips(pieces)
    top, bottom = _margins(strips, page_height, height)
    middle = [piece for strip in strips[top : len(strips) - bottom] for piece in strip]
    head, foot = (tuple(map(_row, part)) for part in (strips[:top], strips[len(strips) - bottom :]))
    return [*([TextBlock(head)] if head else []), *_blocks(middle, height), *([TextBlock(foot)] if foot else [])]


def jumps(blocks: Sequence[TextBlock]) -> int:
    """How often two words follow each other inside a block although the file draws others between them.

    Place and drawing order are two witnesses of the order of reading. Where they differ inside a block, the block is
    several that are interleaved: a fraction and its line, two diagrams, a table and a note beside it.
    """
    runs = [[run for row in block.rows for run in row] for block in blocks]
    between = sum(before.last + 1 != after.number for block in runs for before, after in pairwise(block))
    return between + sum(run.jumps for block in runs for run in block)


def _strips(pieces: Sequence[TextRun]) -> list[list[TextRun]]:
    """Pieces whose bodies overlap in height, from top to bottom."""
    strips: list[list[TextRun]] = []
    end = float("-inf")
    for piece in sorted(pieces, key=lambda piece: (piece.y0, piece.x0)):
        if strips and piece.y0 < end:
            strips[-1].append(piece)
            end = max(end, piece.y1)
        else:
            strips.append([piece])
            end = piece.y1
    return strips


def _row(strip: Sequence[TextRun]) -> Row:
    return tuple(sorted(strip, key=lambda piece: piece.x0))


def _is_row(strip: Sequence[TextRun]) -> bool:
    """Whether no piece stands above another."""
    row = _row(strip)
    return all(after.x0 > before.x1 - 0.3 * before.height for before, after in pairwise(row))


def _margins(strips: list[list[TextRun]], page_height: float, height: float) -> tuple[int, int]:
    """How many strips are header and footer."""
    ends = [(min(piece.y0 for piece in strip), max(piece.y1 for piece in strip)) for strip in strips]
    papers = [after[0] - before[1] for before, after in pairwise(ends)]
    if len(papers) < MARGIN_LINES:
        return 0, 0
    least = max(MARGIN_GAP * height, MARGIN_GAP_SHARE * sorted(papers)[len(papers) // 4])

    def count(order: Sequence[int], paper_of: Sequence[float], inside: Sequence[bool]) -> int:
        for number, index in enumerate(order[:MARGIN_LINES], 1):
            if not inside[index] or not _is_row(strips[index]):
                return 0
            if paper_of[number - 1] >= least:
                return number
        return 0

    forward = range(len(strips) - 1)
    top = count(forward, papers, [end < MARGIN * page_height for _, end in ends])
    backward = range(len(strips) - 1, 0, -1)
    bottom = count(backward, papers[::-1], [start > (1 - MARGIN) * page_height for start, _ in ends])
    return top, min(bottom, len(strips) - top)


def _blocks(pieces: Sequence[TextRun], height: float) -> list[TextBlock]:
    strips = _strips(pieces)
    blocks: list[TextBlock] = []
    rows: list[Row] = []
    position = 0
    while position < len(strips):
        end, gap = _columns(strips[position:], height)
        if gap is None:
            parts = _parts(strips[position], height)
            if _is_row(strips[position]):
                rows.append(_row(strips[position]))
                parts = []
            elif len(parts) == 1:
                rows += [(piece,) for piece in sorted(strips[position], key=lambda piece: (piece.base, piece.x0))]
                parts = []
        else:
            inside = [piece for strip in strips[position : position + end] for piece in strip]
            middle = sum(gap) / 2
            parts = [[piece for piece in inside if (piece.x0 + piece.x1) / 2 < middle]]
            parts.append([piece for piece in inside if (piece.x0 + piece.x1) / 2 >= middle])
        if parts:
            blocks += [TextBlock(tuple(rows))] if rows else []
            rows = []
            blocks += [block for part in parts for block in _blocks(part, height)]
        position += end
    return blocks + ([TextBlock(tuple(rows))] if rows else [])


def _gaps(strip: Sequence[TextRun], least: float) -> list[Gap]:
    """Where a strip has paper, margins included."""
    gaps: list[Gap] = []
    end = float("-inf")
    for piece in _row(strip):
        if piece.x0 - end >= least:
            gaps.append((end, piece.x0))
        end = max(end, piece.x1)
    return [*gaps, (end, float("inf"))]


def _parts(strip: Sequence[TextRun], height: float) -> list[list[TextRun]]:
    """What the gaps of a strip set apart, from left to right."""
    gaps = _gaps(strip, GUTTER * height)
    return [[piece for piece in strip if left[1] <= piece.x0 < right[1]] for left, right in pairwise(gaps)]


def _columns(strips: list[list[TextRun]], height: float) -> tuple[int, Gap | None]:
    """How many of the first strips belong together, and the gap between two columns in them, if any."""
    for end, gap in _common_gaps(strips, GUTTER * height):
        ends = [(number, *_sides(strips[:number], gap)) for number in _ends(strips[:end], gap, height)]
        for judge in (_drawn_whole, _are_columns):
            for number, left, right in ends:
                if left and right and judge(left, right, height):
                    return number, gap
    return 1, None


def _common_gaps(strips: list[list[TextRun]], least: float) -> list[tuple[int, Gap]]:
    """Gaps inside the text, each with how many of the first strips have it in common; longest first."""
    found: list[tuple[int, Gap]] = []
    common = _gaps(strips[0], least)
    for end in range(1, len(strips) + 1):
        narrower = [
            (max(a, c), min(b, d))
            for a, b in common
            for c, d in (_gaps(strips[end], least) if end < len(strips) else [])
            if min(b, d) - max(a, c) >= least
        ]
        ending = [gap for gap in common if not any(gap[0] <= a and b <= gap[1] for a, b in narrower)]
        found += [(end, gap) for gap in ending if _is_inner(gap)]
        common = narrower
    return found[::-1]


def _ends(strips: list[list[TextRun]], gap: Gap, height: float) -> list[int]:
    """How many strips may be columns: all of them, or as far as a wider band of paper, and no further than a table."""
    ends: list[int] = []
    for number in range(1, len(strips)):
        paper = min(piece.y0 for piece in strips[number]) - max(piece.y1 for piece in strips[number - 1])
        if paper > BAND * height:
            ends.append(number)
    ends.append(len(strips))
    for start, end in pairwise(ends):
        if _drawn_in_turn(*_sides(strips[start:end], gap)):
            return [number for number in ends if number <= start][::-1]
    return ends[::-1]


def _sides(strips: Sequence[Sequence[TextRun]], gap: Gap) -> tuple[list[TextRun], list[TextRun]]:
    inside = [piece for strip in strips for piece in strip]
    return [piece for piece in inside if piece.x1 <= gap[0]], [piece for piece in inside if piece.x0 >= gap[1]]


def _drawn_whole(left: list[TextRun], right: list[TextRun], height: float) -> bool:
    """Whether the left was drawn as a whole, and then the right."""
    return max(piece.last for piece in left) + 1 == min(piece.number for piece in right) and all(
        len(_line_widths(side, height)) >= BLOCK_LINES for side in (left, right)
    )


def _are_columns(left: list[TextRun], right: list[TextRun], height: float) -> bool:
    """Whether there is running text on both sides."""
    lines, width = (MANY_LINES, WIDE_COLUMN) if _drawn_in_turn(left, right) else (COLUMN_LINES, COLUMN_WIDTH)
    return all(_is_running_text(side, height, lines, width) for side in (left, right))


def _drawn_in_turn(left: Sequence[TextRun], right: Sequence[TextRun]) -> bool:
    """Whether most lines on the right were drawn straight after the left end of the same line."""
    ends = {piece.last: piece for piece in left}
    both = [row[0] for row in map(_row, _strips(right)) if any(_side_by_side(row[0], piece) for piece in left)]
    in_turn = [piece for piece in both if (end := ends.get(piece.number - 1)) and _side_by_side(piece, end)]
    return len(in_turn) > DRAWN_IN_TURN * len(both)


def _side_by_side(one: TextRun, other: TextRun) -> bool:
    return min(one.y1, other.y1) > max(one.y0, other.y0)


def _is_inner(gap: Gap) -> bool:
    return gap[0] != float("-inf") and gap[1] != float("inf")


def _is_running_text(side: Sequence[TextRun], height: float, lines: int, column_width: float) -> bool:
    """Whether there are several lines and most of them are long; `column_width` is in line heights."""
    widths = _line_widths(side, height)
    width = max(piece.x1 for piece in side) - min(piece.x0 for piece in side)
    return len(widths) >= lines and median(widths) >= max(COLUMN_FILL * width, column_width * height)


def _line_widths(side: Sequence[TextRun], height: float) -> list[float]:
    """The inked width of each line."""
    widths: list[float] = []
    last = float("-inf")
    for piece in sorted(side, key=lambda piece: piece.base):
        if piece.base - last > 0.5 * height:
            widths.append(0.0)
            last = piece.base
        widths[-1] += piece.x1 - piece.x0
    return widths
