"""What looks wrong is read again, and the better reading is kept by a rule that goes into the record.

A reading that loops or is cut is tried `warmer` (tokens are drawn), then in `smaller` tiles (the image is cut in two at
the emptiest place near its middle, so that letters are larger in what the model sees). A page that hangs, by its ink,
and that was read badly or ought to stand, is `turned` on its head and read once more from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from parsit.parse.ink import ink_mask
from parsit.parse.open_page import OpenPage, Unit, page_of
from parsit.parse.pages import PageImage
from parsit.parse.reader import SECOND_TRY
from parsit.parse.spans import Flags, length, runs
from parsit.types import GREEDY, Confidence, Generation, Page, ParsitError, Sampling, joined_confidence

FAULTS = ("looping", "truncated", "upside_down")
RULE = f"fewest of {', '.join(FAULTS)}; then the highest mean confidence; then the earliest"
WARMER = replace(GREEDY, **SECOND_TRY)
MIDDLE = 0.25  # of the image's length, on both sides of its middle: where a cut may be


@dataclass(frozen=True, slots=True)
class Job:
    """One image that is to be read, and a guess how long its answer is.

    `on_done` is told of the answer, or of why the engine refuses the image, and of the seconds that it took.
    """

    image: Image.Image
    length: float
    sampling: Sampling
    on_done: Callable[[Generation | ParsitError, float], None]


def badness(flags: Sequence[str], confidence: Confidence | None) -> tuple[int, float]:
    """What `RULE` compares; the lowest is kept."""
    return sum(fault in flags for fault in FAULTS), -(confidence.mean if confidence else 0.0)


def tried(how: str, reading: Generation | Page) -> dict[str, Any]:
    """What the record says of one attempt."""
    mean = reading.confidence.mean if reading.confidence else None
    return {"how": how, "flags": list(reading.flags), "confidence": mean}


class UnitReading:
    """One unit on its way: the attempts at it, of which the best becomes its reading.

    Args:
        unit: what is read.
        length: a guess at the length of the answer.
        retries: whether it is read again where it is at fault.
        ask: has a job done.
        on_settled: called at the end.
    """

    def __init__(
        self, unit: Unit, length: float, retries: bool, ask: Callable[[Job], None], on_settled: Callable[[], None]
    ) -> None:
        self.unit, self.length = unit, length
        self.num_tokens = self.num_prompt_tokens = 0  # of all attempts
        self.report: dict[str, Any] | None = None  # of the attempts, where there were several
        self._retries, self._ask, self._on_settled = retries, ask, on_settled
        self._tries: list[tuple[str, Generation]] = []

    def start(self) -> None:
        """Have it read for the first time."""
        self._try("first", [self.unit.image], GREEDY)

    def _try(self, how: str, images: Sequence[Image.Image], sampling: Sampling) -> None:
        """Have the unit read in one or several parts, which count as one reading."""
        parts: list[Generation | ParsitError | None] = [None] * len(images)

        def on_part(place: int) -> Callable[[Generation | ParsitError, float], None]:
            def on_done(reading: Generation | ParsitError, seconds: float) -> None:
                self.unit.page.seconds += seconds
                parts[place] = reading
                if all(parts):
                    self._on_tried(how, [part for part in parts if part])

            return on_done

        for place, image in enumerate(images):
            self._ask(Job(image, self.length / len(images), sampling, on_part(place)))

    def _on_tried(self, how: str, parts: Sequence[Generation | ParsitError]) -> None:
        readings = [part for part in parts if isinstance(part, Generation)]
        self.num_tokens += sum(reading.num_tokens for reading in readings)
        self.num_prompt_tokens += sum(reading.num_prompt_tokens for reading in readings)
        refused = [part for part in parts if isinstance(part, ParsitError)]
        if refused:
            return self._settle(refused[0])
        reading = joined(readings, "\n" if self.unit.box is None else " ")
        self._tries.append((how, reading))
        if not self._retries or not set(FAULTS) & set(reading.flags) or how == "smaller":
            self._settle()
        elif how == "first":
            self._try("warmer", [self.unit.image], WARMER)
        elif parts_of := halves(self.unit.image, across=self.unit.box is None):
            self._try("smaller", parts_of, GREEDY)
        else:
            self._settle()

    def _settle(self, error: ParsitError | None = None) -> None:
        """Keep the best of what there is; the page fails where there is nothing."""
        if not self._tries:
            self.unit.page.error = str(error)
            return self._on_settled()
        how, best = min(self._tries, key=lambda one: badness(one[1].flags, one[1].confidence))
        self.unit.reading = best
        if len(self._tries) > 1:
            self.unit.reading = replace(best, flags=(*best.flags, "retried"))
            told = [tried(name, reading) for name, reading in self._tries]
            self.report = {"unit": self.unit.number, "tried": told, "kept": how}
        self._on_settled()


def joined(parts: Sequence[Generation], between: str) -> Generation:
    """Several readings as one."""
    if len(parts) == 1:
        return parts[0]
    flags = tuple(dict.fromkeys(flag for part in parts for flag in part.flags))
    return Generation(
        between.join(part.text for part in parts),
        sum(part.num_tokens for part in parts),
        flags,
        joined_confidence(parts),
        sum(part.num_prompt_tokens for part in parts),
    )


def halves(image: Image.Image, across: bool) -> list[Image.Image]:
    """An image cut in two in the widest gap around its middle; none where there is no gap there.

    Args:
        image: a page, or a piece of a line.
        across: cut between rows, else between columns.
    """
    size = image.height if across else image.width
    is_empty: Flags = ~ink_mask(image).any(axis=1 if across else 0)
    low, high = int(size * (0.5 - MIDDLE)), int(np.ceil(size * (0.5 + MIDDLE)))
    gaps = runs(is_empty[low:high])
    if not gaps:
        return []
    cut = low + sum(max(gaps, key=length)) // 2
    if across:
        return [image.crop((0, 0, image.width, cut)), image.crop((0, cut, image.width, image.height))]
    return [image.crop((0, 0, cut, image.height)), image.crop((cut, 0, image.width, image.height))]


def needs_turning(page: OpenPage, read: Page) -> bool:
    """Whether a page that was read is to be read on its head: its ink hangs, and something is wrong with it."""
    return page.image is not None and bool(set(FAULTS) & set(read.flags))


def turned(page: OpenPage, max_line_aspect: float | None) -> OpenPage:
    """The page on its head, cut anew."""
    assert page.image is not None
    flags = tuple(flag for flag in page.flags if flag != "no_lines")
    return page_of(PageImage(page.number, page.image.transpose(Image.Transpose.ROTATE_180), flags), max_line_aspect)
