"""Pages upside down: what the ink says, what the text that was read says, and the flag where they contradict."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from parsit.parse.pages import PageFile
from parsit.parse.reader import Reader
from parsit.parse.upright import hangs, ought_to_stand
from parsit.types import Generation

PROSE = "The quick surveyor measured the old bridge before winter, and wrote every figure into a small grey book. "
RUSSIAN = "Договор поставки заключён между сторонами в городе Твери, а цена указана в рублях. "
FIGURES = "1,234.50 77,001.25 9,999.00 4,711.80 31,415.92 2,718.28 "
PAGE = "#set page(width: 16cm, height: 14cm, margin: 1cm)\n"


@pytest.fixture
def drawn(typeset) -> Callable[[str], Image.Image]:
    """Typst source to the picture of its first page."""

    def draw(source: str) -> Image.Image:
        with PageFile(typeset(PAGE + source), dpi=130) as file:
            return file.page(1).image

    return draw


@pytest.mark.parametrize("font", ["Libertinus Serif", "New Computer Modern"])
def test_prose_hangs_where_it_is_upside_down(drawn, font):
    page = drawn(f'#set text(size: 10pt, font: "{font}")\n{PROSE * 16}')
    assert not hangs(page)
    assert hangs(page.rotate(180))
    assert not hangs(page.crop((0, 0, page.width, 69)).rotate(180))  # a line or two say nothing


class OnePage:
    """An engine that reads the same text whatever it is shown."""

    batch_size = 1
    read_prompt = "Read it."
    reading_unit = "page"
    tasks = ()

    def __init__(self, text: str) -> None:
        self.text = text

    def generate(self, conversations, **_) -> list[Generation]:
        return [Generation(self.text, 1) for _ in conversations]


def flags(page: Image.Image, text: str, folder: Path) -> tuple[str, ...]:
    """What a page is flagged with when this is read on it."""
    page.save(folder / "page.png")
    return Reader(OnePage(text)).parse(folder / "page.png").pages[0].flags


def test_only_what_ought_to_stand_is_flagged(drawn, tmp_path):
    page = drawn(f'#set text(size: 10pt, font: "Libertinus Serif")\n{PROSE * 16}')
    assert flags(page, PROSE * 16, tmp_path) == ()
    # Whatever a model makes of it, it is Latin prose to it.
    assert flags(page.rotate(180), "and the letters of some other words", tmp_path) == ("upside_down",)


@pytest.mark.parametrize(("text", "font"), [(FIGURES, "New Computer Modern"), (RUSSIAN, "Libertinus Serif")])
def test_text_that_hangs_by_nature_is_not_flagged(drawn, tmp_path, text, font):
    page = drawn(f'#set text(size: 10pt, font: "{font}")\n{text * 8}')
    assert hangs(page)
    assert flags(page, text * 8, tmp_path) == ()
    assert flags(page.rotate(180), text * 8, tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "ought"),
    [
        (PROSE, True),
        ("", False),
        (FIGURES, False),
        (RUSSIAN, False),
        (PROSE.upper(), False),
        ("pygmy gypsy, jog a page", False),
        ("Total 31.20 EUR", False),
        ("Théorie générale du système", True),
    ],
)
def test_which_texts_ought_to_stand(text, ought):
    assert ought_to_stand(text) == ought
