"""Checkpoints exist or do not: half-written, damaged and interrupted ones are never trusted."""

from __future__ import annotations

import pytest
import torch

from parsit.files.run_folder import find_newest, list_checkpoints, prune, require_good, verify
from parsit.train.checkpoint import SavedState, TrainState, begin_checkpoint, finish_checkpoint, load_state
from parsit.types import InputError


def save(folder, step, save_model=lambda path: (path / "model.safetensors").write_bytes(b"weights")):
    tensors = {"w/exp_avg": torch.full((2,), float(step))}
    saved = SavedState(TrainState(step, "data"), tensors, {"head": torch.ones(1)}, {"cpu": torch.get_rng_state()})
    draft = begin_checkpoint(folder, step)
    save_model(draft)
    return finish_checkpoint(draft, folder, saved, "seed: 1\n")


def test_what_was_saved_is_loaded(tmp_path):
    path = save(tmp_path, 5)
    assert path.name == "checkpoint-5"
    assert verify(path) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-5"]  # nothing of the draft is left
    loaded = load_state(path)
    assert loaded.state == TrainState(5, "data")
    assert torch.equal(loaded.optimizer["w/exp_avg"], torch.full((2,), 5.0))
    assert torch.equal(loaded.rng["cpu"], torch.get_rng_state())
    assert (path / "train_config.yaml").read_text() == "seed: 1\n"


def damage_remove(path):
    (path / "model.safetensors").unlink()


def damage_cut(path):
    (path / "model.safetensors").write_bytes(b"weig")


def damage_flip(path):
    (path / "model.safetensors").write_bytes(b"Weights")


def damage_manifest(path):
    (path / "manifest.json").write_text("{")


def damage_no_manifest(path):
    (path / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [damage_remove, damage_cut, damage_flip, damage_manifest, damage_no_manifest])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path, damage):
    good, bad = save(tmp_path, 5), save(tmp_path, 10)
    damage(bad)
    lines = []
    assert find_newest(tmp_path, lines.append) == good
    assert len(lines) == 1
    assert "checkpoint-10" in lines[0]
    with pytest.raises(InputError, match="checkpoint-10: cannot resume"):
        require_good(bad)


def test_a_write_that_fails_leaves_the_older_checkpoint_and_no_new_one(tmp_path):
    good = save(tmp_path, 5)

    def full_disk(path):
        (path / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 10, full_disk)
    assert list_checkpoints(tmp_path) == [(5, good)]
    assert find_newest(tmp_path, print) == good
    assert verify(save(tmp_path, 10)) is None  # what was left of the attempt is not in the way


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [9, 10, 100]


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    prune(tmp_path, keep=2, best_step=1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 4, 5]
    prune(tmp_path, keep=0, best_step=None)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 4, 5]
