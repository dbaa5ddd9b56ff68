"""Tests in olmOCR-bench's format, made from what is known to stand on a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

from parsit.synth.tree import Formula, Heading, KeyValues, ListBlock, PageTree, Paragraph, Table, flat_blocks
from parsit.synth.truth import to_latex

# Of a text that is looked for, one character in so many may differ.
CHARS_PER_DIFF = 25
# Markup that the judge takes out of what was read, but not always alike out of what is looked for.
MARKUP = re.compile(r"[*_`<>|$\\]")


@dataclass(slots=True)
class PageTests:
    """The tests of one page, numbered as they are added."""

    pdf: str
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, **what: Any) -> None:
        number = len(self.found) + 1
        name = f"{self.pdf.removesuffix('.pdf').replace('/', '_')}_{kind}_{number:02}"
        self.found.append({"pdf": self.pdf, "page": 1, "id": name, "type": kind, **what})

    def present(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.add("present", text=text, max_diffs=len(text) // CHARS_PER_DIFF)

    def order(self, texts: Sequence[str]) -> None:
        """Each text stands before the next."""
        for before, after in pairwise(texts):
            self.add("order", before=before, after=after, max_diffs=min(len(before), len(after)) // CHARS_PER_DIFF)


def sentences(document: PageTree) -> list[str]:
    """The page's sentences in reading order that stand there once and hold no markup."""
    found = [text for block in flat_blocks(document) if isinstance(block, Paragraph) for text in block.sentences]
    return [text for text in found if found.count(text) == 1 and len(text) >= 25 and not MARKUP.search(text)]


def printed(document: PageTree) -> list[str]:
    """Sentences, list items, and labels with their values: what a reader must have written down."""
    found = sentences(document)
    for block in flat_blocks(document):
        match block:
            case ListBlock(items=items):
                found += items
            case KeyValues(pairs=pairs):
                found += [pair.value for pair in pairs]
            case Heading(text=text):
                found.append(text)
    return [text for text in dict.fromkeys(found) if len(text) >= 8 and not MARKUP.search(text)]


def pick(rng: Random, texts: Sequence[str], count: int) -> list[str]:
    """Some of the texts, in their order."""
    places = sorted(rng.sample(range(len(texts)), min(count, len(texts))))
    return [texts[place] for place in places]


def add_table_tests(tests: PageTests, rng: Random, table: Table, count: int) -> None:
    """Cells that stand in the table once, with what stands beside and above them."""
    for row, column in pick_cells(rng, table, count):
        cells = table.rows[row]
        beside: dict[str, str] = {"top_heading": table.columns[column].header, "left_heading": cells[0]}
        if row:
            beside["up"] = table.rows[row - 1][column]
        if row + 1 < len(table.rows):
            beside["down"] = table.rows[row + 1][column]
        beside["left"] = cells[column - 1]
        if column + 1 < len(cells):
            beside["right"] = cells[column + 1]
        chosen = rng.sample(sorted(beside), min(2, len(beside)))
        tests.add("table", cell=cells[column], **{name: beside[name] for name in chosen})


def pick_cells(rng: Random, table: Table, count: int) -> list[tuple[int, int]]:
    """Places (row, column) of cells whose text no other cell has; the first column, which names rows, is left out."""
    texts = [cell for row in table.rows for cell in row]
    places = [
        (row, column)
        for row, cells in enumerate(table.rows)
        for column in range(1, len(cells))
        if len(cells[column]) > 1 and texts.count(cells[column]) == 1 and not MARKUP.search(cells[column])
    ]
    return sorted(rng.sample(places, min(count, len(places))))


def formulas(document: PageTree) -> Iterator[str]:
    """The page's formulas in LaTeX; one that stands there twice comes once."""
    found = [to_latex(block.expression) for block in flat_blocks(document) if isinstance(block, Formula)]
    yield from dict.fromkeys(found)
