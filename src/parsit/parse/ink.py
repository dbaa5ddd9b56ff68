"""Where there is ink on a page, and whether there is any to read.

Ink is what differs from the paper around it, darker or lighter, by more than the page's own noise.
The paper is the median of each block of 64 × 64 pixels, so a grey page, uneven light and a coloured
background are all paper. Given up: dark text that fills more than half of a block (poster type)
shows as its outline, or inverted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]  # [height, width]

BLOCK = 64  # pixels; at 72 to 300 dpi larger than a stroke and smaller than a paragraph
MIN_CONTRAST = 24  # grey levels of 255; light grey print has about 50, show-through of a rear page about 20

# A mark to be read has at least this much ink inside some window: a digit of 8 pt at 100 dpi has
# about 25 pixels; dust has 1 to 6, and a streak one pixel wide, as a speck on a scanner's glass
# leaves it, has 8.
WINDOW = 8
MIN_INK_IN_WINDOW = 10
RULE_SHARE = 0.05  # of the page's width: a straight run of ink this long is a ruling line, no glyph
RULE_HEIGHT = 4  # pixels; at 150 dpi a line of 1 pt, blurred. Stems of small print (8 pt at 100 dpi) are 6 high
RULE_FILL = 0.9  # of such a run is ink; the rest is noise
EDGE_SHARE = 0.02  # of the page's shorter side: shadows at the edge of a scan are not looked at


class Print(NamedTuple):
    """What a page's ink is, bool[height, width] each: letters (and figures), ruling lines across and upright ones.

    Of a ruling line the pixel beside it is part, where its edge is blurred.
    """

    letters: Mask
    across: Mask
    upright: Mask


def ink_mask(image: Image.Image) -> Mask:
    """bool[height, width]: True where a pixel differs clearly from the paper around it."""
    grey = np.asarray(image.convert("L"), dtype=np.int16)
    height, width = grey.shape
    padded = np.pad(grey, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    rows, columns = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    blocks = padded.reshape(rows, BLOCK, columns, BLOCK)
    paper = np.median(blocks.transpose(0, 2, 1, 3).reshape(rows, columns, -1), axis=2).astype(np.int16)
    contrast = np.abs(blocks - paper[:, None, :, None]).reshape(padded.shape)[:height, :width]
    return contrast > max(MIN_CONTRAST, 5 * _noise(contrast))


def printed(image: Image.Image) -> Print:
    """What is printed on a page; see `parted`."""
    return parted(without_specks(ink_mask(image)))


def is_blank(image: Image.Image) -> bool:
    """Whether a page holds nothing to read: no mark with more ink than dust, streaks and noise have.

    A lone page number, a ruled line of 2 pixels, a stamp or a photo make a page not blank: when in
    doubt the model is asked.
    """
    ink = ink_mask(image)
    edge = round(EDGE_SHARE * min(ink.shape))
    ink = ink[edge : ink.shape[0] - edge, edge : ink.shape[1] - edge]
    marks = without_specks(ink)
    window = min(WINDOW, *marks.shape)
    return int(_window_sums(marks, window).max(initial=0)) < MIN_INK_IN_WINDOW


def without_specks(ink: Mask) -> Mask:
    """The mask less every pixel that has fewer than two others among its eight neighbours."""
    return ink & (_window_sums(np.pad(ink, 1), 3) >= 3)


def parted(ink: Mask) -> Print:
    """Ink without specks parted into letters and ruling lines, which are long, thin runs, or longer solid ones.

    A row through letters that are blurred into one another has no gaps either, but is not thin where stems stand on it,
    and not solid between them. The l of a title is long, but its stem is not thin.
    """
    length = max(40, round(RULE_SHARE * ink.shape[1]))
    across = _thin_runs(ink, length) | _drawn_down(_on_long_runs(_runs_down(ink, RULE_HEIGHT), 2 * length), RULE_HEIGHT)
    turned = np.ascontiguousarray(ink.T)
    # A faint line is thin, and ragged: it is looked for a pixel to each side as well. Letters are too low to matter.
    upright = (_thin_runs(turned, length, ragged=True) | _on_long_runs(turned, 2 * length)).T
    return Print(ink & ~(across | upright), across, upright)


def on_rules(ink: Mask, across: int, upright: int) -> Mask:
    """Where ink is on or beside a straight run of at least so many pixels, across or upright."""
    return _on_long_runs(ink, across) | _on_long_runs(ink.T, upright).T


def _thin_runs(ink: Mask, length: int, *, ragged: bool = False) -> Mask:
    """Pixels on or one row beside a run across of that length which is at most `RULE_HEIGHT` high."""
    thin = ink & ~_drawn_down(_runs_down(ink, RULE_HEIGHT + 1), RULE_HEIGHT + 1)
    return _on_long_runs(_and_beside(np.pad(thin, ((1, 1), (0, 0)))) if ragged else thin, length)


def _runs_down(ink: Mask, height: int) -> Mask:
    """Where so many pixels of ink begin, one below the other."""
    below = np.pad(ink, ((0, height - 1), (0, 0)))
    return np.logical_and.reduce([below[row : row + len(ink)] for row in range(height)])


def _drawn_down(starts: Mask, height: int) -> Mask:
    """Every pixel of the runs whose beginnings `_runs_down` gives."""
    above = np.pad(starts, ((height - 1, 0), (0, 0)))
    return np.logical_or.reduce([above[row : row + len(starts)] for row in range(height)])


def _noise(contrast: NDArray[np.int16]) -> float:
    """Standard deviation of the paper's grey, from the median deviation (1.4826 × MAD for a normal one)."""
    return 1.4826 * float(np.median(contrast[::3, ::3]))


def _window_sums(mask: Mask, side: int) -> NDArray[np.int32]:
    """int32[height - side + 1, width - side + 1]: how many pixels are set in each square window."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


def _on_long_runs(ink: Mask, length: int) -> Mask:
    """Pixels on or one row beside a horizontal run of `length` pixels, a tenth of which may be missing."""
    if ink.shape[1] < length:
        return np.zeros_like(ink)
    sums = np.cumsum(np.pad(ink, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    starts = np.pad(sums[:, length:] - sums[:, :-length] >= RULE_FILL * length, ((1, 1), (length, length - 1)))
    covered = np.cumsum(starts, axis=1, dtype=np.int32)
    run = covered[:, length:] > covered[:, :-length]
    return _and_beside(run)


def _and_beside(mask: Mask) -> Mask:
    """bool[height - 2, width]: of all rows but the first and the last, what is set there or in a row beside."""
    return mask[1:-1] | mask[:-2] | mask[2:]
