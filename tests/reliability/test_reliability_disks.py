"""A run on real disks that are full or read-only: the checkpoint before stays good, and one line says so."""

from __future__ import annotations

import pytest
from dist_support import metrics
from mount_support import make_read_only, make_writable, mount_memory, with_own_disks

from parsit.files.manifest import verify
from parsit.files.run_folder import list_checkpoints
from parsit.train.checkpoint import SaveError
from parsit.train.fit import run
from parsit.train.world import World
from parsit.types import ParsitError

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def steps(folder):
    return [step for step, _ in list_checkpoints(folder)]


def train(config, folder, on_step=lambda run, step: None, **flags):
    """Saves in front of training, so that a disk changes between two of them and not during one."""
    return run(config(folder, async_save=False, **flags), World(), on_step=on_step)


def lines(errors, *words):
    """Lines of a run's output that have all these words; nothing in it is a traceback."""
    text = errors.read_text()
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if all(word in line for word in words)]


def fill(disk):
    """Take all room that there is."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def test_a_full_disk_in_mid_run_costs_a_save_and_no_line_of_the_record(config, folder, tmp_path):
    """From step 4 to step 19 a tmpfs has no page left; what is in metrics.jsonl's last page takes a few lines more."""
    errors = tmp_path / "errors.txt"

    def change(_, step):
        if step == 4:
            fill(folder)
        if step == 19:
            (folder / "filler").unlink()

    def work():
        mount_memory(folder, "60M")
        train(config, folder, change, max_steps=21)
        assert steps(folder) == [3, 21]
        assert all(verify(path) is None for _, path in list_checkpoints(folder))
        assert [entry["step"] for entry in metrics(folder)] == list(range(1, 22))

    assert with_own_disks(work, errors) == 0, errors.read_text()
    assert lines(errors, "metrics.jsonl: cannot be written: No space left on device; what belongs there is kept")
    assert lines(errors, "step 6: ", "the checkpoint of step 6 cannot be written", "are free on that disk",
                 "the run goes on and tries again at the next save")  # fmt: skip


def test_a_disk_that_fills_up_during_a_save_costs_the_draft(config, folder, tmp_path, monkeypatch):
    """Room was found before the save, and is gone when it comes to writing."""
    errors = tmp_path / "errors.txt"

    def work():
        mount_memory(folder, "60M")

        def change(_, step):
            if step == 4:
                fill(folder)
                monkeypatch.setattr("parsit.train.saving.require_room", lambda *arguments: None)
            if step == 7:
                (folder / "filler").unlink()

        train(config, folder, change)
        assert steps(folder) == [3, 9]
        assert not list(folder.glob(".checkpoint*"))

    assert with_own_disks(work, errors) == 0, errors.read_text()
    assert lines(errors, "the checkpoint of step 6 cannot be written", "No space left", "earlier ones are untouched")


def test_a_folder_that_becomes_read_only_costs_a_save(config, folder, tmp_path):
    errors = tmp_path / "errors.txt"

    def change(_, step):
        if step == 4:
            make_read_only(folder)
        if step == 7:
            make_writable(folder)

    def work():
        train(config, folder, change)
        assert steps(folder) == [3, 9]
        assert [entry["step"] for entry in metrics(folder)] == list(range(1, 10))

    assert with_own_disks(work, errors) == 0, errors.read_text()
    assert lines(errors, "the checkpoint of step 6 cannot be written", "Read-only file system",
                 "the run goes on and tries again at the next save")  # fmt: skip


def test_a_folder_that_is_read_only_at_the_end_or_at_the_start_is_one_line(config, folder, tmp_path):
    errors = tmp_path / "errors.txt"

    def change(_, step):
        if step == 5:
            make_read_only(folder)

    def work():
        with pytest.raises(SaveError) as ending:
            train(config, folder, change, max_steps=6)
        assert "Read-only file system" in str(ending.value)
        assert f"the steps after {folder / 'checkpoint-3'} are lost" in str(ending.value)
        assert "\n" not in str(ending.value)
        with pytest.raises(ParsitError) as start:
            train(config, folder, max_steps=6)
        assert "cannot be written: Read-only file system; name another --output_dir" in str(start.value)
        assert verify(folder / "checkpoint-3") is None

    assert with_own_disks(work, errors) == 0, errors.read_text()
