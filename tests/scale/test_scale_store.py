"""Records in parts: whole or not there, known to whoever comes later, each once."""

import json
from dataclasses import replace

import pytest

from parsit.scale import store as store_module
from parsit.scale.keys import ReadingSet
from parsit.scale.page_reading import record_of
from parsit.scale.store import Store
from parsit.types import InputError, Page

SET = ReadingSet("tiny", "abc", "Read.", "page", 100, 150.0)


def record(digest: str, page: int, text: str = "text", page_count: int = 3) -> dict:
    made = record_of(SET, digest, f"{digest}.pdf", page_count, Page(page, text, 10, 20), {})
    return json.loads(json.dumps(made))


def test_what_was_flushed_is_there_for_another_process(tmp_path):
    store = Store(tmp_path, SET)
    for number in (1, 2):
        store.add(record("a", number, "täxt \udc80"))
    assert Store(tmp_path, SET).known("a") is None
    store.flush()
    other = Store(tmp_path, SET)
    known = other.known("a")
    assert (known.page_count, known.has([1, 2]), known.has([1, 2, 3])) == (3, True, False)
    assert other.record("a", 2) == store.record("a", 2) == record("a", 2, "täxt \udc80")
    assert other.record("a", 3) is None


def test_a_part_is_written_when_it_is_full_or_old(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(store_module, "FLUSH_RECORDS", 2)
    store = Store(tmp_path, SET, clock=lambda: now[0])
    store.add(record("a", 1))
    assert not list(tmp_path.rglob("part-*"))
    store.add(record("a", 2))
    assert len(list(tmp_path.rglob("part-*"))) == 1
    now[0] = store_module.FLUSH_EVERY_S
    store.add(record("a", 3))
    assert len(list(tmp_path.rglob("part-*"))) == 2


def test_a_file_that_cannot_be_opened_is_done(tmp_path):
    store = Store(tmp_path, SET)
    store.add(record("a", 0, page_count=0))
    store.flush()
    assert store.known("a").has([1, 2, 3])


def test_parts_of_others_are_learnt(tmp_path):
    one, other = Store(tmp_path, SET), Store(tmp_path, SET)
    one.add(record("a", 1))
    one.flush()
    other.add(record("b", 1))
    other.flush()
    one.refresh()
    assert {found["digest"] for found in one.records()} == {"a", "b"}


def test_a_page_in_two_parts_is_one_record_for_everybody(tmp_path):
    for text in ("first", "second"):
        store = Store(tmp_path / text, SET)
        store.add(record("a", 1, text))
        store.flush()
    seen = []
    for order in (("first", "second"), ("second", "first")):
        store = Store(tmp_path / "-".join(order), SET)
        for text in order:
            (part,) = (tmp_path / text).rglob("part-*.jsonl")
            store.parts.mkdir(exist_ok=True)
            (store.parts / part.name).write_bytes(part.read_bytes())
            store.refresh()
        seen += [[found["text"] for found in store.records()]]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1


def test_a_draft_that_a_kill_left_is_not_looked_at(tmp_path):
    store = Store(tmp_path, SET)
    store.add(record("a", 1))
    store.flush()
    (part,) = store.parts.iterdir()
    (store.parts / f".{part.name}.x1y2z3").write_bytes(part.read_bytes()[:40])
    assert len(list(Store(tmp_path, SET).records())) == 1


def test_another_set_lies_beside(tmp_path):
    for reading_set in (SET, replace(SET, prompt="Else.")):
        store = Store(tmp_path, reading_set)
        assert not list(store.records())
        store.add(record("a", 1))
        store.flush()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b'{"records": [["a", 1]]}\n', b"[]\n"])
def test_a_part_that_is_damaged_is_named(tmp_path, damage):
    store = Store(tmp_path, SET)
    store.parts.mkdir()
    (store.parts / "part-0.jsonl").write_bytes(damage)
    with pytest.raises(InputError, match="its pages are read again"):
        Store(tmp_path, SET)


def test_a_folder_that_is_called_like_the_set_and_is_another_is_refused(tmp_path):
    path = Store(tmp_path, SET).folder / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt": "Else."}))
    with pytest.raises(InputError, match="another set"):
        Store(tmp_path, SET)
    path.write_text("{}")
    with pytest.raises(InputError, match="does not say what this set is"):
        Store(tmp_path, SET)
