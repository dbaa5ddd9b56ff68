"""What lies in a run's folder: the newest, the best, and errors of one line where best.json is damaged."""

from __future__ import annotations

import pytest

from parsit.files.run_folder import find_best, find_model, is_run, list_checkpoints, name_best
from parsit.types import InputError


@pytest.fixture
def run(tmp_path):
    """Checkpoints 2, 10 and 9 without weights, a draft that was given up, and a file that looks like one."""
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    (tmp_path / ".checkpoint-11.partial").mkdir()
    (tmp_path / "checkpoint-12").write_text("")
    return tmp_path


def test_the_best_is_taken_and_else_the_newest(run):
    assert [step for step, _ in list_checkpoints(run)] == [2, 9, 10]
    assert find_best(run) is None
    assert find_model(run) == run / "checkpoint-10"
    name_best(run, "eval_loss", [(9, 0.5)])
    assert find_best(run) == find_model(run) == run / "checkpoint-9"
    name_best(run, "eval_loss", [(3, 0.4)])  # was deleted since
    assert find_model(run) == run / "checkpoint-10"
    assert find_model(run / "checkpoint-2") == run / "checkpoint-2"


def test_a_folder_is_a_runs_or_not(run, tmp_path):
    assert is_run(run)
    assert not is_run(run / "checkpoint-2")
    assert not is_run(run / "none")
    with pytest.raises(InputError, match="no model there"):
        find_model(run / "none")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"checkpoint": 3}'])
def test_a_damaged_best_json_is_one_line(run, content):
    (run / "best.json").write_text(content)
    with pytest.raises(InputError, match=r"best\.json: does not name a checkpoint"):
        find_model(run)
