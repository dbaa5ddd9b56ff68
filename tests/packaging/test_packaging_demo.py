"""The demo's training ends when its time is up, with what it has; its delivery notes are what their records say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from parsit import hf
from parsit.parse.lines import split_lines
from parsit.train import find_newest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """The script as a module, in an empty folder."""
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("demo", SCRIPTS / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    yield module
    sys.modules.pop("dot_matrix", None)


@pytest.fixture
def data(demo) -> Path:
    demo.verb("data", "synth", "--out", "data", "--pages", "4", "--unit", "line", "--workers", "1")
    return Path("data/train.jsonl")


@pytest.fixture
def model(mini, tmp_path) -> str:
    processor = hf.new_processor(mini)
    hf.new_model(mini, processor, 0).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.slow
def test_training_stops_when_its_time_is_up_and_is_saved(demo, data, model, tmp_path):
    entries = demo.fine_tune(model, [data], Path("run"), 100_000, 2.0)
    assert 0 < len(entries) < 100_000
    assert find_newest(tmp_path / "run", warn=print).name == f"checkpoint-{len(entries)}"
    (note,) = demo.cut_short(len(entries), 100_000)
    assert f"at step {len(entries)} of 100000" in note


@pytest.mark.slow
def test_training_that_ends_in_time_is_left_alone(demo, data, model):
    assert len(demo.fine_tune(model, [data], Path("run"), 2, 600.0)) == 2
    assert demo.cut_short(2, 2) == ()


def test_an_interrupt_of_the_users_is_not_swallowed(demo):
    with pytest.raises(KeyboardInterrupt), demo.time_limit(600.0):
        raise KeyboardInterrupt


def test_crops_of_notes_are_what_their_records_say(demo, tmp_path):
    texts = ["Nails 50", "35.20", "Grüße", "24 x Hinge", "35.20"]
    records = [{"conversations": [{}, {"value": text}]} for text in texts]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    written = demo.write_crops(tmp_path / "test.jsonl", 10)
    made = [json.loads(line) for line in written.read_text().splitlines()]
    assert sorted(demo.texts_of(written)) == ["24 x Hinge", "35.20", "Nails 50"]
    for record in made:
        with Image.open(tmp_path / record["image"]) as image:
            text = record["conversations"][1]["value"]
            assert 9 < image.width / len(text) < 22  # six dots of 2.0 to 2.6 pixels, and paper
            assert 20 <= image.height <= 44
            assert np.asarray(image).min() < 140


def test_a_note_is_found_line_by_line(demo, tmp_path):
    texts = ["Nails 50", "35.20", "24 x Hinge", "a text that is too long to stand in one column", "kg 12"]
    truth = demo.write_note(tmp_path / "note.png", texts)
    assert truth.splitlines() == ["DELIVERY NOTE", "Nails 50", "35.20", "24 x Hinge", "kg 12"]
    with Image.open(tmp_path / "note.png") as image:
        assert len(split_lines(image)) == 5


def test_dots_are_where_the_font_has_them(demo):
    from dot_matrix import ROW_HEIGHT, Printer, print_rows

    image = print_rows(["I", "", "I"], Printer(4.0, 0.5, 0, 255, 0.0), Random(0))
    rows = np.flatnonzero((np.asarray(image) < 128).any(axis=1)) / 4.0 - 3
    assert 2 <= rows.min() <= 4
    assert 2 * ROW_HEIGHT < rows.max() < 2 * ROW_HEIGHT + 11
    assert not ((rows > 12) & (rows < 2 * ROW_HEIGHT)).any()
