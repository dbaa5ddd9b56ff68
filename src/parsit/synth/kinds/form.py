"""A filled-in form: title, number, boxes or lines with labels and values, a declaration, a signature."""

from __future__ import annotations

from parsit.synth import words
from parsit.synth.draw import Draw
from parsit.synth.tree import Block, Heading, KeyValues, Lines, PageTree, Pair

TITLES = (
    "Application form",
    "Registration",
    "Change of address",
    "Claim form",
    "Customer details",
    "Delivery note",
    "Expense claim",
    "Inspection record",
    "Job application",
    "Membership application",
    "Order form",
    "Patient information",
    "Permit application",
    "Visitor registration",
    "Warranty card",
)
SECTIONS = ("Personal details", "Contact", "Details", "Employment", "Payment", "Section A", "Section B", "Other")
MARKS = ("[x]", "[ ]")


def make(draw: Draw) -> PageTree:
    """One form."""
    rng, values = draw.rng, draw.values
    number = Pair("form_number", rng.choice(("Form no.", "Form", "Application no.", "File no.")), draw.reference())
    align = rng.choice(("left", "center"))
    head: tuple[Block, ...] = (
        Heading(rng.choice(TITLES), 1, align, key="title"),
        *((Lines((values.company(),), align, key="organisation"),) if draw.coin() else ()),
        KeyValues((number,)),
    )
    pairs = [pair for pair in form_pairs(draw) if draw.coin(0.75)] or [Pair("date", "Date", values.date())]
    rng.shuffle(pairs)
    parts = rng.randint(1, 3)
    size = -(-len(pairs) // parts)
    boxed, columns = draw.coin(0.6), rng.choice((1, 2, 2, 3))
    body: list[Block] = []
    for start, title in zip(range(0, len(pairs), size), rng.sample(SECTIONS, parts), strict=False):
        chosen = tuple(pairs[start : start + size])
        if parts > 1:
            body.append(Heading(title, 3))
        body.append(KeyValues(chosen, columns if boxed else min(columns, 2), boxed, suffix=":" if not boxed else ""))
    if draw.coin(0.6):
        body.append(draw.paragraph(1, 3))
    body.append(
        KeyValues(
            (Pair("place", "Place", values.city()), Pair("signed_on", rng.choice(("Signed on", "Date")), values.date()))
        )
    )
    return PageTree("form", values.locale.code, draw.style(), head, tuple(body))


def form_pairs(draw: Draw) -> list[Pair]:
    """All the fields that a form may have, filled in for one person."""
    rng, values = draw.rng, draw.values
    first, last = values.first_name(), values.last_name()
    return [
        Pair("last_name", rng.choice(("Last name", "Surname", "Family name")), last),
        Pair("first_name", rng.choice(("First name", "Given name")), first),
        Pair("birth_date", rng.choice(("Date of birth", "Born")), values.date(1930, 1997)),
        Pair("street", rng.choice(("Street", "Address")), values.street()),
        Pair("town", rng.choice(("Town", "Postcode, town", "City")), values.town()),
        Pair("phone", rng.choice(("Phone", "Telephone", "Mobile")), values.phone()),
        Pair("email", rng.choice(("E-mail", "Email")), values.email(f"{first} {last}")),
        Pair("employer", rng.choice(("Employer", "Company")), values.company()),
        Pair("occupation", rng.choice(("Occupation", "Position", "Job title")), rng.choice(words.JOB_TITLES)),
        Pair(*values.account()),
        Pair("amount", rng.choice(("Amount", "Fee", "Deposit")), values.money(rng.randint(500, 900_000))),
        Pair("customer_number", rng.choice(("Customer no.", "Member no.", "ID")), values.code()),
        Pair("item", rng.choice(("Item", "Article", "Product")), rng.choice(words.PRODUCTS)),
        Pair("serial_number", rng.choice(("Serial no.", "Serial number")), values.code("AA99999999")),
        Pair("start_date", rng.choice(("From", "Start", "Valid from")), values.date()),
        Pair("time", "Time", values.time()),
        Pair("choice", rng.choice(("Newsletter", "Insured", "First visit", "Resident")), choice(draw)),
    ]


def choice(draw: Draw) -> str:
    """Yes and no with a cross at one of them, as typed on forms."""
    yes, no = MARKS if draw.coin() else MARKS[::-1]
    return f"{yes} yes {no} no"
