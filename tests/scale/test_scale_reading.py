"""A pile through one engine: every page once, windows across files, going on, failures."""

import json
import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from pile_support import records_of, write_page, write_pile

from parsit.scale.cluster import BlockReader, ClusterJob
from parsit.scale.drawing import Drawing
from parsit.scale.inputs import sources_of
from parsit.scale.page_reading import record_of
from parsit.scale.publish import file_results
from parsit.scale.reading import WINDOW, PileReader
from parsit.scale.store import Store
from parsit.scale.workers import Request, Workers
from parsit.types import Page, ParsitError

DRAWING = Drawing(dpi=72.0)


class Watched:
    """The real engine, with what it was given."""

    def __init__(self, engine, too_wide: int = 333) -> None:
        self._engine, self.batch_size, self._too_wide = engine, engine.batch_size, too_wide
        self.windows: list[list[tuple[int, int]]] = []

    def generate(self, conversations, **how):
        sizes = [turn.images[0].source.size for (turn,) in conversations]
        self.windows.append(sizes)
        if (self._too_wide, 32) in sizes:
            raise ParsitError("this image is too much")
        return self._engine.generate(conversations, **how)


def read(engine, words, out: Path, reading_set, workers: int = 1, retry_failed: bool = False, too_wide=333, **drawing):
    """Read a pile; gives what was learnt, the progress and the engine's windows."""
    watched = Watched(engine, too_wide)
    store = Store(out, reading_set)
    with PileReader(watched, store, replace(DRAWING, **drawing), workers, retry_failed=retry_failed) as reader:
        learnt = reader.read(sources_of(list(map(str, words))))
        return learnt, reader.progress, watched.windows


@pytest.fixture(scope="module")
def pile(tmp_path_factory) -> Path:
    return write_pile(tmp_path_factory.mktemp("pile"), 20)


@pytest.mark.slow
def test_every_page_is_read_once_in_windows_across_files_and_never_again(engine, pile, tmp_path, reading_set):
    learnt, progress, windows = read(engine, [pile], tmp_path, reading_set)
    records = records_of(tmp_path)
    assert len(learnt.digests) == 22
    assert len({record["key"] for record in records}) == len(records) == 22
    assert sum(bool(record["error"]) for record in records) == 1
    assert (progress.files, progress.pages, progress.failed) == (22, 21, 1)
    assert 0 < progress.busy <= 1
    first = next(window for window in windows if len(window) > 1)
    assert engine.batch_size <= len(first) <= WINDOW * engine.batch_size
    assert len(set(first)) > 1, "pages of several files"

    again, progress, windows = read(engine, [pile], tmp_path, reading_set)
    assert again.digests == learnt.digests
    assert (progress.pages, windows) == (0, [])
    assert records_of(tmp_path) == records


@pytest.mark.slow
def test_what_is_likely_to_be_long_comes_first(engine, tmp_path, reading_set, monkeypatch):
    for number, letters in enumerate((1, 5, 2, 4, 3)):
        write_page(tmp_path / "pile" / f"{number}.png", "m" * letters, 128 + number)
    monkeypatch.setattr(engine, "batch_size", 8)  # more than there are
    _, _, windows = read(engine, [tmp_path / "pile"], tmp_path / "out", replace(reading_set, retry_flagged=False))
    assert [width - 128 for width, _ in windows[0]] == [1, 3, 4, 2, 0]


@pytest.mark.slow
def test_pages_of_many_lines_end_while_others_are_drawn(engine, tmp_path, reading_set):
    """Every line is cut off and tried again, and a page has more of them than four windows."""
    for number in range(4):
        page = Image.new("RGB", (48, 70 * 18), "white")
        for line in range(70):
            ImageDraw.Draw(page).text((4, 18 * line + 3), f"w{number}{line}", fill="black")
        (tmp_path / "pile").mkdir(exist_ok=True)
        page.save(tmp_path / "pile" / f"{number}.png")
    assert 4 * WINDOW * engine.batch_size < 70
    seen = []
    store = Store(tmp_path / "out", replace(reading_set, split="lines"))
    lines = replace(DRAWING, max_line_aspect=9.0)
    with PileReader(engine, store, lines, 1, on_progress=seen.append) as reader:
        reader.read(sources_of([str(tmp_path / "pile")]))
    assert seen[-1].files == seen[-1].pages == 4
    assert max(now.files - now.pages for now in seen) <= 2, [(n.files, n.pages) for n in seen]
    assert all("retried" in record["flags"] for record in records_of(tmp_path / "out"))


@pytest.mark.slow
def test_the_text_is_that_of_a_reader_alone(engine, tmp_path, reading_set):
    from parsit.parse.reader import Reader

    pages = [write_page(tmp_path / "pile" / f"{number}.png", f"w{number}", 64 + 16 * number) for number in range(3)]
    read(engine, [tmp_path / "pile"], tmp_path / "out", replace(reading_set, retry_flagged=False))
    texts = {Path(record["source"]).name: record["text"] for record in records_of(tmp_path / "out")}
    reader = Reader(engine, retry=False)
    for page in pages:
        alone = reader.parse(page, prompt="Read.", max_new_tokens=6, split="page").pages[0].text
        assert texts[page.name] == alone
    assert len(set(texts.values())) > 1


@pytest.mark.slow
def test_the_same_content_twice_is_read_once(engine, tmp_path, reading_set):
    one = write_page(tmp_path / "a.png", "word")
    two = Path(shutil.copy(one, tmp_path / "b.png"))
    learnt, progress, _ = read(engine, [one, two], tmp_path / "out", reading_set)
    assert len(set(learnt.digests.values())) == 1
    assert (progress.files, progress.pages) == (2, 1)
    assert len(records_of(tmp_path / "out")) == 1


@pytest.mark.slow
def test_other_pages_of_a_file_are_added_and_a_long_one_is_drawn_in_turns(engine, tmp_path, reading_set):
    from PIL import Image

    frames = [Image.open(write_page(tmp_path / f"{n}.png", f"p{n}")).convert("L") for n in range(6)]
    frames[0].save(tmp_path / "six.tif", save_all=True, append_images=frames[1:])
    out = tmp_path / "out"
    read(engine, [tmp_path / "six.tif"], out, reading_set, selection="5,2")
    assert sorted(record["page"] for record in records_of(out)) == [2, 5]
    _, progress, _ = read(engine, [tmp_path / "six.tif"], out, reading_set, pages_at_once=2)
    assert progress.pages == 4
    assert sorted(record["page"] for record in records_of(out)) == [1, 2, 3, 4, 5, 6]
    assert {record["page_count"] for record in records_of(out)} == {6}


@pytest.mark.slow
def test_an_image_that_the_engine_refuses_fails_alone(engine, tmp_path, reading_set):
    for number, width in enumerate((64, 333, 80)):
        write_page(tmp_path / "pile" / f"{number}.png", "w", width)
    _, progress, _ = read(engine, [tmp_path / "pile"], tmp_path / "out", reading_set)
    assert progress.failed == 1
    assert [(r["width"], r["error"]) for r in records_of(tmp_path / "out") if r["error"]] == [
        (333, "this image is too much")
    ]


@pytest.mark.slow
def test_what_failed_is_read_again_when_that_is_asked_for_and_nothing_else(engine, tmp_path, reading_set):
    pile, out, reading_set = tmp_path / "pile", tmp_path / "out", replace(reading_set, retry_flagged=False)
    for number, width in enumerate((64, 333, 80)):
        write_page(pile / f"{number}.png", "w", width)
    (pile / "broken.pdf").write_bytes(b"%PDF-1.7 nothing more")
    read(engine, [pile], out, reading_set)
    # What an earlier run could not open, a file that is good: the process that drew it was killed, say.
    good = write_page(pile / "good.png", "good", 96)
    (source,) = sources_of([str(good)])
    store = Store(out, reading_set)
    page = Page(0, "", 0, 0, ("failed",), error="the process that drew it ended")
    store.add(record_of(reading_set, source.digest(), str(good), 0, page, {}))
    store.flush()

    _, progress, windows = read(engine, [pile], out, reading_set, too_wide=0)
    assert (progress.pages, windows) == (0, []), "not unless it is asked for"
    learnt, progress, windows = read(engine, [pile], out, reading_set, too_wide=0, retry_failed=True)
    assert sorted({size for window in windows for size in window}) == [(96, 32), (333, 32)]
    assert (progress.pages, progress.failed) == (2, 1)
    store = Store(out, reading_set)
    results = {Path(result.name).name: result for result in file_results(
        sources_of([str(pile)]), learnt, store, None)}  # fmt: skip
    assert [name for name, result in results.items() if list(result.failures())] == ["broken.pdf"]
    assert [record["page"] for record in results["good.png"].records] == [1]
    _, progress, windows = read(engine, [pile], out, reading_set, too_wide=0, retry_failed=True)
    assert (progress.pages, progress.failed, windows) == (0, 1, []), "what is read by now is not read again"


@pytest.mark.slow
def test_an_actor_reads_again_what_failed(engine, tmp_path, reading_set):
    """The actor's own object: what Ray does with it is in test_scale_ray.py."""
    page = write_page(tmp_path / "1.png", "w", 333)
    read(engine, [page], tmp_path / "out", reading_set)
    block = json.dumps({"number": 0, "sources": [asdict(source) for source in sources_of([str(page)])]})
    for retry_failed, pages in ((False, 0), (True, 1)):
        job = ClusterJob(lambda: Watched(engine, 0), tmp_path / "out", reading_set, DRAWING, 1, retry_failed)
        actor = BlockReader(job)
        (answer,) = actor({"block": [block]})["answer"]
        actor._reader.close()
        assert (json.loads(answer)["pages"], json.loads(answer)["error"]) == (pages, "")
    assert [record["error"] for record in Store(tmp_path / "out", reading_set).records()] == [""]


def test_a_missing_file_is_told_and_is_no_record(engine, tmp_path, reading_set):
    learnt, progress, _ = read(engine, [tmp_path / "missing.png"], tmp_path / "out", reading_set)
    assert list(learnt.unread.values()) == ["cannot be read: No such file or directory"]
    assert (progress.failed, records_of(tmp_path / "out")) == (1, [])


def test_a_fault_of_ours_is_not_taken_for_the_files_and_what_was_read_is_kept(engine, tmp_path, reading_set):
    class Broken(Watched):
        def generate(self, conversations, **how):
            raise RuntimeError("out of memory")

    write_page(tmp_path / "pile" / "1.png", "word")
    (tmp_path / "pile" / "0.pdf").write_bytes(b"%PDF-1.7 nothing more")
    store = Store(tmp_path / "out", reading_set)
    with PileReader(Broken(engine), store, DRAWING, 1) as reader, pytest.raises(RuntimeError, match="out of memory"):
        reader.read(sources_of([str(tmp_path / "pile")]))
    assert [record["page"] for record in records_of(tmp_path / "out")] == [0]


@pytest.mark.slow
def test_a_file_that_kills_what_draws_it_fails_and_the_others_do_not(tmp_path, monkeypatch):
    """The real processes; what kills one is a signal, sent when it draws the file of that name."""
    good, bad = write_page(tmp_path / "good.png", "w"), write_page(tmp_path / "bad.png", "b")
    (good_one, bad_one) = sources_of([str(good), str(bad)])
    bad_digest = bad_one.digest()

    def skip(digest: str) -> frozenset[int]:
        if digest == bad_digest:
            os.kill(workers.pids[-1], signal.SIGKILL)  # it is about to be asked to draw
        return frozenset()

    workers = Workers(DRAWING, 1, skip)
    try:
        monkeypatch.setattr("parsit.scale.workers.TRIES", 1)
        for source in (bad_one, good_one):
            workers.ask(Request(source))
        results = {}
        while workers.in_hand:
            for result in workers.results(wait=True):
                results[result.request.source.name] = result
        assert results[str(bad)].drawn.error == "the process that drew it ended (signal 9)"
        assert results[str(bad)].drawn.is_lasting
        assert len(results[str(good)].drawn.pages) == 1
        monkeypatch.setattr("parsit.scale.workers.TRIES", 2)
        workers.ask(Request(bad_one))
        (result,) = workers.results(wait=True)
        assert len(result.drawn.pages) == 1, "a second process drew it"
    finally:
        workers.close()
