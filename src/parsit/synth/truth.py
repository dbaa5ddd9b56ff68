"""A document tree's ground truth: Markdown for reading, JSON for its fields, questions with answers.

Decides that every value is written as it is printed (`1.234,50 €` stays that), so an answer can be
checked on the page; turning it into numbers or ISO dates is left to the user. Markdown escapes
nothing, for the same reason: a `*` in the truth is a `*` on the page.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from parsit.synth.tree import (
    Block,
    Expression,
    Formula,
    Fraction,
    Heading,
    KeyValues,
    Lines,
    ListBlock,
    PageTree,
    Paragraph,
    Rule,
    Script,
    Sequence,
    SideBySide,
    Symbol,
    Table,
    flat_blocks,
)

FieldValue = str | list[str] | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question about one printed value."""

    question: str
    answer: str


def to_markdown(document: PageTree) -> str:
    """The page in reading order; blocks are separated by one empty line."""
    return "\n\n".join(text for text in map(block_markdown, document.blocks) if text)


def block_markdown(block: Block) -> str:
    """One block as Markdown. Lines of a block stay lines; a rule is not text and gives nothing."""
    match block:
        case Heading(text=text, level=level):
            return f"{'#' * level} {text}"
        case Paragraph(text=text):
            return text
        case Lines(lines=lines):
            return "\n".join(lines)
        case KeyValues(pairs=pairs, suffix=suffix):
            return "\n".join(f"{pair.label}{suffix} {pair.value}" for pair in pairs)
        case Table():
            return table_markdown(block)
        case ListBlock(items=items, markers=markers):
            return "\n".join(f"{marker} {item}" for marker, item in zip(markers, items, strict=True))
        case Formula(expression=expression):
            return f"$${to_latex(expression)}$$"
        case Rule():
            return ""
        case SideBySide(left=left, right=right):
            return f"{block_markdown(left)}\n\n{block_markdown(right)}"


def table_markdown(block: Table) -> str:
    """A pipe table; columns of numbers are marked as right-aligned."""
    marks = ["---:" if column.numeric else "---" for column in block.columns]
    rows = [[column.header for column in block.columns], marks, *block.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def to_latex(expression: Expression) -> str:
    """A formula in LaTeX."""
    match expression:
        case Symbol(text=text):
            return text
        case Fraction(numerator=numerator, denominator=denominator):
            return f"\\frac{{{to_latex(numerator)}}}{{{to_latex(denominator)}}}"
        case Script(base=base, upper=upper, lower=lower):
            below = f"_{{{to_latex(lower)}}}" if lower else ""
            above = f"^{{{to_latex(upper)}}}" if upper else ""
            return f"{to_latex(base)}{below}{above}"
        case Sequence(parts=parts):
            return " ".join(map(to_latex, parts))


def to_fields(document: PageTree) -> str:
    """The page's fields as JSON, in reading order.

    A pair or a single line gives a string; several lines, and headings that share a key, give a list of
    strings; a table gives a list of rows.
    """
    fields: dict[str, FieldValue] = {"document_type": document.kind}
    for block in flat_blocks(document):
        match block:
            case KeyValues(pairs=pairs):
                fields |= {pair.key: pair.value for pair in pairs}
            case Table(key=key):
                fields[unused(key, fields)] = table_fields(block)
            case Lines(key=key, lines=lines) if key:
                fields[key] = lines[0] if len(lines) == 1 else list(lines)
            case Heading(key="sections", text=text):
                fields["sections"] = [*headings(fields), text]
            case Heading(key=key, text=text) if key:
                fields[key] = text
    return json.dumps(fields, ensure_ascii=False)


def headings(fields: dict[str, FieldValue]) -> list[str]:
    """The section headings so far."""
    found = fields.get("sections", [])
    return [text for text in found if isinstance(text, str)]


def unused(key: str, fields: dict[str, FieldValue]) -> str:
    """`key`, or `key_2`, `key_3` … for a second and third table."""
    number = 2
    name = key
    while name in fields:
        name, number = f"{key}_{number}", number + 1
    return name


def table_fields(block: Table) -> list[dict[str, str]]:
    """A table's rows, each by column key."""
    keys = [column.key for column in block.columns]
    return [dict(zip(keys, row, strict=True)) for row in block.rows]


def questions(document: PageTree) -> list[QuestionAnswer]:
    """All questions with exactly one right answer: about labelled values, titles, sentences and cells."""
    found = [item for block in flat_blocks(document) for item in block_questions(block)]
    found += sentence_questions(document)
    asked = Counter(item.question for item in found)
    return [item for item in found if asked[item.question] == 1]


def block_questions(block: Block) -> list[QuestionAnswer]:
    """Questions about one block on its own; whether they are unique on the page is not decided here."""
    match block:
        case KeyValues(pairs=pairs):
            return [QuestionAnswer(f"What is the value of “{pair.label}”?", pair.value) for pair in pairs]
        case Table():
            return table_questions(block)
        case Heading(key="title" | "subject" as key, text=text):
            return [QuestionAnswer(f"What is the {key}?", text)]
        case ListBlock(items=items):
            return [QuestionAnswer(f"What does item {n} of the list say?", item) for n, item in enumerate(items, 1)]
        case _:
            return []


def sentence_questions(document: PageTree) -> list[QuestionAnswer]:
    """What the page's first and last sentence of running text are."""
    sentences = [text for block in flat_blocks(document) if isinstance(block, Paragraph) for text in block.sentences]
    if len(sentences) < 2:
        return []
    return [
        QuestionAnswer(f"What is the {place} full sentence of the text?", text)
        for place, text in (("first", sentences[0]), ("last", sentences[-1]))
    ]


def table_questions(block: Table) -> list[QuestionAnswer]:
    """What stands in each numeric column of the row that the first column of words names."""
    name = next(index for index, column in enumerate(block.columns) if not column.numeric)
    return [
        QuestionAnswer(f"What is in the column “{column.header}” for “{row[name]}”?", cell)
        for row in block.rows
        for index, (column, cell) in enumerate(zip(block.columns, row, strict=True))
        if index != name
    ]
