"""Skewed pages against the same pages laid straight: their slope, and the lines that are found, and where."""

import math

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter

from page_support import drawn, lines_of, texts
from parsit.parse.ink import ink_mask
from parsit.parse.lines import pieces_of_print
from parsit.parse.open_page import page_of
from parsit.parse.pages import PageImage
from parsit.parse.skew import MAX_SLOPE, line_slope, straighten


def skewed(image: Image.Image, degrees: float) -> Image.Image:
    """The page on a scanner's glass, its lines going down to the right."""
    return image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white")


def shaded(image: Image.Image) -> Image.Image:
    """Darker to the right, by a third."""
    light = np.linspace(255, 170, image.width).astype(np.uint8)
    return ImageChops.multiply(image, Image.fromarray(np.tile(light, (image.height, 1))).convert("RGB"))


def read_through(image: Image.Image, path, number: int) -> list[str]:
    """What a perfect model would read in each line of a page that was skewed about its middle and turned back."""
    straight = straighten(image)
    page = drawn(path, number)
    right, down = ((after - before) / 2 for after, before in zip(straight.image.size, page.size, strict=True))
    characters = [(c, x + right, y + down) for line in lines_of(path, number) for c, x, y in line]
    boxes = [piece.box for (piece,) in pieces_of_print(straight.marks)]
    return ["".join(c for c, x, y in characters if b.x0 <= x < b.x1 and b.y0 <= y < b.y1) for b in boxes]


@pytest.mark.parametrize("degrees", [-3.5, -1.2, -0.2, 0.5, 1.2, 2.5])
def test_the_slope_is_right_to_a_pixel(report, degrees):
    image = skewed(drawn(report), degrees).filter(ImageFilter.GaussianBlur(0.8))
    slope = line_slope(ink_mask(image))
    assert slope * image.width == pytest.approx(math.tan(math.radians(degrees)) * image.width, abs=1)


def test_a_large_page_has_the_slope_of_a_small_one(report):
    ink = ink_mask(skewed(drawn(report), 1.2))
    large = ink.repeat(3, axis=0).repeat(3, axis=1)
    assert line_slope(large) * ink.shape[1] == pytest.approx(line_slope(ink) * ink.shape[1], abs=1)


def test_straight_pages_and_what_has_no_lines_stay_as_they_are(report):
    noise = np.random.default_rng(0).random((900, 700)) < 0.02
    rings = np.add.outer((np.arange(900.0) - 400) ** 2, (np.arange(700.0) - 300) ** 2) ** 0.5 % 40 < 5
    assert line_slope(noise) == line_slope(rings) == line_slope(np.zeros((900, 700), dtype=bool)) == 0
    assert line_slope(np.ones((20, 700), dtype=bool)) == line_slope(np.ones((700, 20), dtype=bool)) == 0
    page = drawn(report)
    assert straighten(page).image is page
    box = page_of(PageImage(1, page), 9.0).units[0].box
    assert straighten(page).found_box(box) == box


def test_what_is_turned_further_than_a_page_is_laid_stays(report):
    degrees = 1.5 * math.degrees(math.atan(MAX_SLOPE))
    assert straighten(skewed(drawn(report), degrees)).rotation is None


@pytest.mark.parametrize("degrees", [-3.5, -1.2, 0.6, 1.2])
@pytest.mark.parametrize("number", [1, 2])
def test_lines_are_found_as_on_the_straight_page(report, number, degrees):
    read = read_through(skewed(drawn(report, number), degrees), report, number)
    if number == 1:
        assert read == texts(report, number)
    else:
        assert read[:4] == ["Invoice4711", "Item", "Quantity", "Price"]
        assert "".join(read) == "".join(texts(report, number))


def test_nothing_is_found_where_the_page_is_continued(report):
    page = shaded(skewed(drawn(report, 1), 1.2))
    assert read_through(page, report, 1) == texts(report, 1)


def test_crops_are_straight_and_their_boxes_lie_on_the_page_that_was_drawn(report):
    image = skewed(drawn(report), 1.2)
    straight, page = page_of(PageImage(1, drawn(report)), 9.0), page_of(PageImage(1, image), 9.0)
    assert page.size == image.size
    assert [unit.image.height for unit in page.units] == pytest.approx([u.image.height for u in straight.units], abs=2)
    ink = np.asarray(image.convert("L")) < 128
    covered = np.zeros_like(ink)
    for unit in page.units:
        x0, y0, x1, y1 = unit.box
        assert 0 <= x0 < x1 <= image.width
        assert 0 <= y0 < y1 <= image.height
        assert y1 - y0 == pytest.approx(unit.image.height + 0.021 * unit.image.width, abs=4)
        covered[y0:y1, x0:x1] = True
    assert not (ink & ~covered).any()
