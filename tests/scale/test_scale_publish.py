"""Results from records: files, Dolma's JSONL, Parquet."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from parsit.scale import parquet, publish
from parsit.scale.inputs import Source
from parsit.scale.keys import ReadingSet
from parsit.scale.page_reading import record_of
from parsit.scale.publish import FileResult, dolma_document, file_results, result_path
from parsit.scale.reading import Reading
from parsit.scale.store import Store
from parsit.types import Confidence, Line, Page

SET = ReadingSet("tiny", "abc", "Read.", "page", 100, 150.0)
TABLE = '<table>\n<tr><td colspan="2">wide</td></tr>\n<tr><td>a</td><td>b</td></tr>\n</table>'
PAGES = [
    Page(1, "first ü", 10, 20, ("retried",), 1.5, confidence=Confidence(0.5, 0.25)),
    Page(2, TABLE, 10, 20, lines=(Line("line", (1, 2, 3, 4), (), Confidence(0.5, 0.25)),)),
    Page(3, "", 10, 20, ("failed",), error="cannot be drawn"),
]


@pytest.fixture
def store(tmp_path) -> Store:
    """A file of three pages, and one that cannot be opened."""
    store = Store(tmp_path, SET)
    for page in PAGES:
        facts = {"num_tokens": page.number, "num_prompt_tokens": 10, "rotation": 180 if page.number == 1 else 0}
        store.add(record_of(SET, "d1", "elsewhere.pdf", 3, page, facts))
    store.add(record_of(SET, "d2", "bad.pdf", 0, Page(0, "", 0, 0, ("failed",), error="is damaged"), {}))
    store.flush()
    return store


SOURCES = [Source(name, name) for name in ("in/a.pdf", "bad.pdf", "gone.pdf")]
READING = Reading({"in/a.pdf": "d1", "bad.pdf": "d2"}, {"gone.pdf": "cannot be read"})


def published(store: Store, form: str, tables="as-read", selection: str | None = None) -> list[FileResult]:
    return list(publish.publish(file_results(SOURCES, READING, store, selection), store, form, tables))


def test_each_file_has_its_result_and_what_failed_is_told(store):
    failures = [failure for result in published(store, "md") for failure in result.failures()]
    assert [(one.name, one.page, one.reason) for one in failures] == [
        ("in/a.pdf", 3, "cannot be drawn"),
        ("bad.pdf", 0, "is damaged"),
        ("gone.pdf", 0, "cannot be read"),
    ]
    assert [path.name for path in (store.folder / "md").rglob("*.md")] == ["a.pdf.md"]
    text = (store.folder / "md" / "in" / "a.pdf.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- page 1 (retried) -->\n\nfirst ü\n")
    published(store, "txt")
    assert (store.folder / "txt" / "in" / "a.pdf.txt").read_text(encoding="utf-8").count("\f") == 2


def test_pages_stand_in_the_order_that_was_asked_for(store):
    published(store, "md", selection="2,1")
    text = (store.folder / "md" / "in" / "a.pdf.md").read_text(encoding="utf-8")
    assert text.index("wide") < text.index("first")
    assert "page 3" not in text


def test_tables_are_written_as_asked_for(store):
    published(store, "md", tables="markdown")
    assert "| wide |  |\n| --- | --- |\n| a | b |" in (store.folder / "md" / "in" / "a.pdf.md").read_text("utf-8")
    published(store, "md", tables="html")
    assert TABLE in (store.folder / "md" / "in" / "a.pdf.md").read_text("utf-8")


def test_json_has_all_that_is_known(store):
    published(store, "json")
    a = json.loads((store.folder / "json" / "in" / "a.pdf.json").read_text("utf-8"))
    assert (a["source"], a["digest"], a["model_digest"], a["set"]) == ("in/a.pdf", "d1", "abc", SET.id)
    first, second, third = a["pages"]
    assert (first["confidence"], first["seconds"], first["flags"]) == ({"mean": 0.5, "lowest": 0.25}, 1.5, ["retried"])
    assert (first["key"], first["rotation"]) == (SET.key("d1", 1), 180)
    assert (second["lines"][0]["box"], second["tables"]) == ([1, 2, 3, 4], [TABLE])
    assert third["error"] == "cannot be drawn"
    assert json.loads((store.folder / "json" / "gone.pdf.json").read_text("utf-8"))["error"] == "cannot be read"


def test_jsonl_is_dolmas_as_olmocr_writes_it(store):
    published(store, "jsonl")
    lines = (store.folder / "results" / "output_00000.jsonl").read_text("utf-8").splitlines()
    a, bad, _ = map(json.loads, lines)
    assert set(a) == {"id", "text", "source", "added", "created", "metadata", "attributes"}
    spans = a["attributes"]["pdf_page_numbers"]
    assert [a["text"][start:end] for start, end, _ in spans] == ["first ü\n", f"{TABLE}\n", ""]
    assert [number for _, _, number in spans] == [1, 2, 3]
    assert {len(values) for values in a["attributes"].values()} == {3}
    assert (a["attributes"]["rotation_correction"], a["attributes"]["is_table"]) == ([180, 0, 0], [False, True, False])
    counts = {"pdf-total-pages": 3, "total-input-tokens": 30, "total-output-tokens": 6, "total-fallback-pages": 1}
    assert counts.items() <= a["metadata"].items()
    assert (a["metadata"]["Source-File"], a["metadata"]["errors"]) == ("in/a.pdf", {"3": "cannot be drawn"})
    assert (bad["text"], bad["metadata"]["errors"]) == ("", {"0": "is damaged"})


def test_jsonl_comes_in_files_and_a_smaller_pile_leaves_none_of_a_larger_one(store, monkeypatch):
    monkeypatch.setattr(publish, "DOCUMENTS_A_FILE", 1)
    published(store, "jsonl")
    assert len(list((store.folder / "results").iterdir())) == 3
    monkeypatch.setattr(publish, "DOCUMENTS_A_FILE", 2)
    published(store, "jsonl")
    assert len(list((store.folder / "results").iterdir())) == 2


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_parquet_has_a_row_a_page(store, monkeypatch, rows):
    monkeypatch.setattr(parquet, "GROUP_ROWS", rows)
    monkeypatch.setattr(parquet, "ROWS_A_FILE", 2 * rows)
    published(store, "parquet")
    table = [
        row
        for path in sorted((store.folder / "parquet").iterdir())
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    assert [(row["source"], row["page"], row["error"]) for row in table] == [
        ("in/a.pdf", 1, ""),
        ("in/a.pdf", 2, ""),
        ("in/a.pdf", 3, "cannot be drawn"),
        ("bad.pdf", 0, "is damaged"),
        ("gone.pdf", 0, "cannot be read"),
    ]
    assert table[0]["confidence"] == {"mean": 0.5, "lowest": 0.25}
    assert table[1]["lines"][0]["box"] == [1, 2, 3, 4]


def test_a_lone_surrogate_goes_into_every_form(tmp_path):
    store = Store(tmp_path, SET)
    store.add(record_of(SET, "d", "a\udc80.png", 1, Page(1, "x\udc80", 1, 1), {}))
    store.flush()
    sources, reading = [Source("a\udc80.png", "")], Reading({"a\udc80.png": "d"})
    for form in publish.FORMATS:
        list(publish.publish(file_results(sources, reading, store, None), store, form))
    assert json.loads((store.folder / "results" / "output_00000.jsonl").read_text("utf-8"))["text"] == "x\udc80"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.pdf", "a/b.pdf.md"),
        ("./a/b.pdf", "a/b.pdf.md"),
        ("/data/x/b.pdf", "data/x/b.pdf.md"),
        ("p.tar::in/b.png", "p.tar/in/b.png.md"),
    ],
)
def test_where_a_result_goes(name, expected):
    assert result_path(name, "md") == Path(expected)


def test_no_result_goes_upwards_and_long_names_are_shortened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    above = result_path("../x/b.pdf", "md")
    assert above.parts[-2:] == ("x", "b.pdf.md")
    assert ".." not in above.parts
    assert ".." not in result_path("a.tar::../../etc/b.png", "md").parts
    long, other = (result_path("ü" * 120 + end, "md").name for end in ("a.pdf", "b.pdf"))
    assert len(long.encode()) < 250
    assert long != other


def test_an_empty_file_is_a_document(store):
    document = dolma_document(FileResult("a.pdf", "d", 0, (), "is damaged"), "2030-01-01")
    assert (document["text"], document["added"]) == ("", "2030-01-01")
