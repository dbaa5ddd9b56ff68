"""Text as a dot-matrix printer prints it: Pillow's bitmap font of 6 x 11, each of its pixels a round dot on the paper.

Crops resemble those that `parsit parse` cuts from a page (`parsit.parse.lines`): a line's ink with a little paper
around it. Ribbons are worn, dots bleed, and a head that prints in both directions is off by a part of a dot.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageFont

FONT = ImageFont.load_default_imagefont()
CHAR_WIDTH, CHAR_HEIGHT = 6, 11  # pixels of the font, which become dots
OVERSAMPLING = 4
ROW_HEIGHT = 14  # dots from one row of a page to the next


@dataclass(frozen=True, slots=True)
class Printer:
    """One printer: `pitch` pixels from dot to dot, dots of `radius` pitches, `ink` and `paper` as grey values.

    `skip` is the share of dots that a worn ribbon leaves out.
    """

    pitch: float
    radius: float
    ink: int
    paper: int
    skip: float

    @classmethod
    def drawn(cls, rng: Random) -> Printer:
        """Any one of those that an office has."""
        ink, paper = rng.randint(20, 110), rng.randint(225, 255)
        return cls(rng.uniform(2.0, 2.6), rng.uniform(0.36, 0.5), ink, paper, rng.uniform(0.0, 0.04))


def printable(text: str) -> bool:
    """Whether the font has all of its characters."""
    return text.isascii() and text.isprintable()


def print_rows(rows: list[str], printer: Printer, rng: Random) -> Image.Image:
    """Rows of text as a picture, with no paper around them but what the dots need.

    Args:
        rows: printable texts, one under the other.
        printer: how they look.
        rng: decides which dots are missing and how far rows are off.

    Returns:
        An `L` image.
    """
    dots = np.zeros((ROW_HEIGHT * len(rows), CHAR_WIDTH * max(map(len, rows))), dtype=bool)
    for number, row in enumerate(rows):
        mask = FONT.getmask(row)
        pixels = np.array(mask, dtype=np.uint8).reshape(mask.size[::-1]) > 0
        dots[number * ROW_HEIGHT : number * ROW_HEIGHT + CHAR_HEIGHT, : pixels.shape[1]] = pixels
    dots &= np.random.default_rng(rng.getrandbits(32)).random(dots.shape) >= printer.skip
    shifts = [rng.uniform(-0.3, 0.3) for _ in rows]
    return _draw(dots, shifts, printer)


def print_crop(text: str, rng: Random) -> Image.Image:
    """One piece of a line with a little paper around its ink, by a printer that is drawn."""
    printer = Printer.drawn(rng)
    image = print_rows([text], printer, rng)
    left, top, right, bottom = (
        image.point(lambda value: 255 * (value < printer.paper - 40)).getbbox() or image.getbbox()
    )
    left, top = max(0, left - rng.randint(2, 5)), max(0, top - rng.randint(2, 5))
    return image.crop((left, top, right + rng.randint(2, 5), min(image.height, bottom + rng.randint(2, 5))))


def _draw(dots: np.ndarray, shifts: list[float], printer: Printer) -> Image.Image:
    """Dots (bool[rows of dots, columns]) as discs with soft edges, each row of text shifted by so many dots."""
    unit = printer.pitch * OVERSAMPLING
    margin = 3 * unit
    height, width = (round(size * unit + 2 * margin) for size in dots.shape)
    canvas = np.zeros((height, width), dtype=bool)
    radius = printer.radius * unit
    reach = int(radius) + 1
    grid_y, grid_x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = grid_y**2 + grid_x**2 <= radius**2
    for y, x in np.argwhere(dots):
        centre_y = round(margin + (y + 0.5) * unit)
        centre_x = round(margin + (x + 0.5 + shifts[y // ROW_HEIGHT]) * unit)
        canvas[centre_y - reach : centre_y + reach + 1, centre_x - reach : centre_x + reach + 1] |= disc
    ink = Image.fromarray(np.where(canvas, printer.ink, printer.paper).astype(np.uint8))
    return ink.resize((width // OVERSAMPLING, height // OVERSAMPLING), Image.Resampling.BOX)
