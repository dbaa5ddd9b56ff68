"""A report: title, author and date, numbered sections of text with lists, tables and formulas, one or two columns."""

from __future__ import annotations

from parsit.synth.draw import Draw
from parsit.synth.kinds.letter import bullet_list
from parsit.synth.kinds.table import data_table
from parsit.synth.tree import (
    Block,
    Expression,
    Formula,
    Fraction,
    Heading,
    KeyValues,
    Lines,
    PageTree,
    Pair,
    Script,
    Sequence,
    Symbol,
)

VARIABLES = ["a", "b", "c", "d", "f", "g", "h", "k", "m", "n", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z"]


def make(draw: Draw) -> PageTree:
    """One page of a report."""
    rng, values = draw.rng, draw.values
    columns = rng.choice((1, 1, 2))
    numbered, align = draw.coin(), rng.choice(("left", "center"))
    body: list[Block] = []
    for index in range(1, (rng.randint(2, 4) if columns == 1 else rng.randint(6, 8)) + 1):
        title = draw.title()
        body += section(draw, f"{index}. {title}" if numbered else title, narrow=columns > 1)
    about = KeyValues(
        (
            Pair("report_number", rng.choice(("Report no.", "Report", "Document", "Version")), draw.reference()),
            Pair("date", rng.choice(("Date", "As of", "Published")), values.date()),
        ),
        columns=rng.choice((1, 2)),
    )
    return PageTree(
        kind="report",
        language=values.locale.code,
        style=draw.style(monospaced=0.04, columns=columns),
        head=(
            Heading(draw.title(), 1, align, key="title"),
            Lines((values.person(),), align, key="author"),
            Lines((values.company(),), align, key="organisation"),
            about,
        ),
        body=tuple(body),
    )


def section(draw: Draw, title: str, narrow: bool) -> list[Block]:
    """A heading, one or two paragraphs, and perhaps a list, a table or a formula."""
    blocks: list[Block] = [Heading(title, 2, key="sections")]
    blocks += [draw.paragraph(2, 4 if narrow else 5) for _ in range(draw.rng.randint(1, 2))]
    extra = draw.rng.random()
    if extra < 0.25:
        blocks.append(bullet_list(draw))
    elif extra < 0.4 and not narrow:
        blocks.append(data_table(draw, rows=(2, 5), columns=(2, 4)))
    elif extra < 0.6:
        # A formula never ends a page: the text after it tells where its glyphs end.
        blocks += [Formula(equation(draw)), draw.paragraph(1, 2)]
    return blocks


def equation(draw: Draw) -> Expression:
    """One letter equals an expression of some terms."""
    terms: list[Expression] = [Symbol(draw.rng.choice(VARIABLES)), Symbol("=")]
    for index in range(draw.rng.randint(1, 3)):
        if index:
            terms.append(Symbol(draw.rng.choice("+-")))
        terms.append(term(draw))
    return Sequence(tuple(terms))


def term(draw: Draw) -> Expression:
    """A variable, a power, an indexed variable or a fraction of them."""
    rng = draw.rng
    shape, name = rng.random(), Symbol(rng.choice(VARIABLES))
    if shape < 0.25:
        return Sequence((Symbol(str(rng.randint(2, 99))), name))
    if shape < 0.5:
        return Script(name, upper=Symbol(str(rng.randint(2, 5))))
    if shape < 0.7:
        return Script(name, lower=Symbol(rng.choice("0123456789")))
    return Fraction(
        Sequence((name, Symbol("+"), Symbol(str(rng.randint(1, 50))))),
        Script(Symbol(rng.choice(VARIABLES)), upper=Symbol(str(rng.randint(2, 3)))),
    )
