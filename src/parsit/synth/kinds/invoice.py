"""An invoice: seller and buyer, numbers and dates, lines that add up, tax, total, how to pay."""

from __future__ import annotations

from parsit.synth import words
from parsit.synth.draw import Draw
from parsit.synth.sentences import FOOTNOTES
from parsit.synth.tree import (
    Block,
    Column,
    Heading,
    KeyValues,
    Lines,
    PageTree,
    Pair,
    Paragraph,
    Rules,
    SideBySide,
    Table,
)

TITLES = ("Invoice", "INVOICE", "Tax invoice", "Proforma invoice", "Credit note", "Bill")
CREDIT_NOTE = "Credit note"
DAYS_TO_PAY = (7, 10, 14, 21, 30, 45, 60, 90)
TOTALS, CREDIT_TOTALS = (
    ("Total", "Total due", "Amount due", "Grand total"),
    ("Total", "Total credit", "Amount credited"),
)
RULES: tuple[Rules, ...] = ("grid", "rows", "head", "stripes")


def make(draw: Draw) -> PageTree:
    """One invoice."""
    rng, values = draw.rng, draw.values
    seller, buyer = values.company(), values.company() if draw.coin(0.6) else values.person()
    items, subtotal = item_table(draw)
    seller_block = Lines(values.address(seller), rng.choice(("left", "right")), draw.coin(0.6), key="seller")
    buyer_block = Lines(values.address(buyer), key="buyer")
    name = rng.choice(TITLES)
    title = Heading(name, 1, rng.choice(("left", "left", "right", "center")))
    meta = credit_numbers(draw) if name == CREDIT_NOTE else numbers(draw)
    head: tuple[Block, ...] = (
        (seller_block, title, SideBySide(buyer_block, meta))
        if draw.coin()
        else (title, SideBySide(seller_block, buyer_block), meta)
    )
    return PageTree(
        kind="invoice",
        language=values.locale.code,
        style=draw.style(),
        head=head,
        body=(items, totals(draw, subtotal, CREDIT_TOTALS if name == CREDIT_NOTE else TOTALS), *payment(draw, seller)),
    )


def numbers(draw: Draw) -> KeyValues:
    """Invoice number and dates."""
    rng, values = draw.rng, draw.values
    issued, due = values.dates(DAYS_TO_PAY)
    pairs = [
        Pair("invoice_number", rng.choice(("Invoice no.", "Invoice number", "Invoice #", "Number")), draw.reference()),
        Pair("invoice_date", rng.choice(("Invoice date", "Date", "Date of issue")), issued),
    ]
    if draw.coin(0.7):
        pairs.append(Pair("due_date", rng.choice(("Due date", "Payable by", "Due")), due))
    if draw.coin():
        pairs.append(Pair("customer_number", rng.choice(("Customer no.", "Client", "Account")), values.code("999999")))
    if draw.coin(0.3):
        pairs.append(Pair("order_number", rng.choice(("Order no.", "Your order", "PO number")), values.code()))
    return KeyValues(tuple(pairs), suffix=rng.choice((":", ":", "")))


def credit_numbers(draw: Draw) -> KeyValues:
    """A credit note's number and date, and sometimes the earlier invoice that it is about; nothing is due."""
    rng, values = draw.rng, draw.values
    invoiced, issued = values.dates(DAYS_TO_PAY)
    labels = ("Credit note no.", "Credit note number", "Credit note #", "Number")
    pairs = [
        Pair("credit_note_number", rng.choice(labels), draw.reference()),
        Pair("credit_note_date", rng.choice(("Credit note date", "Date", "Date of issue")), issued),
    ]
    if draw.coin(0.7):
        pairs.append(Pair("invoice_date", rng.choice(("Date of invoice", "Invoice of")), invoiced))
    if draw.coin():
        pairs.append(Pair("customer_number", rng.choice(("Customer no.", "Client", "Account")), values.code("999999")))
    return KeyValues(tuple(pairs), suffix=rng.choice((":", ":", "")))


def item_table(draw: Draw) -> tuple[Table, int]:
    """The invoice's lines and their sum in cents."""
    rng, values = draw.rng, draw.values
    with_number = draw.coin(0.4)
    rows, subtotal = [], 0
    for index, product in enumerate(rng.sample(words.PRODUCTS, rng.randint(2, 12)), start=1):
        quantity, price = rng.randint(1, 40), rng.choice((rng.randint(50, 9999), rng.randint(1000, 250_000)))
        subtotal += quantity * price
        row = (product, str(quantity), values.amount(price), values.amount(quantity * price))
        rows.append((str(index), *row) if with_number else row)
    columns = (
        Column("description", rng.choice(("Description", "Item", "Article", "Product"))),
        Column("quantity", rng.choice(("Qty", "Quantity", "Units", "Qty.")), True),
        Column("unit_price", rng.choice(("Unit price", "Price", "Rate", "Each")), True),
        Column("amount", rng.choice(("Amount", "Total", "Line total", "Net")), True),
    )
    if with_number:
        columns = (Column("position", rng.choice(("Pos.", "No.", "#")), True), *columns)
    return Table(columns, tuple(rows), rng.choice(RULES), "items"), subtotal


def totals(draw: Draw, subtotal: int, labels: tuple[str, ...] = TOTALS) -> KeyValues:
    """Subtotal, discount, tax and total, under one of the labels; the total is their exact sum."""
    rng, values = draw.rng, draw.values
    pairs = [Pair("subtotal", rng.choice(("Subtotal", "Net amount", "Sum")), values.money(subtotal))]
    total = subtotal
    if draw.coin(0.25):
        discount = subtotal * rng.choice((2, 3, 5, 10)) // 100
        pairs.append(Pair("discount", rng.choice(("Discount", "Less discount")), values.money(-discount)))
        total -= discount
    if draw.coin(0.85):
        rate = rng.choice(values.locale.tax_percents)
        tax = (total * rate + 50) // 100
        pairs.append(Pair("tax", f"{values.locale.tax_name} {rate}%", values.money(tax)))
        total += tax
    pairs.append(Pair("total", rng.choice(labels), values.money(total)))
    return KeyValues(tuple(pairs), spread=True, suffix=rng.choice((":", "")), strong_last=draw.coin(0.7))


def payment(draw: Draw, seller: str) -> tuple[Block, ...]:
    """Where to pay to, and sometimes a closing sentence."""
    values = draw.values
    pairs = [
        Pair("account_holder", "Account holder", seller),
        Pair(*values.account()),
        Pair("phone", "Phone", values.phone()),
        Pair("email", draw.rng.choice(("E-mail", "Email")), values.email(seller)),
    ]
    chosen = tuple(pair for pair in pairs if draw.coin(0.6))
    blocks: list[Block] = [KeyValues(chosen)] if chosen else []
    if draw.coin(0.6):
        blocks.append(Paragraph((draw.sentence(FOOTNOTES),)))
    return tuple(blocks)
