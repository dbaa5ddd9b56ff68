"""Whether a page of text lies upside down: what sticks out of its lines, held against what was read.

In Latin print more ink stands above the height of an x (b, d, capitals) than below the line (g, p, commas). For each
piece of a line the difference is a share of its ink; the page hangs where the mean of them is clearly negative.
Figures with commas, capitals, Greek and Cyrillic hang too, so the ink alone is a suspicion: the page lies upside down
if the text that was read is one whose letters ought to stick out above. Given up: pages with few pieces or little
lower-case Latin, pages on their side, and turning the page: the reader is told, and turns it if it is so.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from PIL import Image

from parsit.parse.ink import Mask, Print, printed
from parsit.parse.lines import pieces_of_print
from parsit.parse.spans import extent

MAX_SIDE = 1800  # pixels; about A4 at 150 dpi: letters are large enough, and more pixels only take longer
PIECE_ASPECT = 5.0  # so short that a skew of 1° moves the line by less than the height of an x
MIN_PIECES = 12
MIN_HEIGHT = 6  # pixels; in a lower piece nothing can be told apart
BAND = 0.5  # of the ink in the fullest rows: where the height of an x begins and ends
MAX_BALANCE = -0.01  # upright pages of synthetic documents have at least +0.004
MIN_CERTAINTY = 2.5  # standard errors below 0

ASCENDING, DESCENDING = "bdfhklt", "gjpqy"
MIN_LOWER_CASE = 0.4  # of the characters that are printed: less, and figures or capitals decide
MIN_ASCENDING = 0.1  # of the lower case: how many more letters ascend than descend; English has 0.22


def hangs(image: Image.Image, marks: Print | None = None) -> bool:
    """Whether more of a page's ink sticks out of its lines below than above; False where that cannot be told.

    Args:
        image: The page.
        marks: What is printed on it, where that is at hand.
    """
    if marks is None or max(image.size) > MAX_SIDE:
        reduced = image.convert("L")
        reduced.thumbnail((MAX_SIDE, MAX_SIDE))
        marks = printed(reduced)
    pieces = [piece.box for line in pieces_of_print(marks, max_aspect=PIECE_ASPECT) for piece in line]
    parts = [marks.letters[y0:y1, x0:x1] for x0, y0, x1, y1 in pieces]
    found = [balance for part in parts if (balance := _balance(part)) is not None]
    if len(found) < MIN_PIECES:
        return False
    share, weight = np.array(found).T
    mean = float(np.average(share, weights=weight))
    error = float(np.sqrt(np.sum((weight * (share - mean)) ** 2)) / np.sum(weight))
    return mean < MAX_BALANCE and mean < -MIN_CERTAINTY * error


def ought_to_stand(text: str) -> bool:
    """Whether a text is of letters that stick out above rather than below when they are printed upright."""
    printed = [char for char in text if not char.isspace()]
    lower = [char for char in printed if char.islower() and unicodedata.name(char, "").startswith("LATIN")]
    if len(lower) < MIN_LOWER_CASE * max(1, len(printed)):
        return False
    above = sum(char in ASCENDING or _has_accent(char) for char in lower)
    return above - sum(char in DESCENDING for char in lower) >= MIN_ASCENDING * len(lower)


def _has_accent(char: str) -> bool:
    above = 230  # the combining class of what stands above its letter
    return any(unicodedata.combining(part) == above for part in unicodedata.normalize("NFD", char))


def _balance(part: Mask) -> tuple[float, float] | None:
    """What sticks out above less what sticks out below, as a share of the ink, and the ink in pixels."""
    profile = part.sum(axis=1, dtype=np.float64)
    profile = profile[slice(*extent(profile > 0))]
    if len(profile) < MIN_HEIGHT:
        return None
    fullest = np.sort(profile)[-max(1, len(profile) // 4) :].mean()
    top, bottom = extent(profile >= BAND * fullest)
    ink = float(profile.sum())
    return float(profile[:top].sum() - profile[bottom:].sum()) / ink, ink
