"""`Document`: what was read from a file, page by page, and its three written forms."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from parsit.types.generation import Confidence


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page that was read line by line: `box` is (left, top, right, bottom) in pixels of the page.

    `flags` as a page has them, of this line alone.
    """

    text: str
    box: tuple[int, int, int, int]
    flags: tuple[str, ...] = ()
    confidence: Confidence | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page as it was read.

    `number` counts from 1 as in the file; `width` and `height` are the pixels that were read.
    `flags` may hold `blank` (nothing on the page; the model was not asked), `reduced` (read with
    fewer pixels than asked for, to stay within the limit), `no_lines` (read by lines, but none were
    found), `truncated`, `looping` and `retried` (see `Generation`), `low_confidence` (the mean
    probability of its tokens is below `LOW_CONFIDENCE`), and `failed`: the page could not be read,
    its text is empty and `error` says why. `confidence` is over all tokens of the page; `lines` are there where the
    page was read line by line.
    """

    number: int
    text: str
    width: int
    height: int
    flags: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    confidence: Confidence | None = None
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read: its name and its pages."""

    source: str
    pages: tuple[Page, ...]

    @property
    def text(self) -> str:
        """All pages' text, one empty line between pages."""
        return "\n\n".join(page.text for page in self.pages)

    def to_markdown(self) -> str:
        """Markdown; pages are set apart by a comment that names the page and its flags."""
        parts = []
        for page in self.pages:
            flags = f" ({', '.join(page.flags)})" if page.flags else ""
            parts.append(f"<!-- page {page.number}{flags} -->\n\n{page.text}".rstrip() + "\n")
        return "\n".join(parts)

    def to_text(self) -> str:
        """Plain text; a form feed between pages, as pdftotext writes it."""
        return "\f".join(page.text.rstrip() + "\n" for page in self.pages)

    def to_json(self) -> str:
        """JSON: `{"source", "pages": [{"number", "text", "width", "height", "flags", "seconds", "error", …}]}`.

        A page's `confidence` is `{"mean", "lowest"}` or null, its `lines` are `{"text", "box", "flags", "confidence"}`.
        """
        return json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"
