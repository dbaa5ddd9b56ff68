"""Tables in what was read: Markdown's with pipes and HTML's, as cells with spans, written as either.

HTML keeps spans. In Markdown a cell that spans others stands in its first place and the others are empty; an empty cell
of Markdown is just that. Text around tables is left to the character. Given up: tables inside cells (they become the
cell's text), and tables without an end.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal

Style = Literal["as-read", "markdown", "html"]
STYLES: tuple[Style, ...] = ("as-read", "markdown", "html")
MOST_SPAN = 1000  # as HTML has it; what a model writes beyond is a slip

_HTML_TABLE = re.compile(r"<table\b.*?</table\s*>", re.DOTALL | re.IGNORECASE)
_ROW = r"[ \t]*\|.*\|[ \t]*"
_RULE = r"[ \t]*\|(?:[ \t]*:?-+:?[ \t]*\|)+[ \t]*"
_PIPE_TABLE = re.compile(rf"^{_ROW}\n{_RULE}(?:\n{_ROW})*$", re.MULTILINE)
_CELL_BORDER = re.compile(r"(?<!\\)\|")


@dataclass(slots=True)
class Cell:
    """A cell: its text, how many rows and columns it takes, and whether it is of a header."""

    text: str
    rows: int = 1
    columns: int = 1
    is_header: bool = False


Table = list[list[Cell]]  # rows of the cells that begin in them


def tables_in(text: str) -> list[Table]:
    """The tables of a text, in order."""
    found: list[Table] = []
    _each_table(text, lambda table, source: found.append(table) or source)
    return found


def with_tables(text: str, style: Style) -> str:
    """The text with its tables written in one way."""
    if style == "as-read":
        return text
    write = to_html if style == "html" else to_markdown
    return _each_table(text, lambda table, _: write(table))


def to_html(table: Table) -> str:
    """A table as HTML, with spans."""
    rows = "\n".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table)
    return f"<table>\n{rows}\n</table>"


def to_markdown(table: Table) -> str:
    """A table with pipes; its first row is the header."""
    grid = _grid(table)
    width = max(map(len, grid), default=0)
    if not width:
        return ""
    lines = ["| " + " | ".join([*map(_markdown_cell, row), *[""] * (width - len(row))]) + " |" for row in grid]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _each_table(text: str, change: Callable[[Table, str], str]) -> str:
    """The text with each of its tables changed."""
    parts, end = [], 0
    for match in sorted([*_HTML_TABLE.finditer(text), *_PIPE_TABLE.finditer(text)], key=lambda one: one.start()):
        if match.start() < end:
            continue  # pipes inside a table of HTML
        source = match.group()
        table = _of_html(source) if source.lstrip().startswith("<") else _of_pipes(source)
        parts += [text[end : match.start()], change(table, source)]
        end = match.end()
    return "".join([*parts, text[end:]])


def _html_cell(cell: Cell) -> str:
    name = "th" if cell.is_header else "td"
    spans = (("rowspan", cell.rows), ("colspan", cell.columns))
    said = "".join(f' {attribute}="{count}"' for attribute, count in spans if count > 1)
    return f"<{name}{said}>{html.escape(cell.text, quote=False)}</{name}>"


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _grid(table: Table) -> list[list[str]]:
    """The texts by row and column; a cell that spans others stands in its first place."""
    grid: dict[tuple[int, int], str] = {}
    for y, row in enumerate(table):
        x = 0
        for cell in row:
            while (y, x) in grid:
                x += 1
            rows = min(cell.rows, len(table) - y)
            grid |= {(y + down, x + right): "" for down in range(rows) for right in range(cell.columns)}
            grid[y, x] = cell.text
            x += cell.columns
    width = max((x + 1 for _, x in grid), default=0)
    return [[grid.get((y, x), "") for x in range(width)] for y in range(len(table))]


def _of_pipes(source: str) -> Table:
    lines = source.split("\n")
    rows = [_CELL_BORDER.split(line.strip()[1:-1]) for line in (lines[0], *lines[2:])]
    cells = [[Cell(part.strip().replace("\\|", "|")) for part in row] for row in rows]
    for cell in cells[0]:
        cell.is_header = True
    return cells


def _of_html(source: str) -> Table:
    parser = _TableParser()
    parser.feed(source)
    parser.close()
    return parser.rows


class _TableParser(HTMLParser):
    """The cells of one table."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: Table = []
        self._cell: Cell | None = None
        self._is_in_head = False

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """A row, a cell, or a break in one begins."""
        if tag in ("tr", "td", "th"):
            self._end_cell()
        if tag == "tr" or (tag in ("td", "th") and not self.rows):
            self.rows.append([])
        if tag in ("td", "th"):
            spans = dict(attrs)
            is_header = tag == "th" or self._is_in_head
            self._cell = Cell("", _span(spans.get("rowspan")), _span(spans.get("colspan")), is_header)
        elif tag == "br" and self._cell:
            self._cell.text += "\n"
        elif tag == "thead":
            self._is_in_head = True

    def handle_endtag(self, tag: str) -> None:
        """A cell, a row or the header ends."""
        if tag in ("td", "th", "tr", "table"):
            self._end_cell()
        elif tag == "thead":
            self._is_in_head = False

    def handle_data(self, data: str) -> None:
        """Text of a cell; what stands between cells is laid out, and not text."""
        if self._cell:
            self._cell.text += data

    def _end_cell(self) -> None:
        if self._cell:
            self._cell.text = self._cell.text.strip()
            self.rows[-1].append(self._cell)
            self._cell = None


def _span(value: str | None) -> int:
    text = (value or "").strip()
    return min(max(int(text), 1), MOST_SPAN) if text.isascii() and text.isdigit() else 1
