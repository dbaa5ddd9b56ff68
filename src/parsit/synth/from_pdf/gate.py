"""The quality gate: which pages' text layers say what the picture shows.

Every check measures a share from 0 (good) to 1 and has a limit; the first that is above its limit names the reason. The
page's quality is the product of (1 - share) over all checks.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parsit.data.faults import DataFault
from parsit.parse.ink import ink_mask, on_rules
from parsit.synth.from_pdf.accents import LONE_ACCENTS
from parsit.synth.from_pdf.pdf import Chars, Flags, Floats, PageLayout

MIN_CHARS = 20
SCANNED_IMAGE_SHARE = 0.85  # of the page under images: a scan, whatever its text layer says
MAX_BROKEN = 0.002
MAX_OUTSIDE = 0.01
MAX_DOUBLED = 0.02
MAX_TURNED = 0.1
MAX_UNSEEN = 0.02
MAX_INK_OUTSIDE = 0.03  # of the ink: pages of text have up to 0.010, those with charts 0.076 and more
JUDGED_DPI = 100  # at which ink is looked at: a dash is faint at 60, and what is a rule depends on its length in pixels
RULE_LENGTH = 20  # pixels, 5 mm: longer straight runs are the edges of cells and boxes
BOX_MARGIN = 2  # pixels around a character's box that its ink may take
MAX_OVERLAPPING = 0.002
OVERLAP = 0.5  # of the smaller character's box: what two characters that lie on each other share
DRAWN_APART = 4  # characters: what is drawn so closely together belongs together (the letters of a logo, a root)
MAX_JUMPS = 2  # a header or a cell of several lines has up to two, a fraction three
MAX_BROKEN_WORDS = 0.4
MIN_WORDS = 15  # fewer say nothing about spacing
LONG_WORD = 30  # letters: no word, unless spaces are missing
LONG_WORD_WEIGHT = 4.0  # one in ten such words is too many
UPRIGHT_DEGREES = 10.0
MIN_CONTRAST = 24  # grey levels, as `parsit.parse.ink` has it
SAME_PLACE = (0.5, 0.25)  # of a character's width and height: two equal ones that are nearer lie on each other
# Of Unicode's bidirectional classes, those that run from right to left or make others do so.
RIGHT_TO_LEFT = ("R", "AL", "RLE", "RLO", "RLI")
# Letters that are words by themselves in languages written with spaces, and scripts without spaces.
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True, slots=True)
class Judged:
    """What the checks say of a page: its quality, and which characters are its upright text in the picture."""

    quality: float
    upright: Flags
    turned: Flags


def judge_text(layout: PageLayout, allow_scanned: bool) -> Judged:
    """The checks that need no picture.

    Raises:
        DataFault: the reason why the page is refused.
    """
    chars = layout.chars
    printed = chars.printed
    count = int(printed.sum())
    if count < MIN_CHARS:
        raise DataFault("page-no-text", f"{count} characters, fewer than {MIN_CHARS}")
    if layout.image_share >= SCANNED_IMAGE_SHARE and not allow_scanned:
        raise DataFault("page-scanned", f"images cover {layout.image_share:.0%} of the page")
    backwards = sum(unicodedata.bidirectional(char) in RIGHT_TO_LEFT for text in chars.text for char in text)
    if layout.right_to_left or backwards:
        what = f"{backwards} characters" if backwards else "by what the file says, its lines"
        raise DataFault("page-right-to-left", f"{what} run from right to left")
    broken = printed & (chars.unmapped | np.array([_is_broken(text) for text in chars.text], bool))
    middle = (chars.loose[:, :2] + chars.loose[:, 2:]) / 2
    outside = printed & ~((middle > 0) & (middle < 1)).all(axis=1)
    inside = printed & ~outside
    turned = inside & (np.abs((chars.angle + 180) % 360 - 180) > UPRIGHT_DEGREES)
    shares = [
        _checked("page-broken-characters", int(broken.sum()) / count, MAX_BROKEN, "of the characters mean nothing"),
        _checked("page-boxes-off", int(outside.sum()) / count, MAX_OUTSIDE, "of the characters are off the page"),
        _checked("page-text-doubled", _doubled(chars, inside), MAX_DOUBLED, "of the characters lie on an equal one"),
        _checked("page-turned-text", int(turned.sum()) / count, MAX_TURNED, "of the characters are turned"),
    ]
    return Judged(float(np.prod([1 - share for share in shares])), inside & ~turned, turned)


def judge_words(words: Sequence[str]) -> float:
    """The quality of the words' spacing. Raises `DataFault`."""
    lettered = [word for word in words if any(char.isalpha() and not _is_spaceless(char) for char in word)]
    if len(lettered) < MIN_WORDS:
        return 1.0
    lone = sum(sum(char.isalpha() for char in word) == 1 and len(word) == 1 for word in lettered)
    endless = sum(sum(char.isalpha() for char in word) > LONG_WORD for word in lettered)
    share = min(1.0, (lone + LONG_WORD_WEIGHT * endless) / len(lettered))
    detail = f"of {len(lettered)} words are single letters or run together"
    return 1 - _checked("page-broken-spacing", share, MAX_BROKEN_WORDS, detail)


def judge_order(jumps: int, words: int) -> float:
    """The quality of an order in which so many words do not follow each other as they were drawn.

    Raises:
        DataFault: so many that parts of the page are interleaved (fractions, diagrams, notes in the margin).
    """
    if jumps > MAX_JUMPS:
        detail = f"in {jumps} places the file draws other words between two that stand side by side"
        raise DataFault("page-order-unsure", detail)
    return 1 - jumps / max(1, words)


def judge_scan(chars: Chars, chosen: Flags, image: Image.Image) -> float:
    """How much of a text layer has ink in a scan, which it fits only roughly. Raises `DataFault`."""
    grey = np.asarray(image.convert("L"), np.int16)
    peaks = [int(under.max()) - int(under.min()) if under.size else 0 for under in _under(grey, chars.tight[chosen], 1)]
    return 1 - _checked_unseen(np.array(peaks) < MIN_CONTRAST)


def judge_picture(chars: Chars, chosen: Flags, drawn: Image.Image, background: Image.Image) -> tuple[float, Flags]:
    """The quality of what is seen, and which of the chosen characters are.

    Args:
        chars: the page's characters.
        chosen: bool[n]: those that stand in the picture.
        drawn: the page.
        background: the page without its text. A character can be seen if the two differ in its box, whatever hides it:
            its colour, something on top of it, a layer that is off.

    Raises:
        DataFault: too much text that is not seen or lies on other text, or too much ink that is no text of the layer.
    """
    contrast = np.abs(np.asarray(drawn, np.int16) - np.asarray(background, np.int16)).max(axis=2)
    seen = chosen.copy()
    peaks = [under.max(initial=0) for under in _under(contrast, chars.tight[chosen], 0)]
    seen[chosen] = np.array(peaks) >= MIN_CONTRAST
    on_others = _checked("page-text-overlaps", _overlapping(chars, seen), MAX_OVERLAPPING, "of the characters overlap")
    # Soft hyphens, joiners and the like have no ink wherever they do what they are for.
    is_printing = np.array([unicodedata.category(text[0]) != "Cf" for text in chars.text], bool)
    quality = 1 - _checked_unseen(~seen[chosen & is_printing])
    share = ink_outside(chars, seen, drawn, background)
    quality *= 1 - on_others
    return quality * (1 - _checked("page-ink-without-text", share, MAX_INK_OUTSIDE, "of the ink is no text")), seen


def ink_outside(chars: Chars, seen: Flags, drawn: Image.Image, background: Image.Image) -> float:
    """The share of the page's ink that lies outside all boxes of characters; rules and table lines do not count."""
    # Looked for without the text: the strokes of a title are as long as the edges of a cell.
    ink = ink_mask(drawn) & ~on_rules(ink_mask(background), RULE_LENGTH, RULE_LENGTH)
    total = int(ink.sum())
    for boxes in (chars.loose, chars.tight):
        for under in _under(ink, boxes[seen], BOX_MARGIN):
            under[:] = False
    return int(ink.sum()) / max(1, total)


def _under(pixels: NDArray[Any], boxes: Floats, margin: int) -> Iterator[NDArray[Any]]:
    """Each box's part of the picture, as a view; `margin` in pixels."""
    height, width = pixels.shape
    low = np.maximum(np.floor(boxes[:, :2] * [width, height]).astype(int) - margin, 0)
    high = np.minimum(np.ceil(boxes[:, 2:] * [width, height]).astype(int) + margin, [width, height])
    for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist(), strict=True):
        yield pixels[y0:y1, x0:x1]


def _checked_unseen(unseen: Flags) -> float:
    share = float(unseen.mean()) if len(unseen) else 0.0
    return _checked("page-text-not-visible", share, MAX_UNSEEN, "of the characters leave no ink in the picture")


def _checked(code: str, share: float, limit: float, detail: str) -> float:
    if share > limit:
        raise DataFault(code, f"{share:.1%} {detail}, more than {limit:.1%}")
    return share


def _is_broken(text: str) -> bool:
    """No character at all, a private one, a control character but white space, or an accent without its letter."""
    if text.isspace():
        return False
    if text in LONE_ACCENTS:
        return True
    return text == "\ufffd" or unicodedata.category(text[0]) in ("Cc", "Cs", "Co", "Cn")


def _is_spaceless(char: str) -> bool:
    return not char.isascii() and unicodedata.name(char, "").startswith(_SPACELESS)


def _doubled(chars: Chars, chosen: Flags) -> float:
    """The share of characters that lie on an equal one.

    Compared in a grid and in the same one moved by half a cell, so that no pair is missed across a border.
    """
    sizes = chars.loose[chosen, 2:] - chars.loose[chosen, :2]
    cells = np.maximum(sizes * SAME_PLACE, 1e-6)
    texts = [text for text, is_chosen in zip(chars.text, chosen.tolist(), strict=True) if is_chosen]
    most = 0
    for shift in (0.0, 0.5):
        places = np.floor(chars.origin[chosen] / cells + shift).astype(int).tolist()
        most = max(most, len(texts) - len({(text, x, y) for text, (x, y) in zip(texts, places, strict=True)}))
    return most / len(texts) if texts else 0.0


def _overlapping(chars: Chars, chosen: Flags) -> float:
    """The share of characters that lie on another one which was drawn elsewhere in the text.

    One of the two cannot be read, whether it was hidden so or not; the ink does not say which.
    """
    where = np.flatnonzero(chosen).tolist()
    boxes = chars.tight[chosen]
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-9)
    cells = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2 / np.median(sizes, axis=0)).astype(int) if where else boxes
    in_cell = defaultdict[tuple[int, int], list[int]](list)
    for number, (x, y) in enumerate(cells.tolist()):
        in_cell[x, y].append(number)
    around = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    places, areas = boxes.tolist(), sizes.prod(axis=1).tolist()
    found: set[int] = set()
    for number, (x, y) in enumerate(cells.tolist()):
        for other in (one for dx, dy in around for one in in_cell.get((x + dx, y + dy), ())):
            if other <= number + DRAWN_APART or chars.text[where[number]] == chars.text[where[other]]:
                continue
            if _shared_area(places[number], places[other]) > OVERLAP * min(areas[number], areas[other]):
                found |= {number, other}
    return len(found) / max(1, len(where))


def _shared_area(one: Sequence[float], other: Sequence[float]) -> float:
    width, height = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    return max(0.0, width) * max(0.0, height)
