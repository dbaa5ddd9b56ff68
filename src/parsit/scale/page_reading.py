"""A page on its way through the engine, on its head as well if need be, and the record that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from parsit.parse.open_page import OpenPage
from parsit.scale.attempts import RULE, Job, UnitReading, badness, needs_turning, tried, turned
from parsit.scale.drawing import DrawnPage, lengths_of
from parsit.scale.keys import ReadingSet
from parsit.scale.store import Record
from parsit.types import Page

# Told of a page that is done, and of what the record says of it besides.
OnPage = Callable[[Page, dict[str, Any]], None]


class PageReading:
    """One page: its units are read, then the page on its head if it needs that; the better one is kept.

    Args:
        drawn: the page.
        retries: whether what is at fault is read again.
        max_line_aspect: as the page was cut.
        ask: has a job done.
        on_done: told at the end.
    """

    def __init__(
        self,
        drawn: DrawnPage,
        *,
        retries: bool,
        max_line_aspect: float | None,
        ask: Callable[[Job], None],
        on_done: OnPage,
    ) -> None:
        self._drawn, self._retries, self._max_line_aspect = drawn, retries, max_line_aspect
        self._ask, self._on_done = ask, on_done
        self._open = 0
        self._units: list[UnitReading] = []
        self._upright: tuple[Page, list[UnitReading]] | None = None

    def start(self) -> None:
        """Have the page read; what needs no engine is done at once."""
        page = self._drawn.page
        if self._drawn.text is not None:
            text = Page(page.number, self._drawn.text, 0, 0, page.flags)
            return self._on_done(text, {"text_layer_quality": self._drawn.quality})
        self._begin(page, self._drawn.lengths)

    def _begin(self, page: OpenPage, lengths: list[float]) -> None:
        self._page, self._open = page, len(page.units)
        self._units = [
            UnitReading(unit, length, self._retries, self._ask, self._on_unit)
            for unit, length in zip(page.units, lengths, strict=True)
        ]
        for unit in self._units:
            unit.start()
        if not self._units:
            self._finish()

    def _on_unit(self) -> None:
        self._open -= 1
        if not self._open:
            self._finish()

    def _finish(self) -> None:
        page = self._page.close()
        if self._retries and self._upright is None and needs_turning(self._page, page):
            self._upright = (page, self._units)
            on_head = turned(self._page, self._max_line_aspect)
            return self._begin(on_head, lengths_of(on_head))
        self._tell(page)

    def _tell(self, page: Page) -> None:
        """Choose between the page as it lies and on its head, and hand it on."""
        both = [("as it lies", *self._upright), ("turned", page, self._units)] if self._upright else []
        every = [one for _, _, units in both for one in units] or self._units
        reports: list[dict[str, Any]] = []
        kept_units, rotation = self._units, 0
        if both:
            how, page, kept_units = min(
                both, key=lambda one: (bool(one[1].error), *badness(one[1].flags, one[1].confidence))
            )
            rotation = 180 if how == "turned" else 0
            page = replace(page, flags=(*(flag for flag in page.flags if flag != "retried"), "retried"))
            reports = [{"unit": None, "tried": [tried(name, one) for name, one, _ in both], "kept": how}]
        reports += [unit.report for unit in kept_units if unit.report]
        facts: dict[str, Any] = {"num_tokens": sum(unit.num_tokens for unit in every)}
        facts |= {"num_prompt_tokens": sum(unit.num_prompt_tokens for unit in every), "rotation": rotation}
        self._on_done(page, facts | ({"retries": reports, "rule": RULE} if reports else {}))


def record_of(
    reading_set: ReadingSet, digest: str, name: str, page_count: int, page: Page, facts: dict[str, Any]
) -> Record:
    """What is kept of a page, or, as page 0, of a file that cannot be opened.

    Returns:
        `{"key", "digest", "source", "page", "page_count", "text", "width", "height", "flags", "seconds", "error",
        "confidence", "lines", "num_tokens", "num_prompt_tokens", "rotation"}`, and where it is so `text_layer_quality`,
        or `retries` with the `rule`.
    """
    known = asdict(page)
    del known["number"]
    counts = {"num_tokens": 0, "num_prompt_tokens": 0, "rotation": 0}
    place = {"digest": digest, "source": name, "page": page.number, "page_count": page_count}
    return {"key": reading_set.key(digest, page.number)} | place | known | counts | facts
