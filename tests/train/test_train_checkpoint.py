"""Checkpoints exist or do not: half-written, damaged and interrupted ones are never trusted."""

from __future__ import annotations

import json
import resource
import shutil

import pytest
import torch
from checkpoint_support import save

from parsit.files import whole
from parsit.files.manifest import MANIFEST, require_sound_model, verify
from parsit.files.run_folder import (
    Retention,
    clear_leftovers,
    find_newest,
    list_checkpoints,
    require_good,
    supersede,
)
from parsit.train.checkpoint import SaveError, TrainState, load_state
from parsit.types import InputError


def steps(folder):
    return [step for step, _ in list_checkpoints(folder)]


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


# What may happen to any file.
DAMAGES = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 4]) + path.read_bytes()[1:]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_named_and_passed_over(tmp_path, damage):
    good, whole_one = save(tmp_path, 5), save(tmp_path, 10)
    names = [path.relative_to(whole_one) for path in sorted(whole_one.rglob("*")) if path.is_file()]
    assert len(names) == 8
    for name in names:
        shutil.copytree(whole_one, tmp_path / "kept")
        DAMAGES[damage](whole_one / name)
        lines = []
        assert find_newest(tmp_path, lines.append) == good
        assert len(lines) == 1
        assert "checkpoint-10" in lines[0]
        assert str(name) in lines[0]
        with pytest.raises(InputError, match="checkpoint-10: cannot resume"):
            require_good(whole_one)
        shutil.rmtree(whole_one)
        (tmp_path / "kept").rename(whole_one)
    assert find_newest(tmp_path, pytest.fail) == whole_one


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"null", b'{"files": {}}', b'{"files": []}', b'{"files": null}', b"\0\0", b"[" * 100_000]
)
def test_a_manifest_that_is_none_is_damage(tmp_path, content):
    path = save(tmp_path, 5)
    (path / MANIFEST).write_bytes(content)
    assert MANIFEST in verify(path)
    with pytest.raises(InputError, match=MANIFEST):
        require_sound_model(path)


def test_flipped_bits_of_the_manifest_are_found(tmp_path):
    """Every bit of it: `make test-reliability`."""
    manifest = save(tmp_path, 5) / MANIFEST
    content = manifest.read_bytes()
    for place in range(0, len(content), 23):
        for bit in range(8):
            manifest.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            assert verify(manifest.parent) is not None, (place, bit)
    manifest.write_bytes(content)
    assert verify(manifest.parent) is None


def test_an_entry_that_the_manifest_lost_is_damage(tmp_path):
    path = save(tmp_path, 5)
    entries = json.loads((path / MANIFEST).read_text())["files"]
    for name in entries:
        rest = {key: value for key, value in entries.items() if key != name}
        (path / MANIFEST).write_text(json.dumps({"files": rest}, indent=2) + "\n")
        assert "does not list" in verify(path), name


def test_weights_are_looked_at_where_a_manifest_is_there_and_the_rest_is_not(tmp_path, monkeypatch):
    path = save(tmp_path, 5)
    (path / "train_state" / "optimizer.safetensors").unlink()  # who reads with the model needs none
    assert require_sound_model(path) == path
    (path / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(InputError, match=r"model\.safetensors has another checksum; name another checkpoint"):
        require_sound_model(path)
    monkeypatch.setenv("PARSIT_CHECKSUMS", "0")
    assert require_sound_model(path) == path
    monkeypatch.delenv("PARSIT_CHECKSUMS")
    (path / MANIFEST).unlink()
    assert require_sound_model(path) == path


def test_a_write_that_fails_leaves_the_older_checkpoint_and_no_new_one(tmp_path):
    good = save(tmp_path, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a full disk: the file is written in part
    try:
        with pytest.raises(SaveError, match=r"step 10 cannot be written: .+; earlier ones are untouched"):
            save(tmp_path, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-5"]
    assert find_newest(tmp_path, pytest.fail) == good
    assert verify(save(tmp_path, 10)) is None


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    with pytest.raises(SaveError, match="No such file or directory"):
        save(tmp_path / "gone", 5)
    assert not (tmp_path / "gone").exists()


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
    assert steps(tmp_path) == [9, 10, 100]


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    Retention(tmp_path, keep=2).prune(5, best={1})
    assert steps(tmp_path) == [1, 4, 5]
    Retention(tmp_path, keep=0).prune(5, best=())
    assert steps(tmp_path) == [1, 4, 5]
    Retention(tmp_path, keep=1).prune(5, best={5})
    assert steps(tmp_path) == [4, 5]


def test_pruning_never_deletes_what_was_just_written_though_newer_ones_are_there(tmp_path):
    for step in (15, 20, 14):
        save(tmp_path, step)
    Retention(tmp_path, keep=1).prune(14, best=())
    assert verify(tmp_path / "checkpoint-14") is None


def test_pruning_counts_only_what_verifies(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    retention = Retention(tmp_path, keep=2)
    for step in (3, 4):
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"Weights")
    retention.prune(5, best=())
    assert steps(tmp_path) == [2, 3, 4, 5]  # 5 and 2 are whole
    save(tmp_path, 6)
    retention.prune(6, best=())
    assert steps(tmp_path) == [5, 6]


def test_a_checkpoint_between_two_places_is_put_into_its_own(tmp_path, monkeypatch):
    """Killed between the two renames of a file system that cannot exchange folders."""
    monkeypatch.setattr(whole, "_exchanged", lambda one, other: False)
    path = save(tmp_path, 5)
    path.rename(tmp_path / ".checkpoint-5.partial.old")
    (tmp_path / ".checkpoint-4.partial").mkdir()
    (tmp_path / ".best.json.abcdefgh").write_text("half")
    (tmp_path / ".lock").write_text("")
    assert clear_leftovers(tmp_path) == [path]
    assert verify(path) is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "checkpoint-5"]
    assert verify(save(tmp_path, 5)) is None


def test_what_lies_beyond_an_older_checkpoint_is_moved_aside_with_its_record(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    (tmp_path / "metrics.jsonl").write_text("all steps")
    five = tmp_path / "checkpoint-5"
    assert supersede(tmp_path, tmp_path / "checkpoint-15", 15, ()) is None
    aside, moved = supersede(tmp_path, five, 5, ("metrics.jsonl", "samples.jsonl"))
    assert (aside.name, [path.name for path in moved]) == ("superseded-1", ["checkpoint-10", "checkpoint-15"])
    assert steps(tmp_path) == [5]
    assert verify(aside / "checkpoint-15") is None
    assert (aside / "metrics.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()
    save(tmp_path, 10)
    (tmp_path / "elsewhere").mkdir()
    other = save(tmp_path / "elsewhere", 3)
    aside, moved = supersede(tmp_path, other, 3, ())  # of another run: nothing here belongs to what goes on
    assert (aside.name, len(moved)) == ("superseded-2", 2)
