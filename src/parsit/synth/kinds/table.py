"""A page with one data table: title, caption, columns of words, numbers, dates, percentages, a note."""

from __future__ import annotations

from collections.abc import Callable

from parsit.synth import words
from parsit.synth.draw import Draw
from parsit.synth.sentences import plural
from parsit.synth.tree import Block, Column, Heading, KeyValues, PageTree, Pair, Rules, Table

RULES: tuple[Rules, ...] = ("grid", "rows", "head", "stripes")
NUMERIC_HEADERS = (
    "Units",
    "Amount",
    "Cost",
    "Share",
    "Change",
    "Mean",
    "Median",
    "Minimum",
    "Maximum",
    "Volume",
    "Index",
)


def make(draw: Draw) -> PageTree:
    """One page with a table."""
    rng, values = draw.rng, draw.values
    source = KeyValues(
        (
            Pair("source", rng.choice(("Source", "Data", "Compiled by")), values.company()),
            Pair("table_number", rng.choice(("Table no.", "Series", "Sheet", "File")), draw.reference()),
            Pair("date", rng.choice(("As of", "Date", "Updated")), values.date()),
        )
    )
    head: list[Block] = [Heading(draw.title(), 1, rng.choice(("left", "center")), key="title")]
    if draw.coin():
        head.append(draw.paragraph(1, 3))
    body: tuple[Block, ...] = (data_table(draw, rows=(4, 22), columns=(3, 6)), source)
    return PageTree("table", values.locale.code, draw.style(), tuple(head), body)


def data_table(draw: Draw, rows: tuple[int, int], columns: tuple[int, int]) -> Table:
    """A table of a number of rows and columns within the given bounds; the first column holds names."""
    rng = draw.rng
    count = rng.randint(*rows)
    title, names = name_column(draw, count)
    heads, cells = [Column("name", title)], [names]
    others = rng.sample(range(len(NUMERIC_HEADERS)), rng.randint(*columns) - 1)
    years = rng.randint(1980, 2020) if draw.coin(0.4) else None
    for place, choice in enumerate(others):
        header = str(years + place) if years else NUMERIC_HEADERS[choice]
        heads.append(Column(header.lower(), header, numeric=True))
        kind = cell_kind(draw)
        cells.append([kind() for _ in range(count)])
    return Table(tuple(heads), tuple(zip(*cells, strict=True)), rng.choice(RULES))


def name_column(draw: Draw, count: int) -> tuple[str, list[str]]:
    """Header and cells of the first column."""
    rng, values = draw.rng, draw.values
    kinds: tuple[tuple[str, Callable[[], list[str]]], ...] = (
        ("City", lambda: rng.sample(words.CITIES[values.locale.region], count)),
        ("Product", lambda: rng.sample(words.PRODUCTS, count)),
        ("Name", lambda: [values.person() for _ in range(count)]),
        ("Company", lambda: [values.company() for _ in range(count)]),
        ("Category", lambda: [plural(noun).capitalize() for noun in rng.sample(words.NOUNS, count)]),
        ("Date", lambda: [values.date() for _ in range(count)]),
    )
    header, make_cells = rng.choice(kinds)
    return header, make_cells()


def cell_kind(draw: Draw) -> Callable[[], str]:
    """What a column of numbers holds: one function for all its cells."""
    rng, values = draw.rng, draw.values
    largest = 10 ** rng.randint(2, 6)
    return rng.choice((
        lambda: values.number(rng.randint(0, largest)),
        lambda: values.number(rng.randint(-largest, largest), 1),
        lambda: values.amount(rng.randint(0, largest * 10)),
        lambda: values.money(rng.randint(0, largest * 10)),
        lambda: values.percent(),
        lambda: rng.choice(("–", values.number(rng.randint(0, largest)))),
        lambda: f"{rng.randint(1, 99)} ± {rng.randint(1, 9)}",
    ))  # fmt: skip
