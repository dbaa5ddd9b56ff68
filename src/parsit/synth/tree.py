"""The document tree: what a synthetic document says and how it is laid out, before anything is drawn.

Decides that one small tree is the only source of a page: `to_typst` draws it, `truth` writes its
ground truth, and neither can say something that the other does not. Text inside a block is uniform
(no bold word in a sentence): that gives up some typographic variety and buys a ground truth that
needs no inline markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "center", "right"]
Paper = Literal["a4", "letter", "roll"]
Rules = Literal["grid", "rows", "head", "stripes"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A title or section heading; `level` 1 is the largest. `key` names it in the fields, if it is one."""

    text: str
    level: int = 1
    align: Align = "left"
    key: str = ""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text, as sentences."""

    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences as one string."""
        return " ".join(self.sentences)


@dataclass(frozen=True, slots=True)
class Lines:
    """Short lines that stand under each other: an address, a signature, the top of a receipt."""

    lines: tuple[str, ...]
    align: Align = "left"
    strong_first: bool = False
    scale: float = 1.0
    key: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A label and its value as they are printed; `key` is the field's name in the JSON."""

    key: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Labels with values: in `columns` columns side by side, or `boxed` as on a form (label above value).

    `suffix` follows each label on the page. `spread` puts the value at the right edge (totals, receipts).
    """

    pairs: tuple[Pair, ...]
    columns: int = 1
    boxed: bool = False
    spread: bool = False
    suffix: str = ":"
    strong_last: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: its field name, its printed header and whether it holds numbers (right-aligned)."""

    key: str
    header: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every row has as many cells as there are columns. `key` names it in the fields."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    rules: Rules = "grid"
    key: str = "rows"


@dataclass(frozen=True, slots=True)
class ListBlock:
    """A list; each item carries its printed marker (`•`, `–`, `1.`, `a)`)."""

    items: tuple[str, ...]
    markers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A letter, number or operator of a formula; the same in Typst and LaTeX."""

    text: str


@dataclass(frozen=True, slots=True)
class Fraction:
    """Numerator over denominator."""

    numerator: Expression
    denominator: Expression


@dataclass(frozen=True, slots=True)
class Script:
    """A base with a superscript, a subscript or both."""

    base: Expression
    upper: Expression | None = None
    lower: Expression | None = None


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts of a formula beside each other."""

    parts: tuple[Expression, ...]


Expression = Symbol | Fraction | Script | Sequence


@dataclass(frozen=True, slots=True)
class Formula:
    """A displayed formula."""

    expression: Expression


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two blocks beside each other; the left one is read first."""

    left: Block
    right: Block


Block = Heading | Paragraph | Lines | KeyValues | Table | ListBlock | Formula | Rule | SideBySide


@dataclass(frozen=True, slots=True)
class Style:
    """How a document is laid out. Lengths: `size_pt` in points, `margin_mm` and `roll_mm` in millimetres.

    `leading_em` is Typst's: from one line's baseline to the next line's capitals. `accent` is an
    `#rrggbb` colour for headings and table heads. `roll_mm` is a receipt's width (paper `roll`
    only, as long as its text).
    """

    paper: Paper = "a4"
    font: str = "Libertinus Serif"
    size_pt: float = 11.0
    margin_mm: float = 22.0
    leading_em: float = 0.65
    columns: int = 1
    justify: bool = False
    accent: str = "#000000"
    roll_mm: float = 80.0


@dataclass(frozen=True, slots=True)
class PageTree:
    """One page: `head` over the full width, then `body` in the style's columns.

    `language` is the house style of names, dates and amounts (`en-US`, `en-GB`, `de`, `fr`, `ch`); the text is English.
    """

    kind: str
    language: str
    style: Style
    head: tuple[Block, ...]
    body: tuple[Block, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Head and body, in reading order."""
        return self.head + self.body


@dataclass(frozen=True, slots=True)
class Leaf:
    """A piece of text as it is drawn in one go; `opaque` where the glyphs differ from the text (formulas)."""

    text: str
    opaque: bool = False


def leaves(document: PageTree) -> list[Leaf]:
    """All printed text of the document in reading order, which is also the order in which it is drawn."""
    return [leaf for block in document.blocks for leaf in block_leaves(block)]


def block_leaves(block: Block) -> Iterator[Leaf]:
    """The printed text of one block, in reading order."""
    match block:
        case Heading(text=text):
            yield Leaf(text)
        case Paragraph():
            yield Leaf(block.text)
        case Lines(lines=lines):
            yield from map(Leaf, lines)
        case KeyValues(pairs=pairs, suffix=suffix):
            for pair in pairs:
                yield from (Leaf(pair.label + suffix), Leaf(pair.value))
        case Table(columns=columns, rows=rows):
            yield from (Leaf(column.header) for column in columns)
            yield from (Leaf(cell) for row in rows for cell in row)
        case ListBlock(items=items, markers=markers):
            for marker, item in zip(markers, items, strict=True):
                yield from (Leaf(marker), Leaf(item))
        case Formula():
            yield Leaf("", opaque=True)
        case SideBySide(left=left, right=right):
            yield from block_leaves(left)
            yield from block_leaves(right)


def flat_blocks(document: PageTree) -> Iterator[Block]:
    """All blocks in reading order, with `SideBySide` taken apart."""
    for block in document.blocks:
        if isinstance(block, SideBySide):
            yield from (block.left, block.right)
        else:
            yield block
