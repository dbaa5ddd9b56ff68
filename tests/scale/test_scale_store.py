"""Records in parts: whole or not there, known to whoever comes later, each once."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from parsit.scale import store as store_module
from parsit.scale.keys import ReadingSet
from parsit.scale.page_reading import record_of
from parsit.scale.store import Store
from parsit.types import InputError, Page
from process_support import started

SET = ReadingSet("tiny", "abc", "Read.", "page", 100, 150.0)


def record(digest: str, page: int, text: str = "text", page_count: int = 3, error: str = "") -> dict:
    made = record_of(SET, digest, f"{digest}.pdf", page_count, Page(page, text, 10, 20, error=error), {})
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


# Writes a part, and stops where it would force it onto the disk.
WRITER = """
import os, sys, time
from pathlib import Path
from test_scale_store import SET, record
from parsit.scale.store import Store

def stop(_):
    print("writing", flush=True)
    time.sleep(1e6)

store = Store(Path(sys.argv[1]), SET)
store.add(record("a", 1))
os.fsync = stop
store.flush()
"""


@pytest.mark.slow
@pytest.mark.dist
def test_the_draft_of_a_killed_run_is_taken_away_and_that_of_a_live_one_is_not(tmp_path):
    store = Store(tmp_path, SET)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    options = {"stdout": -1, "env": os.environ | {"PYTHONPATH": path}}
    with started([sys.executable, "-c", WRITER, tmp_path], **options) as process:
        assert process.stdout.readline() == "writing\n", process.communicate()
        (draft,) = store.parts.iterdir()
        assert store.clear_drafts() == 0
        assert draft.exists(), "somebody writes it"
        process.send_signal(signal.SIGKILL)
        process.wait()
    (store.parts / ".part-notes").write_text("mine")
    store.add(record("b", 1))
    store.flush()
    assert store.clear_drafts() == 1
    kept = {path.name for path in store.parts.iterdir()}
    assert draft.name not in kept
    assert {name[:5] for name in kept} == {".part", "part-"}
    assert [found["digest"] for found in Store(tmp_path, SET).records()] == ["b"]


def test_a_draft_that_is_taken_away_before_it_is_locked_is_written_again(tmp_path, monkeypatch):
    """What clears drafts may come between a draft's making and its lock."""
    store = Store(tmp_path, SET)
    lock, cleared = store_module.fcntl.flock, []

    def flock(file, how):
        if not cleared:
            cleared.append(0)  # or this would come again, for the lock that clearing takes
            cleared.append(store.clear_drafts())
        lock(file, how)

    monkeypatch.setattr(store_module.fcntl, "flock", flock)
    store.add(record("a", 1))
    store.flush()
    assert cleared == [0, 1]
    assert [path.name[:5] for path in store.parts.iterdir()] == ["part-"]
    assert Store(tmp_path, SET).record("a", 1) == record("a", 1)


@pytest.mark.parametrize("number", range(3))
def test_a_reading_counts_before_a_failure_whichever_part_comes_first(tmp_path, number):
    """The parts' names are hashes: three texts, so that both orders occur."""
    store = Store(tmp_path, SET)
    store.add(record("a", 1, "", error=f"failed {number}"))
    store.flush()
    known = store.known("a")
    assert (known.has([1]), known.has([1], retry_failed=True)) == (True, False)
    assert (known.done(), known.done(retry_failed=True)) == ({1}, frozenset())
    store.add(record("a", 1, f"read {number}"))
    store.flush()
    for seen in (store, Store(tmp_path, SET)):
        assert [found["text"] for found in seen.records()] == [f"read {number}"]
        assert seen.known("a").has([1], retry_failed=True)


def test_what_fails_again_keeps_its_record(tmp_path):
    store = Store(tmp_path, SET)
    for error in ("first", "second"):
        store.add(record("a", 1, "", error=error))
        store.flush()
    assert [found["error"] for found in store.records()] == ["first"]
    assert len(list(store.parts.iterdir())) == 1


def test_a_file_that_could_not_be_opened_counts_as_read_once_all_its_pages_are(tmp_path):
    store = Store(tmp_path, SET)
    store.add(record("a", 0, "", page_count=0, error="is damaged"))
    store.flush()
    known = store.known("a")
    assert (known.has([]), known.has([], retry_failed=True), known.failed_whole([])) == (True, False, True)
    for number in (1, 2):
        store.add(record("a", number, page_count=2))
        store.flush()
        done = number == 2
        assert known.has([1, 2], retry_failed=True) is done
        assert known.failed_whole([1, 2]) is not done
    assert known.has([1, 2])


def test_parts_of_before_failures_were_listed_are_looked_through(tmp_path):
    store = Store(tmp_path, SET)
    store.add(record("a", 1))
    store.add(record("a", 2, "", error="cannot be drawn"))
    store.flush()
    (part,) = store.parts.iterdir()
    first, _, rest = part.read_text().partition("\n")
    header = json.loads(first)
    assert header.pop("failed") == [1]
    part.write_text(f"{json.dumps(header)}\n{rest}")
    known = Store(tmp_path, SET).known("a")
    assert known.done() == {1, 2}
    assert known.done(retry_failed=True) == {1}


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
