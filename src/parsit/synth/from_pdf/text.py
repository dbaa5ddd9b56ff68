"""Blocks of rows to paragraphs: which line goes on in the next one, and which ends because it was meant to.

Decides like someone with a ruler: a line that broke although the next word would have fitted was ended on purpose (an
address, a list, the last line of a paragraph) and ends in the text as well; a line that was full goes on. More paper
than between other lines, another size, or an indented first line begin a new paragraph, after an empty line. A row of
several pieces (a table's) is a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from statistics import median

from parsit.data.importers.layout import join_lines
from parsit.synth.from_pdf.order import Row, TextBlock

# In heights of a line, where it says nothing else:
INDENT = 0.7  # a first line is indented by at least this,
MAX_INDENT = 6.0  # and by no more
SPACE = 0.3  # between words
SLACK = 0.5  # what is left free at the end of a full line
NARROW = 12.0  # so narrow a block of few rows is no running text: an address, a cell
NARROW_ROWS = 6
FEW_ROWS = 4  # below this the usual distance is not measured but at most
MAX_PITCH = 1.4  # line heights
PARAGRAPH = 1.3  # of the usual distance: more parts paragraphs
OTHER_SIZE = 1.2  # fonts whose heights differ by more do not share a paragraph
_MARKER = re.compile(r"[•‣▪◦·*–—-]$|\(?\w{1,3}[.)]$|\[\w{1,4}\]$")  # a list's first word
_LEADERS = re.compile(r"(?:\. ?){4,}\s*\S*$")  # the dots of a table of contents, and a page number
_HYPHEN = re.compile(r"[^\W\d_][-\u2010\u00ad]$")  # a word that goes on, however short its line is

SOFT_HYPHEN = "\u00ad"

# A paragraph is a list of lines that end in the text; each is a list of rows' texts to be joined.
Paragraph = list[list[str]]


def paragraphs_of(blocks: Sequence[TextBlock]) -> list[Paragraph]:
    """The paragraphs of a page in reading order."""
    return [paragraph for block in blocks for paragraph in _of_block(block.rows)]


def lines_of(paragraphs: Sequence[Paragraph]) -> Iterator[str]:
    """The printed lines, for a vocabulary."""
    return (text for paragraph in paragraphs for line in paragraph for text in line)


def written(paragraphs: Sequence[Paragraph], known: Collection[str]) -> str:
    """The text of a page; `known` is the vocabulary that decides about hyphens.

    A soft hyphen that is still there was printed, and nobody could tell whether the word has one: it is a hyphen.
    """
    text = "\n\n".join("\n".join(join_lines(line, known) for line in paragraph) for paragraph in paragraphs)
    return text.replace(SOFT_HYPHEN, "-")


def _of_block(rows: Sequence[Row]) -> Iterator[Paragraph]:
    left, right = min(row[0].x0 for row in rows), max(row[-1].x1 for row in rows)
    pitch = _pitch(rows)
    is_narrow = len(rows) < NARROW_ROWS and right - left < NARROW * median(map(_height, rows))
    paragraph: Paragraph = []
    for index, row in enumerate(rows):
        above = rows[index - 1] if index else None
        if above is None or _is_apart(above, row, pitch) or _is_first_line(rows, index, left, right):
            if paragraph:
                yield paragraph
            paragraph = [[_text(row)]]
        elif _goes_on(above, row, left, right, is_narrow):
            paragraph[-1].append(_text(row))
        else:
            paragraph.append([_text(row)])
    yield paragraph


def _text(row: Row) -> str:
    return " ".join(piece.text for piece in row)


def _height(row: Row) -> float:
    return max(piece.height for piece in row)


def _pitch(rows: Sequence[Row]) -> float:
    """The usual distance of two baselines."""
    steps = [below[0].base - above[0].base for above, below in pairwise(rows)]
    if not steps:
        return 0.0
    usual = float(median(steps))
    return usual if len(rows) >= FEW_ROWS else min(usual, MAX_PITCH * median(_height(row) for row in rows))


def _is_apart(above: Row, row: Row, pitch: float) -> bool:
    sizes = sorted((_height(above), _height(row)))
    return row[0].base - above[0].base > PARAGRAPH * pitch or sizes[1] > OTHER_SIZE * sizes[0]


def _is_first_line(rows: Sequence[Row], index: int, left: float, right: float) -> bool:
    """Whether a row is indented as the first of a paragraph, and not as an item of a list that goes on."""
    above, row = rows[index - 1], rows[index]
    height = _height(row)
    indent = row[0].x0 - left
    if row[1:] or not INDENT * height < indent < MAX_INDENT * height:
        return False
    if above[0].x0 - left > INDENT * height or _MARKER.match(above[0].text.split(" ", 1)[0]):
        return False
    if right - row[0].x1 > INDENT * height:
        return False  # centred, or a line of its own
    below = rows[index + 1] if index + 1 < len(rows) else None
    return below is None or below[0].x0 < row[0].x0 - INDENT * height / 2


def _goes_on(above: Row, row: Row, left: float, right: float, is_narrow: bool) -> bool:
    """Whether a row goes on where the one above it ended, full."""
    if above[1:] or row[1:]:
        return False
    if _HYPHEN.search(above[0].text):
        return True
    if is_narrow:
        return False
    piece, height = row[0], _height(row)
    if _MARKER.match(piece.text.split(" ", 1)[0]) or _LEADERS.search(above[0].text):
        return False
    if piece.x0 < above[0].x0 - INDENT * height and above[0].x0 - left > MAX_INDENT * height:
        return False
    return above[0].x1 + SPACE * height + piece.first > right - SLACK * height
