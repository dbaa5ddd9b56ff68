"""A page on its way to being read: what of it is read in one go, and what becomes of the readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from PIL import Image

from parsit.parse.lines import Box, pieces_of_print
from parsit.parse.pages import PageError, PageFile, PageImage
from parsit.parse.skew import StraightPage, straighten
from parsit.parse.upright import hangs, ought_to_stand
from parsit.types import Generation, Line, Page, joined_confidence


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text as it is being read: `text` goes behind what page `page` has under `unit` (both in order, from 1 and 0).

    `box` is where the unit stands on the page, None for a whole page. With another `attempt` the unit begins again.
    """

    page: int
    unit: int
    text: str
    box: Box | None = None
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how a document is getting on; each function may be called from the thread that reads.

    Args:
        on_drawn: with each page, before it is read.
        on_text: with text as it comes.
        on_page: with each page, in order, as soon as it is done.
    """

    on_drawn: Callable[[PageImage], None] | None = None
    on_text: Callable[[TextDelta], None] | None = None
    on_page: Callable[[Page], None] | None = None


@dataclass(slots=True)
class Unit:
    """One image that is read in one go: a page, or a piece of one of its lines."""

    page: OpenPage
    number: int
    image: Image.Image
    box: Box | None  # of a piece of a line
    ends_line: bool = True
    ends_word: bool = True
    reading: Generation | None = None


@dataclass(slots=True)
class OpenPage:
    """A page on its way to being read."""

    number: int
    size: tuple[int, int] = (0, 0)
    flags: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    hangs: bool = False  # what its ink says of it; see `parsit.parse.upright`
    units: list[Unit] = field(default_factory=list)
    image: Image.Image | None = None  # of a page that hangs, for who would turn it

    @property
    def is_done(self) -> bool:
        """Whether nothing of it waits to be read."""
        return bool(self.error) or all(unit.reading for unit in self.units)

    def close(self) -> Page:
        """The finished page: its units' texts joined, and the union of their flags.

        `low_confidence` is over all of its tokens: one doubtful line, which says so itself, makes no doubtful page.
        """
        # A unit knows its page and the page its units: their pictures would stay until the garbage collector comes.
        units, self.units = self.units, []
        if self.error:
            return Page(self.number, "", *self.size, (*self.flags, "failed"), self.seconds, self.error)
        readings = [unit.reading for unit in units if unit.reading]
        flags = self.flags + tuple(flag for reading in readings for flag in reading.flags)
        lines = tuple(_line(pieces) for pieces in _lines(units))
        text = readings[0].text if units and units[0].box is None else "\n".join(line.text for line in lines)
        flags += ("upside_down",) if self.hangs and ought_to_stand(text) else ()
        confidence = joined_confidence(readings)
        flags += confidence.flags if confidence else ()
        return Page(
            self.number,
            text.rstrip("\n"),
            *self.size,
            tuple(dict.fromkeys(flags)),
            self.seconds,
            confidence=confidence,
            lines=lines,
        )


def open_page(
    file: PageFile, number: int, max_line_aspect: float | None, on_drawn: Callable[[PageImage], None] | None = None
) -> OpenPage:
    """Draw a page and cut it into what is read in one go.

    Args:
        file: where it stands.
        number: from 1.
        max_line_aspect: the most times its height that a piece of a line is wide; None: the page is read as a whole.
        on_drawn: told of the picture.

    Raises:
        PageError: it cannot be drawn.
    """
    started = perf_counter()
    drawn = file.page(number)
    if on_drawn:
        on_drawn(drawn)
    page = page_of(drawn, max_line_aspect)
    page.seconds = perf_counter() - started
    return page


def failed_page(error: PageError) -> OpenPage:
    """A page that could not be drawn."""
    return OpenPage(error.number, error=error.reason)


def page_of(drawn: PageImage, max_line_aspect: float | None) -> OpenPage:
    """A picture cut into what is read in one go; see `open_page`."""
    page = OpenPage(drawn.number, drawn.image.size, drawn.flags)
    if "blank" in drawn.flags:
        return page
    if max_line_aspect is None:
        page.units = [Unit(page, 0, drawn.image, box=None)]
        page.hangs = hangs(drawn.image)
    else:
        straight = straighten(drawn.image)
        page.units = _pieces(page, straight, max_line_aspect)
        page.hangs = hangs(straight.image, straight.marks)
        page.flags += () if page.units else ("no_lines",)
    page.image = drawn.image if page.hangs else None
    return page


def _pieces(page: OpenPage, straight: StraightPage, max_line_aspect: float) -> list[Unit]:
    """The pieces of a page's lines as they are on the straight page; their boxes are on the page that was drawn."""
    lines = pieces_of_print(straight.marks, max_aspect=max_line_aspect)
    pieces = [(piece.box, piece.ends_word, piece is line[-1]) for line in lines for piece in line]
    return [
        Unit(page, number, straight.image.crop(box), straight.found_box(box), ends_line, ends_word)
        for number, (box, ends_word, ends_line) in enumerate(pieces)
    ]


def _lines(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """The units that are pieces of lines, line by line."""
    line: list[Unit] = []
    for unit in units:
        if unit.box is not None:
            line.append(unit)
            if unit.ends_line:
                yield line
                line = []


def _line(pieces: Sequence[Unit]) -> Line:
    """A line of its pieces: their texts joined, by spaces but where a word was cut, and the box around them all."""
    readings = [piece.reading for piece in pieces if piece.reading]
    boxes = [piece.box for piece in pieces if piece.box]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    flags = tuple(dict.fromkeys(flag for reading in readings for flag in reading.flags))
    text = "".join(p.reading.text + " " * (p.ends_word and not p.ends_line) for p in pieces if p.reading)
    confidence = joined_confidence(readings)
    flags += confidence.flags if confidence else ()
    box = (min(lefts), min(tops), max(rights), max(bottoms))
    return Line(text, box, flags, confidence)
