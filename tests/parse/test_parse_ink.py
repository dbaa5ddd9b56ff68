"""Blank pages with what scanners add to them, pages with very little on them, and what is a ruling line."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from parsit.parse.ink import ink_mask, is_blank, parted, without_specks

SIZE = (1240, 1754)  # A4 at 150 dpi


def page(grey: int = 255) -> Image.Image:
    return Image.new("RGB", SIZE, (grey,) * 3)


def with_noise(image: Image.Image, sigma: float, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, sigma, (*SIZE[::-1], 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def with_specks(image: Image.Image, share: float, seed: int = 0) -> Image.Image:
    pixels = np.array(image)
    pixels[np.random.default_rng(seed).random(SIZE[::-1]) < share] = 0
    return Image.fromarray(pixels)


def with_dust(image: Image.Image, seed: int = 0) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for x, y in np.random.default_rng(seed).uniform(50, 1200, (60, 2)):
        draw.rectangle((x, y, x + 1, y + 2), fill="black")
    return image


def with_shadow(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).rectangle((0, 0, 15, SIZE[1]), fill=(60, 60, 60))
    return image


def with_uneven_light(image: Image.Image) -> Image.Image:
    light = np.linspace(1.0, 0.6, SIZE[0])[None, :, None]
    return Image.fromarray((np.asarray(image) * light).astype(np.uint8))


def with_streak(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).line((700, 0, 700, SIZE[1]), fill="black", width=1)
    return image


def as_jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=30)
    return Image.open(stream).convert("RGB")


def with_text(image: Image.Image, text: str, *, size: int = 20, fill: str = "black") -> Image.Image:
    ImageDraw.Draw(image).text((620, 1600), text, fill=fill, font=ImageFont.load_default(size))
    return image


BLANK = {
    "white": page(),
    "grey": page(170),
    "black": page(0),
    "noise": with_noise(page(235), 12),
    "strong noise": with_noise(page(200), 25),
    "specks": with_specks(page(), 0.01),
    "many specks": with_specks(page(), 0.03),
    "dust": with_dust(page()),
    "shadow at the edge": with_shadow(page()),
    "uneven light": with_uneven_light(page(240)),
    "a streak": with_streak(page()),
    "noise as JPEG": as_jpeg(with_noise(with_uneven_light(page(230)), 8)),
    "tiny": Image.new("RGB", (3, 2), "white"),
}

NOT_BLANK = {
    "a page number": with_text(page(), "7"),
    "small print": with_text(page(), "p. 7", size=14),
    "light grey print": with_text(page(), "draft", fill="#bbbbbb"),
    "white on black": with_text(page(0), "7", fill="white"),
    "a number in noise": with_noise(with_text(page(235), "12"), 12),
    "a number among specks": with_specks(with_text(page(), "12"), 0.01),
    "a number in uneven light": with_uneven_light(with_text(page(240), "12")),
    "a number as JPEG": as_jpeg(with_text(page(), "12")),
    "a low crop of a word": with_text(page(), "word").crop((600, 1595, 700, 1630)),
}


@pytest.mark.parametrize("name", BLANK)
def test_blank(name):
    assert is_blank(BLANK[name])


@pytest.mark.parametrize("name", NOT_BLANK)
def test_not_blank(name):
    assert not is_blank(NOT_BLANK[name])


def test_ink_is_where_the_bar_is():
    image = page(200)
    image.paste((40, 40, 40), (300, 500, 310, 503))
    rows, columns = np.nonzero(ink_mask(image))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (300, 309, 500, 502)
    assert len(rows) == 30


def print_of(image):
    ink = without_specks(ink_mask(image))
    return ink, parted(ink)


def test_small_blurred_print_is_no_ruling_line():
    """At 8 points and 100 dpi a word's letters run into one another, and a row through them has no gap."""
    image = page()
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(("All collections are subject to", "formal brochures")):
        draw.text((200, 300 + 20 * row), text, font=ImageFont.load_default(11), fill="#202020")
    ink, found = print_of(image.filter(ImageFilter.GaussianBlur(0.85)).crop((180, 280, 520, 380)))
    assert ink.any()
    assert (found.letters == ink).all()


@pytest.mark.parametrize("thickness", [1, 2, 4, 7])
def test_ruling_lines_are_no_letters(thickness):
    image = with_text(page(), "word")
    image.paste((60, 60, 60), (200, 400, 420, 400 + thickness))
    image.paste((60, 60, 60), (800, 400, 800 + thickness, 650))
    for picture in (image, image.filter(ImageFilter.GaussianBlur(0.8))):
        _, found = print_of(picture)
        assert not found.letters[390:660].any()
        assert found.across[400 : 400 + thickness, 200:420].all()
        assert found.upright[400:650, 800 : 800 + thickness].all()
        assert found.letters.any()


def test_a_faint_upright_line_is_one_where_it_is_ragged():
    """As noise leaves the side of a box: some of it is too pale, some a pixel beside it."""
    rng = np.random.default_rng(0)
    ink = np.zeros((400, 1240), dtype=bool)
    rows = np.arange(100, 200)
    ink[rows, 300 + rng.integers(0, 2, len(rows))] = rng.random(len(rows)) < 0.95
    assert not parted(ink).letters.any()


def test_stems_of_large_letters_are_no_ruling_lines():
    image = page()
    ImageDraw.Draw(image).text((200, 300), "Illll", font=ImageFont.load_default(90), fill="black")
    ink, found = print_of(image)
    assert (found.letters == ink).all()
