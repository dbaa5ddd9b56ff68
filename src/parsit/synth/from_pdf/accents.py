"""Accents that are glyphs of their own, as TeX's old fonts have them, joined to their letters.

Such a file draws "´" and then "e" below it, and the text layer says "´e". Which accent belongs to which letter the
boxes say: it hangs over (or under) the letter, while an accent that means itself (`code`, x^2) stands beside its
neighbours.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np

from parsit.synth.from_pdf.pdf import Chars, Flags, Floats

# Spacing accents, and the combining character of each; combining characters stand for themselves.
COMBINING = {
    "`": "\u0300", "\u02cb": "\u0300", "´": "\u0301", "\u02ca": "\u0301", "^": "\u0302", "\u02c6": "\u0302",
    "~": "\u0303", "\u02dc": "\u0303", "¯": "\u0304", "\u02c9": "\u0304", "\u02d8": "\u0306", "\u02d9": "\u0307",
    "¨": "\u0308", "\u02da": "\u030a", "\u02dd": "\u030b", "\u02c7": "\u030c", "¸": "\u0327", "\u02db": "\u0328",
}  # fmt: skip
# Those that nobody prints for themselves: where one is left over, its letter was not found.
LONE_ACCENTS = frozenset(COMBINING) - frozenset("`´^~¨¯")
_DOTLESS = {"\u0131": "i", "\u0237": "j"}
OVERLAP = 0.5  # of the narrower box: how much of their widths accent and letter share
RAISED = 0.5  # of the letter's height: how far from the letter's baseline an accent's may be, wherever it was drawn


def join_accents(chars: Chars) -> Chars:
    """The characters with every accent that hangs over its letter made one with it (NFC).

    `tight` goes around both; `loose` stays the letter's, whose height tells the size of the font.
    """
    marks = [COMBINING.get(text) or (text if unicodedata.combining(text[0]) else "") for text in chars.text]
    if not any(marks):
        return chars
    text, tight = list(chars.text), chars.tight.copy()
    printed = chars.printed
    order = np.flatnonzero(printed).tolist()
    place_of = {index: place for place, index in enumerate(order)}
    kept = np.ones(len(chars), bool)
    for index in (index for index in order if marks[index]):
        place = place_of[index]
        beside = [order[near] for near in (place + 1, place - 1, place + 2, place - 2) if 0 <= near < len(order)]
        near_by = [near for near in beside if _near(chars, index, near)] + _on_line(chars, printed, index)
        letters = [near for near in near_by if kept[near] and text[near][0].isalpha()]
        best = max(letters, key=lambda near: _shared(tight[index], tight[near]), default=None)
        if best is None or _shared(tight[index], tight[best]) < OVERLAP:
            continue
        base = _DOTLESS.get(text[best], text[best])
        text[best] = unicodedata.normalize("NFC", base + marks[index])
        tight[best, :2] = np.minimum(tight[best, :2], tight[index, :2])
        tight[best, 2:] = np.maximum(tight[best, 2:], tight[index, 2:])
        kept[index] = False
    return replace(chars, text=tuple(text), tight=tight).only(kept)


def _near(chars: Chars, accent: int, letter: int) -> bool:
    """Whether both are on one line."""
    height = chars.loose[letter, 3] - chars.loose[letter, 1]
    return abs(chars.origin[accent, 1] - chars.origin[letter, 1]) < height


def _on_line(chars: Chars, printed: Flags, accent: int) -> list[int]:
    """What stands on the accent's line and under or over it.

    PDFium tells of an accent that is raised for a capital only after other words.
    """
    height = chars.loose[:, 3] - chars.loose[:, 1]
    on_line = np.abs(chars.origin[:, 1] - chars.origin[accent, 1]) < RAISED * height
    across = (chars.tight[:, 0] < chars.tight[accent, 2]) & (chars.tight[:, 2] > chars.tight[accent, 0])
    found = on_line & across & printed
    found[accent] = False
    return np.flatnonzero(found).tolist()


def _shared(one: Floats, other: Floats) -> float:
    """How much of the narrower box's width lies in the other one."""
    shared = min(one[2], other[2]) - max(one[0], other[0])
    return float(shared / max(1e-9, min(one[2] - one[0], other[2] - other[0])))
