"""A document written out by hand: its Markdown, its JSON and its questions are known beforehand."""

from __future__ import annotations

import json

from parsit.synth.tree import (
    Column,
    Formula,
    Fraction,
    Heading,
    KeyValues,
    Lines,
    ListBlock,
    PageTree,
    Pair,
    Paragraph,
    Rule,
    Script,
    Sequence,
    SideBySide,
    Style,
    Symbol,
    Table,
    leaves,
)
from parsit.synth.truth import questions, to_fields, to_latex, to_markdown

DOCUMENT = PageTree(
    kind="invoice",
    language="de",
    style=Style(),
    head=(
        Heading("Bill", 1, key="title"),
        SideBySide(
            Lines(("Ann Roß", "1 Main St"), key="buyer"),
            KeyValues((Pair("number", "No.", "A-7"), Pair("date", "Date", "3.4.2020"))),
        ),
        Rule(),
    ),
    body=(
        Table(
            (Column("item", "Item"), Column("price", "Price", True)),
            (("Soap", "1,50"), ("Wax", "2,00")),
            key="items",
        ),
        KeyValues((Pair("total", "Total", "3,50 €"),), suffix="", spread=True),
        Paragraph(("Pay soon.", "It is due.")),
        ListBlock(("one thing", "another"), ("a)", "b)")),
        Formula(Sequence((Symbol("x"), Symbol("="), Fraction(Symbol("1"), Script(Symbol("y"), upper=Symbol("2")))))),
        Heading("End", 2, key="sections"),
    ),
)

MARKDOWN = """\
# Bill

Ann Roß
1 Main St

No.: A-7
Date: 3.4.2020

| Item | Price |
| --- | ---: |
| Soap | 1,50 |
| Wax | 2,00 |

Total 3,50 €

Pay soon. It is due.

a) one thing
b) another

$$x = \\frac{1}{y^{2}}$$

## End"""


def test_markdown_is_the_page_in_reading_order():
    assert to_markdown(DOCUMENT) == MARKDOWN


def test_fields_are_values_as_printed():
    assert json.loads(to_fields(DOCUMENT)) == {
        "document_type": "invoice",
        "title": "Bill",
        "buyer": ["Ann Roß", "1 Main St"],
        "number": "A-7",
        "date": "3.4.2020",
        "items": [{"item": "Soap", "price": "1,50"}, {"item": "Wax", "price": "2,00"}],
        "total": "3,50 €",
        "sections": ["End"],
    }


def test_questions_have_their_answers():
    answers = {item.question: item.answer for item in questions(DOCUMENT)}
    assert answers == {
        "What is the title?": "Bill",
        "What is the value of “No.”?": "A-7",
        "What is the value of “Date”?": "3.4.2020",
        "What is the value of “Total”?": "3,50 €",
        "What is in the column “Price” for “Soap”?": "1,50",
        "What is in the column “Price” for “Wax”?": "2,00",
        "What does item 1 of the list say?": "one thing",
        "What does item 2 of the list say?": "another",
        "What is the first full sentence of the text?": "Pay soon.",
        "What is the last full sentence of the text?": "It is due.",
    }


def test_a_question_with_two_answers_is_not_asked():
    twice = KeyValues((Pair("a", "Date", "1.1.2001"), Pair("b", "Date", "2.2.2002"), Pair("c", "Time", "9:00")))
    assert [item.answer for item in questions(PageTree("form", "de", Style(), (twice,)))] == ["9:00"]


def test_two_tables_keep_both_their_rows():
    table = Table((Column("a", "A"),), (("1",),))
    fields = json.loads(to_fields(PageTree("report", "de", Style(), (table, table))))
    assert fields["rows"] == fields["rows_2"] == [{"a": "1"}]


def test_leaves_are_all_printed_text():
    texts = [leaf.text for leaf in leaves(DOCUMENT)]
    assert texts[:7] == ["Bill", "Ann Roß", "1 Main St", "No.:", "A-7", "Date:", "3.4.2020"]
    assert texts[7:13] == ["Item", "Price", "Soap", "1,50", "Wax", "2,00"]
    assert [leaf.opaque for leaf in leaves(DOCUMENT)].count(True) == 1


def test_latex_has_scripts_and_fractions():
    script = Script(Symbol("a"), upper=Symbol("3"), lower=Symbol("1"))
    assert to_latex(Fraction(script, Symbol("b"))) == "\\frac{a_{1}^{3}}{b}"
