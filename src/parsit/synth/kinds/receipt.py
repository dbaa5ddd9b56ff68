"""A till receipt on a paper roll: shop, items, total, how it was paid, thanks."""

from __future__ import annotations

from dataclasses import replace

from parsit.synth import words
from parsit.synth.draw import Draw
from parsit.synth.sentences import FOOTNOTES
from parsit.synth.tree import Block, Column, KeyValues, Lines, PageTree, Pair, Rule, Style, Table


def make(draw: Draw) -> PageTree:
    """One receipt."""
    rng, values = draw.rng, draw.values
    shop = (*values.address(values.company()), *((values.phone(),) if draw.coin() else ()))
    table, total = items(draw)
    about = KeyValues(
        (
            Pair("receipt_number", rng.choice(("Receipt", "Receipt no.", "Bill no.", "Trans.")), draw.reference()),
            Pair("date", "Date", values.date()),
            Pair("time", "Time", values.time()),
            *((Pair("cashier", rng.choice(("Cashier", "Served by")), values.first_name()),) if draw.coin() else ()),
        ),
        spread=draw.coin(),
    )
    rule: tuple[Block, ...] = (Rule(),) if draw.coin(0.7) else ()
    thanks = Lines((draw.sentence(FOOTNOTES),), "center", key="note")
    body = (about, *rule, table, *rule, payment(draw, total), *((thanks,) if draw.coin(0.7) else ()))
    return PageTree("receipt", values.locale.code, roll(draw), (Lines(shop, "center", draw.coin(), key="shop"),), body)


def roll(draw: Draw) -> Style:
    """A paper roll of one of the two common widths."""
    width = draw.rng.choice((58.0, 80.0))
    size = draw.rng.uniform(6.6, 8.0) if width < 60 else draw.rng.uniform(7.5, 10.0)
    return replace(
        draw.style(monospaced=0.5), paper="roll", roll_mm=width, margin_mm=4.0, size_pt=round(size, 2), justify=False
    )


def items(draw: Draw) -> tuple[Table, int]:
    """What was bought, and the sum in cents."""
    rng, values = draw.rng, draw.values
    with_quantity = draw.coin()
    rows, total = [], 0
    for name in rng.sample(words.GROCERIES + words.PRODUCTS[:40], rng.randint(1, 14)):
        quantity, price = (rng.choice((1, 1, 1, 2, 3, 6)) if with_quantity else 1), rng.randint(29, 4999)
        total += quantity * price
        row = (name, values.amount(quantity * price))
        rows.append((f"{quantity}", *row) if with_quantity else row)
    columns = (
        Column("description", rng.choice(("Item", "Article", "Description"))),
        Column("amount", rng.choice(("Price", "Amount", "Sum")), True),
    )
    if with_quantity:
        columns = (Column("quantity", rng.choice(("Qty", "No.", "#")), True), *columns)
    return Table(columns, tuple(rows), rng.choice(("head", "rows")), "items"), total


def payment(draw: Draw, total: int) -> KeyValues:
    """Total, tax that is in it, and cash with change or a card."""
    rng, values = draw.rng, draw.values
    rate = rng.choice(values.locale.tax_percents)
    pairs = [Pair("total", rng.choice(("Total", "TOTAL", "Sum", "To pay")), values.money(total))]
    if draw.coin(0.6):
        tax = round(total * rate / (100 + rate))
        pairs.append(Pair("tax", f"incl. {values.locale.tax_name} {rate}%", values.money(tax)))
    if draw.coin():
        note = next(
            unit for unit in (500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000) if unit >= min(total, 100_000)
        )
        given = -(-total // note) * note
        pairs += [Pair("cash", "Cash", values.money(given)), Pair("change", "Change", values.money(given - total))]
    else:
        card = f"{rng.choice(('Card', 'Visa', 'Maestro', 'Debit card'))} ****{rng.randint(0, 9999):04}"
        pairs.append(Pair("card", card, values.money(total)))
    return KeyValues(tuple(pairs), spread=True, suffix=rng.choice((":", "")))
