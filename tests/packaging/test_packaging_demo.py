"""The demo's training ends when its time is up, with what it has."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from parsit.train import find_newest

pytestmark = pytest.mark.slow


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """The script as a module, in an empty folder."""
    path = Path(__file__).parents[2] / "scripts" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    module.verb("data", "synth", "--out", "data", "--pages", "4", "--unit", "line", "--workers", "1")
    return module


def test_training_stops_when_its_time_is_up_and_is_saved(demo, tmp_path):
    entries = demo.train(Path("data/train.jsonl"), Path("run"), 100_000, 2.0)
    assert 0 < len(entries) < 100_000
    assert find_newest(tmp_path / "run", warn=print).name == f"checkpoint-{len(entries)}"
    (note,) = demo.cut_short(len(entries), 100_000)
    assert f"at step {len(entries)} of 100000" in note


def test_training_that_ends_in_time_is_left_alone(demo):
    assert len(demo.train(Path("data/train.jsonl"), Path("run"), 2, 600.0)) == 2
    assert demo.cut_short(2, 2) == ()


def test_an_interrupt_of_the_users_is_not_swallowed(demo):
    with pytest.raises(KeyboardInterrupt), demo.time_limit(600.0):
        raise KeyboardInterrupt
