"""Which pages of a file are read: "1-3,7", parsed strictly.

A form that could mean two things is refused rather than guessed: no open ranges, no reversed
ranges, no page twice. The order given is the order in which pages are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from parsit.types import InputError, UsageError


@dataclass(frozen=True, slots=True)
class Selection:
    """Ranges of page numbers, first and last included, in the order given. Numbers count from 1."""

    ranges: tuple[tuple[int, int], ...]

    def pages(self, count: int, source: str) -> list[int]:
        """The selected page numbers of a file with `count` pages.

        Raises:
            InputError: A page lies beyond the end; `source` names the file in the message.
        """
        for first, last in self.ranges:
            if last > count:
                start = max(first, count + 1)
                missing = f"page {last}" if start == last else f"pages {start}-{last}"
                has = "1 page" if count == 1 else f"{count:,} pages"
                raise InputError(f"{source} has {has}; --pages asks for {missing}")
        return [page for first, last in self.ranges for page in range(first, last + 1)]


def parse_selection(text: str) -> Selection:
    """Parse "1-3,7": page numbers and ranges between commas; spaces around them are allowed.

    Raises:
        UsageError: A part is neither a number nor a range, counts from 0, runs backwards or names a
            page that is already named. The message names the part.
    """
    ranges: list[tuple[int, int]] = []
    for part in text.split(","):
        first, last = _range(part.strip(), text)
        for earlier_first, earlier_last in ranges:
            if first <= earlier_last and earlier_first <= last:
                page = max(first, earlier_first)
                raise UsageError(f"--pages {text!r}: {part.strip()!r} names page {page} a second time")
        ranges.append((first, last))
    return Selection(tuple(ranges))


def _range(part: str, text: str) -> tuple[int, int]:
    """First and last page of one part: "7" or "1-3"."""
    ends = [end.strip() for end in part.split("-")]
    if len(ends) > 2 or not all(end.isascii() and end.isdigit() and len(end) <= 9 for end in ends):
        wrong = f"{part!r} is" if part else "an empty part is"
        raise UsageError(f"--pages {text!r}: {wrong} neither a page nor a range (write it like 1-3,7)")
    first, last = int(ends[0]), int(ends[-1])
    if first == 0:
        raise UsageError(f"--pages {text!r}: {part!r} names page 0; pages count from 1")
    if last < first:
        raise UsageError(f"--pages {text!r}: the range {part!r} runs backwards")
    return first, last
