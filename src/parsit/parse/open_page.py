"""A page on its way to being read: what of it is read in one go, and what becomes of the readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from parsit.parse.lines import Box
from parsit.parse.pages import PageImage
from parsit.parse.upright import ought_to_stand
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

    @property
    def is_done(self) -> bool:
        """Whether nothing of it waits to be read."""
        return bool(self.error) or all(unit.reading for unit in self.units)

    def close(self) -> Page:
        """The finished page: its units' texts joined, and the union of their flags."""
        # A unit knows its page and the page its units: their pictures would stay until the garbage collector comes.
        units, self.units = self.units, []
        if self.error:
            return Page(self.number, "", *self.size, (*self.flags, "failed"), self.seconds, self.error)
        readings = [unit.reading for unit in units if unit.reading]
        flags = self.flags + tuple(flag for reading in readings for flag in reading.flags)
        lines = tuple(_line(pieces) for pieces in _lines(units))
        text = readings[0].text if units and units[0].box is None else "\n".join(line.text for line in lines)
        flags += ("upside_down",) if self.hangs and ought_to_stand(text) else ()
        return Page(
            self.number,
            text.rstrip("\n"),
            *self.size,
            tuple(dict.fromkeys(flags)),
            self.seconds,
            confidence=joined_confidence(readings),
            lines=lines,
        )


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
    """A line of its pieces: their texts joined by spaces, the box around them all."""
    readings = [piece.reading for piece in pieces if piece.reading]
    boxes = [piece.box for piece in pieces if piece.box]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    flags = tuple(dict.fromkeys(flag for reading in readings for flag in reading.flags))
    text = " ".join(reading.text for reading in readings)
    box = (min(lefts), min(tops), max(rights), max(bottoms))
    return Line(text, box, flags, joined_confidence(readings))
