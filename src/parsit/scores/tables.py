"""Tables in a text, HTML's and Markdown's, as trees that TEDS compares.

The tree is PubTabNet's: `table`, perhaps `thead` and `tbody`, `tr`, and cells with their spans and the tokens of their
content (characters, and the tags of markup inside). A header cell (`th`) is a cell as any other: what is read is its
text. Broken HTML is read as browsers do: a new cell or row ends the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

SECTIONS = ("thead", "tbody", "tfoot")
CELLS = ("td", "th")
# Elements without an end tag: their token is both.
_VOID = ("br", "hr", "img", "input", "wbr")
_SEPARATOR = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")


@dataclass(slots=True)
class TableNode:
    """One element of a table: its tag, its parts, and for a cell (`td`) its spans and its content's tokens."""

    tag: str
    children: list[TableNode] = field(default_factory=list)
    colspan: int = 1
    rowspan: int = 1
    content: list[str] = field(default_factory=list)

    def size(self) -> int:
        """How many elements are below this one."""
        return sum(1 + child.size() for child in self.children)


def tables(text: str) -> list[TableNode]:
    """All tables of a page in order, without `thead` and `tbody`, which Markdown's pipe tables do not tell apart."""
    found = [(place, without_sections(table)) for place, table in _html_tables(text)]
    found += list(_pipe_tables(text))
    return [table for _, table in sorted(found, key=lambda one: one[0])]


def html_table(html: str) -> TableNode | None:
    """The first table of some HTML as it is written, sections and all; None if there is none."""
    return next((table for _, table in _html_tables(html)), None)


def without_sections(table: TableNode) -> TableNode:
    """The table with its rows directly below it."""
    rows = [row for part in table.children for row in (part.children if part.tag in SECTIONS else [part])]
    return replace(table, children=rows)


def _html_tables(text: str) -> list[tuple[int, TableNode]]:
    """Each outermost table and the place in the text where it begins."""
    reader = _TableReader(text)
    reader.feed(text)
    reader.close()
    return reader.found


class _TableReader(HTMLParser):
    """Gathers the outermost tables; a table within a cell is content of that cell."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[int, TableNode]] = []
        self._open: list[TableNode] = []
        self._inner = 0  # tables that are open within the cell
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._in_cell and (self._inner or tag == "table"):
            self._inner += tag == "table"
            self._token(tag)
        elif tag == "table":
            line, column = self.getpos()
            self._open = [TableNode("table")]
            self.found.append((self._line_starts[line - 1] + column, self._open[0]))
        elif self._open and tag in (*CELLS, "tr", *SECTIONS):
            self._begin(tag, dict(attrs))
        elif self._in_cell:
            self._token(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inner:
            self._open[-1].content.append(f"</{tag}>")
            self._inner -= tag == "table"
        elif tag == "table":
            self._open = []
        elif tag in (*CELLS, "tr", *SECTIONS):
            name = "td" if tag in CELLS else tag
            if name in [node.tag for node in self._open]:
                while self._open.pop().tag != name:
                    pass
        elif self._in_cell and tag not in _VOID:
            self._open[-1].content.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._open[-1].content.extend(data)

    @property
    def _in_cell(self) -> bool:
        return bool(self._open) and self._open[-1].tag == "td"

    def _token(self, tag: str) -> None:
        self._open[-1].content += [f"<{tag}>", f"</{tag}>"] if tag in _VOID else [f"<{tag}>"]

    def _begin(self, tag: str, attributes: dict[str, str | None]) -> None:
        """A part of the table; what it cannot stand in ends, and a cell outside a row begins one."""
        above = {"td": ("tr",), "tr": ("table", *SECTIONS)}
        name = "td" if tag in CELLS else tag
        while self._open[-1].tag not in above.get(name, ("table",)):
            if name == "td" and self._open[-1].tag in ("table", *SECTIONS):
                self._add(TableNode("tr"))
            else:
                self._open.pop()
        colspan, rowspan = _span(attributes.get("colspan")), _span(attributes.get("rowspan"))
        self._add(TableNode(name, colspan=colspan, rowspan=rowspan) if name == "td" else TableNode(name))

    def _add(self, node: TableNode) -> None:
        self._open[-1].children.append(node)
        self._open.append(node)


def _span(value: str | None) -> int:
    """A span; what is no number from 1 on is 1, as in browsers."""
    return int(value) if value and value.strip().isdecimal() and int(value) >= 1 else 1


def _pipe_tables(text: str) -> Iterator[tuple[int, TableNode]]:
    """Each Markdown table, a line with pipes above a line of dashes, and the place where it begins."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    number = 0
    while number < len(lines):
        end = number
        while end < len(lines) and "|" in lines[end]:
            end += 1
        if end - number >= 2 and _SEPARATOR.fullmatch(lines[number + 1]):
            head = _pipe_cells(lines[number])
            rows = [head, *(_pipe_cells(line) for line in lines[number + 2 : end])]
            yield starts[number], TableNode("table", [_row(row, len(head)) for row in rows])
        number = max(end, number + 1)


def _pipe_cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    inner = inner.removesuffix("|") if not inner.endswith(r"\|") else inner
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _row(cells: list[str], width: int) -> TableNode:
    """A row; where it has fewer cells than the head, the others are empty."""
    cells = cells + [""] * (width - len(cells))
    return TableNode("tr", [TableNode("td", content=list(cell)) for cell in cells])
