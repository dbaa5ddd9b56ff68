"""Whole runs, with real worker processes and real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from parsit.parse.lines import split_lines
from parsit.parse.reader import MAX_LINE_ASPECT
from parsit.synth import SynthSettings, synthesise
from parsit.synth.crops import text_of
from parsit.synth.render import Glyph
from parsit.synth.split import Fractions, normalise
from parsit.types import InputError, UsageError
from process_support import started, wait_until

SPLITS = ("train", "validation", "test")


def records(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def answer(record: dict) -> str:
    return record["conversations"][1]["value"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def lines_settings(tmp_path_factory) -> SynthSettings:
    folder = tmp_path_factory.mktemp("lines")
    return SynthSettings(folder / "one", 40, seed=7, unit="line", validation_fraction=0.2, test_fraction=0.2)


@pytest.fixture(scope="module")
def lines_run(lines_settings) -> Path:
    synthesise(lines_settings)
    return lines_settings.out


@pytest.fixture(scope="module")
def pages_run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "set"
    synthesise(SynthSettings(out, 24, seed=3, dpi=(96, 110), glyphs=True, validation_fraction=0.25, test_fraction=0.25))
    return out


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(lines_settings, lines_run):
    other = replace(lines_settings, out=lines_settings.out.parent / "two", workers=2)
    synthesise(other)
    assert files(lines_run) == files(other.out)


def test_another_seed_gives_other_texts(lines_settings, lines_run):
    other = replace(lines_settings, out=lines_settings.out.parent / "other", seed=8, pages=6)
    synthesise(other)
    first = {normalise(answer(record)) for record in records(lines_run, "train")}
    second = {normalise(answer(record)) for record in records(other.out, "train")}
    assert len(second - first) > len(second) / 2


@pytest.mark.slow
@pytest.mark.parametrize("run", ["lines_run", "pages_run"])
def test_no_answer_is_in_two_splits(run, request):
    folder = request.getfixturevalue(run)
    texts = {split: {normalise(answer(record)) for record in records(folder, split)} for split in SPLITS}
    assert min(map(len, texts.values())) > 5
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]


def test_line_records_are_short_crops_with_a_box_for_each_character(lines_run):
    for split in SPLITS:
        for record in records(lines_run, split):
            text = answer(record)
            assert 0 < len(text) <= 24
            assert text == " ".join(text.split())
            assert record["conversations"][0] == {"from": "human", "value": "<image>\nRead the text."}
            (glyphs,) = record["glyphs"]
            assert "".join(glyph[0] for glyph in glyphs) == text.replace(" ", "")
            with Image.open(lines_run / record["image"]) as image:
                width, height = image.size
            assert 5 < height < 130
            assert width < 900
            for _, x0, y0, x1, y1 in glyphs:
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height


def test_every_image_belongs_to_a_record_and_every_id_is_its_own(lines_run):
    everything = [record for split in SPLITS for record in records(lines_run, split)]
    images = {name for name in files(lines_run) if name.startswith("images/")}
    assert images == {record["image"] for record in everything}
    assert len({record["id"] for record in everything}) == len(everything) == len(images)


@pytest.mark.slow
def test_page_records_have_one_image_for_three_tasks(pages_run):
    everything = [record for split in SPLITS for record in records(pages_run, split)]
    assert len(everything) == 3 * 24
    assert len({record["image"] for record in everything}) == 24
    for record in everything:
        assert record["conversations"][0]["value"].startswith("<image>\n")
        assert record["glyphs"][0]
    kinds = [json.loads(answer(record))["document_type"] for record in everything if record["id"].endswith("fields")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict.fromkeys(
        ("letter", "invoice", "report", "table", "form", "receipt"), 4
    )


def test_reading_holds_the_characters_that_have_boxes(pages_run):
    for record in records(pages_run, "train"):
        if record["id"].endswith("read") and "$$" not in answer(record) and "| ---" not in answer(record):
            printed = "".join(glyph[0] for glyph in record["glyphs"][0])
            written = answer(record).replace("#", "")
            assert printed.replace("#", "") == "".join(written.split())


def test_question_answers_are_in_the_reading(pages_run):
    for split in SPLITS:
        found = {record["id"]: answer(record) for record in records(pages_run, split)}
        questions = [identifier for identifier in found if identifier.endswith("-qa")]
        assert questions
        for identifier in questions:
            assert Fractions(0.25, 0.25).split_of(found[identifier]) == split
            assert found[identifier] in found[identifier.removesuffix("qa") + "read"]


def test_tasks_and_glyphs_are_chosen(tmp_path, pages_run):
    settings = SynthSettings(
        tmp_path / "set", 4, seed=3, tasks=("fields",), dpi=(96, 110), validation_fraction=0.25, test_fraction=0.25
    )
    counts = synthesise(settings)
    assert (counts.pages, counts.records) == (4, 4)
    made = [record for split in SPLITS for record in records(tmp_path / "set", split)]
    assert all("glyphs" not in record for record in made)
    before = {record["id"]: record for split in SPLITS for record in records(pages_run, split)}
    kept = [record for record in made if record["id"] in before]
    assert len(kept) == 4
    for record in kept:
        earlier = dict(before[record["id"]])
        del earlier["glyphs"]
        assert record == earlier


def test_summary_holds_settings_versions_and_counts(lines_settings, lines_run):
    summary = json.loads((lines_run / "synth.json").read_text())
    assert summary["settings"]["seed"] == 7
    assert summary["settings"]["max_chars"] == 24
    assert not {"out", "workers"} & set(summary["settings"])
    assert set(summary["versions"]) == {"parsit", "typst", "pypdfium2", "pillow", "numpy"}
    assert summary["counts"]["records_by_split"] == {split: len(records(lines_run, split)) for split in SPLITS}
    pages = summary["counts"]["pages_by_split"]
    assert sum(pages.values()) == 40
    assert pages == pytest.approx({"train": 24, "validation": 8, "test": 8}, abs=1)


def test_short_crops_and_undamaged_pngs(tmp_path):
    settings = SynthSettings(
        tmp_path / "set", 2, unit="line", max_chars=6, degrade="none", kinds=("receipt",), dpi=(96, 96)
    )
    synthesise(settings)
    made = records(tmp_path / "set", "train")
    assert made
    assert max(len(answer(record)) for record in made) <= 6
    assert {Path(record["image"]).suffix for record in made} == {".png"}


def test_a_target_that_exists_stays_unless_it_is_to_be_overwritten(tmp_path):
    settings = SynthSettings(tmp_path / "set", 1, kinds=("receipt",))
    synthesise(settings)
    before = files(settings.out)
    with pytest.raises(InputError, match="exists: choose another --out, or add --overwrite"):
        synthesise(replace(settings, seed=1))
    assert files(settings.out) == before
    synthesise(replace(settings, seed=1, overwrite=True))
    assert files(settings.out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_overwrite_never_replaces_a_folder_that_is_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"has no synth\.json"):
        synthesise(SynthSettings(tmp_path, 1, overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pages": 0}, "--pages"),
        ({"seed": -1}, "--seed"),
        ({"workers": 0}, "--workers"),
        ({"max_chars": 0}, "--max_chars"),
        ({"kinds": ("leter",)}, "--kinds"),
        ({"tasks": ("reed",)}, "--tasks"),
        ({"tasks": ()}, "--tasks"),
        ({"dpi": (200, 96)}, "--dpi"),
        ({"dpi": (96, 5000)}, "--dpi"),
        ({"validation_fraction": 0.6}, "--validation_fraction"),
        ({"test_fraction": 0.001}, "--test_fraction"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, change, message):
    settings = SynthSettings(**{"out": tmp_path / "set", "pages": 1} | change)
    with pytest.raises(UsageError, match=message):
        synthesise(settings)
    assert not list(tmp_path.iterdir())


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def long_run(tmp_path):
    """A run with two workers that has already written an image and would go on for hours."""
    command = [sys.executable, "-m", "parsit.cli", "data", "synth", "--out", str(tmp_path / "set"), "--pages", "100000"]
    workers: list[int] = []
    try:
        with started([*command, "--workers", "2"]) as process:
            wait_until(lambda: list(tmp_path.glob(".set.*/images/train/*/*")), process)
            workers = workers_of(process)
            yield process, workers
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.dist
def test_an_interrupted_run_leaves_nothing(tmp_path, long_run):
    process, _ = long_run
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "parsit: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.dist
def test_a_killed_worker_ends_the_run_with_one_line(tmp_path, long_run):
    process, workers = long_run
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("parsit: a worker process was killed (out of memory?): ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.dist
def test_workers_end_with_a_parent_that_was_killed(long_run):
    process, workers = long_run
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(alive(pid) for pid in workers):  # pytest's time limit ends a worker that outlives its parent
        time.sleep(0.1)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def reader_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader") / "set"
    kinds = ("letter", "invoice", "form")
    synthesise(SynthSettings(folder, 9, seed=2, unit="line", cut="reader", degrade="none", dpi=(110, 150), kinds=kinds))
    return folder


@pytest.mark.slow
def test_crops_for_the_reader_are_what_parse_cuts_out_of_the_page(reader_run, tmp_path):
    """The same page without damage, cut by the reader itself: every crop is one of its pieces, to the pixel."""
    settings = SynthSettings(tmp_path / "page", 9, seed=2, degrade="none", dpi=(110, 150), tasks=("read",),
                             kinds=("letter", "invoice", "form"))  # fmt: skip
    synthesise(settings)
    pieces = set()
    for path in (tmp_path / "page" / "images" / "train").rglob("*.png"):
        with Image.open(path) as page:
            boxes = split_lines(page.convert("RGB"), max_aspect=MAX_LINE_ASPECT)
            pieces |= {page.convert("RGB").crop(box).tobytes() for box in boxes}
    made = records(reader_run, "train")
    assert len(made) > 100
    for record in made:
        with Image.open(reader_run / record["image"]) as crop:
            assert crop.convert("RGB").tobytes() in pieces


def test_crops_for_the_reader_have_their_text_and_boxes(reader_run):
    made = records(reader_run, "train")
    joined = " ".join(answer(record) for record in made)
    for record in made:
        (glyphs,) = record["glyphs"]
        assert "".join(glyph[0] for glyph in glyphs) == answer(record).replace(" ", "")
        assert [glyph[1] for glyph in glyphs] == sorted(glyph[1] for glyph in glyphs)
    assert any(len(answer(record)) > 18 for record in made)
    assert joined.count(" ") > 200


def test_turned_crops_for_the_reader_keep_the_whole_line(tmp_path):
    settings = SynthSettings(tmp_path / "set", 2, unit="line", cut="reader", kinds=("letter",), dpi=(150, 150), seed=4)
    synthesise(settings)
    for record in records(tmp_path / "set", "train"):
        with Image.open(tmp_path / "set" / record["image"]) as crop:
            for _, x0, y0, x1, y1 in record["glyphs"][0]:
                assert 0 <= y0 < y1 <= crop.height
                assert 0 <= x0 < x1 <= crop.width


def test_words_that_touch_are_one_and_others_are_apart():
    def word(text, x0):
        return [Glyph(letter, x0 + 10 * i, 0, x0 + 10 * i + 10, 20) for i, letter in enumerate(text)]

    assert text_of([word("ab", 0), word("c", 20.5), word("d", 36)]) == "abc d"
