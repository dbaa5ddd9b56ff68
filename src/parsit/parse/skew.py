"""Pages whose lines are not quite horizontal: how far they are turned, and the page turned straight.

The lower edges of ink lie on few rows if lines are horizontal, since letters stand on a base line, and on many if not.
So the page is sheared by one slope after another, and the slope is taken whose rows of lower edges have the largest sum
of squares. Shearing is moving upright strips up and down, so that all slopes together take some milliseconds.

Given up: pages turned by more than `MAX_SLOPE`, curved lines, and pages whose parts are turned differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from parsit.parse.ink import Mask, Print, ink_mask, parted, without_specks
from parsit.parse.lines import Box

MAX_SLOPE = 0.07  # pixels down per pixel right, 4°: what a page is turned by that was laid or fed by hand
MAX_SIDE = 2000  # pixels, A4 at 170 dpi; of a larger page every second row and column is looked at, or fewer
STRIP = 32  # pixels wide: inside a strip a line of that slope moves by two pixels, less than a letter is high
COARSE = 4  # pixels that the page's right side moves by from one slope to the next at first; then by one
MIN_RISE = 2  # pixels over the page's width: less brings no line's letters into another's rows
MIN_GAIN = 1.1  # the best slope's sum of squares over slope 0's: less is chance, and the page lies straight
MIN_PEAK = 1.5  # and over the usual slope's: text has 3 and more, and where nothing stands in lines all are alike

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Rotation:
    """What makes the lines of a page horizontal, on paper that is large enough for all of it.

    Args:
        size: the page's width and height as it was found, in pixels.
        slope: how many pixels its lines go down per pixel to the right.
    """

    size: tuple[int, int]
    slope: float

    def straight_image(self, image: Image.Image) -> Image.Image:
        """The straight page of an RGB image; around it the colours of the page's edge go on."""
        (cos, sin), (left, top) = self._direction, self._corner
        (found_w, found_h), (width, height) = self.size, self._straight_size
        margin = max(width - found_w, height - found_h, 1)
        wide = Image.fromarray(np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
        back = (cos, -sin, cos * left - sin * top + margin, sin, cos, sin * left + cos * top + margin)
        return wide.transform((width, height), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)

    def shown(self) -> Mask:
        """bool[height, width] of the straight page: where it shows the page that was found."""
        paper = Image.new("1", self._straight_size)
        left, top = self._corner
        ImageDraw.Draw(paper).polygon([(x - left, y - top) for x, y in self._turned_corners()], fill=1)
        return np.asarray(paper)

    def found_box(self, box: Box) -> Box:
        """The upright box on the page that was found around a box of the straight page."""
        (cos, sin), (left, top) = self._direction, self._corner
        corners = [(x + left, y + top) for x in (box.x0, box.x1) for y in (box.y0, box.y1)]
        xs, ys = zip(*((cos * x - sin * y, sin * x + cos * y) for x, y in corners), strict=True)
        x1, y1 = min(self.size[0], math.ceil(max(xs))), min(self.size[1], math.ceil(max(ys)))
        return Box(max(0, math.floor(min(xs))), max(0, math.floor(min(ys))), x1, y1)

    @property
    def _direction(self) -> Point:
        """Of a line: how far right and how far down a pixel's length of it goes."""
        length = math.hypot(1, self.slope)
        return 1 / length, self.slope / length

    @property
    def _corner(self) -> Point:
        xs, ys = zip(*self._turned_corners(), strict=True)
        return min(xs), min(ys)

    @property
    def _straight_size(self) -> tuple[int, int]:
        xs, ys = zip(*self._turned_corners(), strict=True)
        return math.ceil(max(xs) - min(xs)), math.ceil(max(ys) - min(ys))

    def _turned_corners(self) -> list[Point]:
        """The found page's corners, one after the other around it, when it is turned about the first."""
        (cos, sin), (width, height) = self._direction, self.size
        return [(cos * x + sin * y, cos * y - sin * x) for x, y in ((0, 0), (width, 0), (width, height), (0, height))]


@dataclass(frozen=True, slots=True)
class StraightPage:
    """A page whose lines are horizontal: its picture, what is printed on it, and how it was turned, if it was."""

    image: Image.Image
    marks: Print
    rotation: Rotation | None

    def found_box(self, box: Box) -> Box:
        """Where a box lies on the page that was found."""
        return self.rotation.found_box(box) if self.rotation else box


def straighten(image: Image.Image) -> StraightPage:
    """An RGB page turned so that its lines are horizontal; the same picture where they are."""
    ink = ink_mask(image)
    slope = line_slope(ink)
    if not slope:
        return StraightPage(image, parted(without_specks(ink)), None)
    rotation = Rotation(image.size, slope)
    straight = rotation.straight_image(image)
    return StraightPage(straight, parted(without_specks(ink_mask(straight)) & rotation.shown()), rotation)


def line_slope(ink: Mask) -> float:
    """How many pixels a page's lines go down per pixel to the right; 0 where they are straight, or none are found.

    Args:
        ink: bool[height, width], where there is ink.
    """
    every = -(-max(ink.shape) // MAX_SIDE)
    ink = ink[::every, ::every]
    height, width = ink.shape
    if width < 2 * STRIP or height < 2 * STRIP:
        return 0.0
    edges_NH = _strip_edges(ink)
    steps = int(MAX_SLOPE * width / COARSE)
    coarse = _all_peaks(edges_NH, (COARSE * step / width for step in range(-steps, steps + 1)))
    highest = max(coarse, key=coarse.__getitem__)
    fine = _all_peaks(edges_NH, (highest + step / width for step in range(-COARSE, COARSE + 1)))
    best = max(fine, key=fine.__getitem__)
    stands_out = fine[best] > max(MIN_GAIN * coarse[0.0], MIN_PEAK * float(np.median(list(coarse.values()))))
    return best if stands_out and abs(best) * width >= MIN_RISE else 0.0


def _strip_edges(ink: Mask) -> NDArray[np.int32]:
    """int32[strips, height - 1]: how many lower edges of ink each row of each strip has."""
    height, width = ink.shape
    edges = np.pad(ink[:-1] & ~ink[1:], ((0, 0), (0, -width % STRIP)))
    return edges.reshape(height - 1, -1, STRIP).sum(axis=2, dtype=np.int32).T


def _all_peaks(edges_NH: NDArray[np.int32], slopes: Iterable[float]) -> dict[float, int]:
    return {slope: _peaks(edges_NH, slope) for slope in slopes}


def _peaks(edges_NH: NDArray[np.int32], slope: float) -> int:
    """The sum of squares of the rows' edges when each strip is moved up by what a line has gone down at its middle."""
    strips, height = edges_NH.shape
    down = [round(slope * STRIP * (strip + 0.5)) for strip in range(strips)]
    lowest = max(down)
    rows_H = np.zeros(height + lowest - min(down), dtype=np.int64)
    for edges_H, by in zip(edges_NH, down, strict=True):
        rows_H[lowest - by : lowest - by + height] += edges_H
    return int(np.square(rows_H).sum())
