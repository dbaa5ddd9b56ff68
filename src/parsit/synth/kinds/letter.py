"""A business letter: letterhead, addressee, reference and date, subject, paragraphs, signature."""

from __future__ import annotations

from parsit.synth import words
from parsit.synth.draw import Draw
from parsit.synth.tree import Block, Heading, KeyValues, Lines, ListBlock, PageTree, Pair, Rule, SideBySide

CLOSINGS = ("Yours sincerely,", "Yours faithfully,", "Kind regards,", "Best regards,", "With best wishes,", "Regards,")
REFERENCES = ("Our ref.", "Reference", "Ref.", "File no.", "Our reference", "Case")


def make(draw: Draw) -> PageTree:
    """One letter."""
    rng, values = draw.rng, draw.values
    company, recipient, writer = values.company(), values.person(), values.person()
    greeting = rng.choice(
        (f"Dear {recipient},", "Dear Sir or Madam,", f"Dear Ms {values.last_name()},", "Dear customer,")
    )
    body: list[Block] = [draw.paragraph(1, 4, letter=True) for _ in range(rng.randint(2, 5))]
    if draw.coin(0.25):
        body.insert(rng.randint(1, len(body)), bullet_list(draw))
    closing = Lines((rng.choice(CLOSINGS), writer, rng.choice(words.JOB_TITLES)), key="signature")
    return PageTree(
        kind="letter",
        language=values.locale.code,
        style=draw.style(),
        head=(*letterhead(draw, company), *addressee(draw, recipient)),
        body=(
            Heading(draw.title(), level=3, key="subject"),
            Lines((greeting,), key="greeting"),
            *body,
            closing,
            *(footer(draw) if draw.coin(0.4) else ()),
        ),
    )


def letterhead(draw: Draw, company: str) -> tuple[Block, ...]:
    """The sender's block, on either side, sometimes with contacts and a rule."""
    values = draw.values
    lines = values.address(company)
    if draw.coin(0.6):
        lines += (draw.rng.choice((values.phone(), f"Tel. {values.phone()}", f"Phone: {values.phone()}")),)
    if draw.coin(0.5):
        lines += (draw.rng.choice((values.email(company), values.web())),)
    block = Lines(lines, draw.rng.choice(("left", "right", "center")), draw.coin(0.6), key="sender")
    return (block, Rule()) if draw.coin(0.4) else (block,)


def addressee(draw: Draw, recipient: str) -> tuple[Block, ...]:
    """To whom, when and under which reference."""
    values = draw.values
    lines = (draw.values.company(),) if draw.coin(0.3) else ()
    to = Lines((*lines, *values.address(recipient)), key="recipient")
    pairs = KeyValues(
        (
            Pair("reference", draw.rng.choice(REFERENCES), draw.reference()),
            Pair("date", "Date", values.date()),
        )
    )
    return (SideBySide(to, pairs),) if draw.coin() else (to, pairs)


def bullet_list(draw: Draw) -> ListBlock:
    """Two to five list items under one kind of marker."""
    items = tuple(draw.item() for _ in range(draw.rng.randint(2, 5)))
    kind = draw.rng.choice(("•", "–", "1.", "a)", "(1)"))
    numbers = range(1, len(items) + 1)
    markers = {
        "1.": [f"{n}." for n in numbers],
        "(1)": [f"({n})" for n in numbers],
        "a)": [f"{chr(96 + n)})" for n in numbers],
    }.get(kind, [kind] * len(items))
    return ListBlock(items, tuple(markers))


def footer(draw: Draw) -> tuple[Block, ...]:
    """Bank details in small type."""
    values = draw.values
    _, label, number = values.account()
    return (
        Rule(),
        Lines((f"{values.company()}, {label} {number}",), "center", scale=0.8, key="bank"),
    )
