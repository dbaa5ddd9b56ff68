"""Boxes with text to text: rows from boxes, paragraphs from lines."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

# A hyphen at the end of a line, and the letters before it; the first letters of the next line.
_BROKEN = re.compile(r"([^\W\d_]{2,})[-\u2010\u00ad]$")
_GOES_ON = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]+(?:[-\u2010][^\W\d_]+)*")
_SOFT_HYPHEN = "\u00ad"
_SAME_ROW = 0.5  # of the lower box: how much of it lies beside the other


class TextBox(NamedTuple):
    """A text and its rectangle; y downwards."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float


def rows_of(boxes: Iterable[TextBox]) -> list[list[TextBox]]:
    """Boxes in rows from top to bottom, each row from left to right. For pages of one column, such as receipts."""
    rows: list[list[TextBox]] = []
    for box in sorted(boxes, key=lambda box: (box.y0 + box.y1, box.x0)):
        if rows and _beside(rows[-1][-1], box):
            rows[-1].append(box)
        else:
            rows.append([box])
    return [sorted(row, key=lambda box: box.x0) for row in rows]


def _beside(one: TextBox, other: TextBox) -> bool:
    shared = min(one.y1, other.y1) - max(one.y0, other.y0)
    return shared > _SAME_ROW * min(one.y1 - one.y0, other.y1 - other.y0)


def words_in(lines: Iterable[str]) -> set[str]:
    """The words of some lines in lower case, hyphenated ones whole; halves at a line's end are left out."""
    words: set[str] = set()
    broken = False
    for line in lines:
        found = [(match.group().casefold(), match.span()) for match in _WORD.finditer(line)]
        if broken and found and found[0][1][0] == 0:
            found = found[1:]
        broken = _BROKEN.search(line) is not None
        if broken and found:
            found = found[:-1]
        words.update(word for word, _ in found)
    return words


def join_lines(lines: Sequence[str], known: Collection[str]) -> str:
    """The lines of one paragraph as one line.

    A hyphen at a line's end goes only when that is safe: it is a soft hyphen (U+00AD), or `known` (words in lower case,
    such as the document's others) has the word without it. It stays, without a space after it, when `known` has the
    word with it. Else nobody can tell, and the line ends where it ends on the page.
    """
    text = ""
    for line in lines:
        text = _joined(text, line, known) if text else line
    return text


def _joined(text: str, line: str, known: Collection[str]) -> str:
    before, after = _BROKEN.search(text), _GOES_ON.match(line)
    if before is None:
        return f"{text} {line}"
    if after is None or not after.group()[0].islower():
        return f"{text}\n{line}"
    first, second = before.group(1).casefold(), after.group().casefold()
    if text.endswith(_SOFT_HYPHEN) or first + second in known:
        return text[:-1] + line
    return text + line if f"{first}-{second}" in known else f"{text}\n{line}"
