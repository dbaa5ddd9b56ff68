"""What documents say: sums, splits, characters; checked on the JSON, as a user would."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from random import Random

import pytest

from parsit.synth.content import KINDS, check_kinds, make_document
from parsit.synth.sentences import article, plural
from parsit.synth.settings import SynthSettings
from parsit.synth.split import Fractions, Texts, normalise
from parsit.synth.tree import ListBlock, PageTree, Paragraph, Table, flat_blocks, leaves
from parsit.synth.truth import questions, to_fields, to_markdown
from parsit.synth.words import CHARACTERS
from parsit.types import UsageError

FRACTIONS = Fractions(0.1, 0.1)


def documents(kind: str, count: int, split: str = "train") -> list[PageTree]:
    return [make_document(kind, Random(f"{kind}/{split}/{n}"), Texts(FRACTIONS, split)) for n in range(count)]


def cents(printed: str) -> int:
    """Hundredths, whatever the currency and the marks: amounts are printed with two decimals."""
    digits = int(re.sub(r"\D", "", printed))
    return -digits if printed.startswith("-") else digits


def test_invoices_add_up():
    for document in documents("invoice", 80):
        fields = json.loads(to_fields(document))
        for item in fields["items"]:
            assert int(item["quantity"]) * cents(item["unit_price"]) == cents(item["amount"])
        assert sum(cents(item["amount"]) for item in fields["items"]) == cents(fields["subtotal"])
        parts = [cents(fields[key]) for key in ("subtotal", "discount", "tax") if key in fields]
        assert sum(parts) == cents(fields["total"])


def test_receipts_add_up():
    for document in documents("receipt", 80):
        fields = json.loads(to_fields(document))
        assert sum(cents(item["amount"]) for item in fields["items"]) == cents(fields["total"])
        if "cash" in fields:
            assert cents(fields["cash"]) - cents(fields["total"]) == cents(fields["change"]) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_only_known_characters_are_printed(kind: str):
    printed = {char for document in documents(kind, 40) for leaf in leaves(document) for char in leaf.text}
    assert printed <= CHARACTERS


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_name_is_used_twice_and_cells_hold_no_pipe(kind: str):
    for document in documents(kind, 40):
        fields = json.loads(to_fields(document), object_pairs_hook=lambda pairs: pairs)
        names = [name for name, _ in fields]
        assert len(names) == len(set(names))
        tables = [block for block in flat_blocks(document) if isinstance(block, Table)]
        assert "|" not in "".join(cell for table in tables for row in table.rows for cell in row)


def test_a_manual_prints_every_character_of_a_keyboard():
    printed = {char for document in documents("manual", 100) for leaf in leaves(document) for char in leaf.text}
    assert printed >= set(map(chr, range(33, 127))) | set("—‘’…©")


def test_a_seed_gives_the_pages_that_it_gave():
    assert SynthSettings(Path("set"), 1).kinds == ("letter", "invoice", "report", "table", "form", "receipt")


def test_sentences_and_pages_belong_to_one_split():
    sentences: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    truths: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for split in sentences:
        for kind in KINDS:
            for document in documents(kind, 25, split):
                for block in flat_blocks(document):
                    texts = block.sentences if isinstance(block, Paragraph) else ()
                    texts += block.items if isinstance(block, ListBlock) else ()
                    assert {FRACTIONS.split_of(text) for text in texts} <= {split}
                    sentences[split] |= set(map(normalise, texts))
                truths[split] |= {normalise(to_markdown(document)), normalise(to_fields(document))}
    for texts in (sentences, truths):
        assert min(map(len, texts.values())) >= 100
        assert not texts["train"] & texts["validation"]
        assert not texts["train"] & texts["test"]
        assert not texts["validation"] & texts["test"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_has_a_question_of_its_split(kind: str):
    texts = Texts(FRACTIONS, "test")
    for document in documents(kind, 20, "test"):
        assert any(texts.owns(item.answer) for item in questions(document))


def test_pages_differ():
    pages = [to_markdown(document) for kind in KINDS for document in documents(kind, 30)]
    assert len(set(pages)) == len(pages)


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown kind 'leter'; did you mean letter\?"):
        check_kinds(["leter"])
    for wrong in ([], ["form", "form"]):
        with pytest.raises(UsageError, match="one or more different kinds"):
            check_kinds(wrong)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("city", "cities"),
        ("day", "days"),
        ("box", "boxes"),
        ("shelf", "shelves"),
        ("analysis", "analyses"),
        ("church", "churches"),
    ],
)
def test_plurals(noun: str, expected: str):
    assert plural(noun) == expected


def test_articles():
    assert [article(word) for word in ("old", "unique", "unusual", "grey", "useful")] == ["an", "a", "an", "a", "a"]


def pairs_of(kind: str) -> list[dict[str, str]]:
    """Label and value of every field of many documents of a kind, with their first title."""
    texts = Texts(Fractions(0.0, 0.0), "train")
    made = []
    for number in range(300):
        document = make_document(kind, Random(f"fields/{number}"), texts)
        fields = {key: str(value) for key, value in json.loads(to_fields(document)).items()}
        made.append(fields | {"_markdown": to_markdown(document), "_language": document.language})
    return made


def day_of(text: str) -> date | None:
    """A date that is written in one of the formats that leave no doubt."""
    for form in ("%Y-%m-%d", "%B %d, %Y", "%d %B %Y", "%A %d %B %Y"):
        with suppress(ValueError):
            return datetime.strptime(text, form).date()
    return None


def test_what_is_due_is_due_after_the_day_of_issue_and_weekdays_are_right():
    both = [(day_of(one["invoice_date"]), day_of(one["due_date"])) for one in pairs_of("invoice") if "due_date" in one]
    known = [(issued, due) for issued, due in both if issued and due]
    assert len(known) > 20
    assert all(issued < due for issued, due in known)
    printed = "\n".join(one["_markdown"] for one in pairs_of("invoice"))
    weekdays = re.findall(r"([A-Z][a-z]+day) (\d+) ([A-Z][a-z]+) (\d{4})", printed)
    assert len(weekdays) > 10
    for weekday, *day in weekdays:
        assert f"{datetime.strptime(' '.join(day), '%d %B %Y'):%A}" == weekday


def test_a_credit_note_has_a_number_of_its_own_and_nothing_due():
    notes = [one for one in pairs_of("invoice") if re.search(r"^# Credit note$", one["_markdown"], re.MULTILINE)]
    assert len(notes) > 20
    assert all("credit_note_number" in one and "invoice_number" not in one and "due_date" not in one for one in notes)
    assert not any(re.search(r"^(Invoice (no|num|#)|.*due\b)", one["_markdown"], re.MULTILINE) for one in notes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_american_account_is_no_iban_and_a_page_has_one_first_title(kind):
    made = pairs_of(kind)
    american = [one for one in made if one["_language"] == "en-US"]
    assert len(american) > 20
    assert not any("IBAN" in one["_markdown"] or "iban" in one for one in american)
    assert all(one["_markdown"].count("\n# ") + one["_markdown"].startswith("# ") <= 1 for one in made)
    if kind == "table":
        assert all(re.search("^# ", one["_markdown"], re.MULTILINE) for one in made)
