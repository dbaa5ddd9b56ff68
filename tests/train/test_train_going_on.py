"""A run in a folder that holds more than it should, with flags that changed, on a disk that takes no more."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from test_train_loop import learnt, metrics

from parsit.config import TrainConfig
from parsit.files.manifest import verify
from parsit.files.run_folder import list_checkpoints
from parsit.files.run_lock import run_lock
from parsit.parse.engine import load_engine
from parsit.train.checkpoint import SaveError
from parsit.train.fit import fit
from parsit.train.prepare import prepare
from parsit.train.resume import changed_settings
from parsit.train.world import World
from parsit.types import InputError


def steps(folder):
    return [step for step, _ in list_checkpoints(folder)]


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    return tmp_path_factory.mktemp("nine")


@pytest.fixture
def folder(run, nine, tmp_path):
    """A run of nine steps, saved and validated at each third; each test has a copy."""
    if not list_checkpoints(nine):
        run(nine, max_steps=9, eval_steps=3)
    shutil.copytree(nine, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_that_goes_back_moves_what_came_after_aside_and_does_the_same_steps_again(run, nine, folder, capsys):
    shutil.copy(folder / "metrics.jsonl", folder / "samples.jsonl")
    run(folder, max_steps=9, eval_steps=3, resume=str(folder / "checkpoint-3"), save_total_limit=1)
    err = capsys.readouterr().err
    assert f"checkpoint-6, checkpoint-9 moved to {folder / 'superseded-1'}, with the record of their steps" in err
    assert steps(folder / "superseded-1") == [6, 9]
    assert verify(folder / "superseded-1" / "checkpoint-9") is None
    assert learnt(folder / "superseded-1") == learnt(nine) == learnt(folder)
    best = json.loads((folder / "best.json").read_text())
    assert best == json.loads((nine / "best.json").read_text())
    assert verify(folder / best["checkpoint"]) is None
    assert json.loads((folder / "samples.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_a_run_that_went_back_and_is_stopped_says_which_command_goes_on(run, folder, capsys):
    resume = str(folder / "checkpoint-3")
    result = run(folder, max_steps=9, resume=resume, save_total_limit=1, max_hours=1e-9)
    assert (result.steps, result.is_whole) == (4, False)
    err = capsys.readouterr().err
    assert f"stopped in time for --max_hours 1e-09; saved {folder / 'checkpoint-4'}; the same command without " in err
    assert result.checkpoint == folder / "checkpoint-4"
    assert verify(result.checkpoint) is None


@pytest.mark.slow
def test_a_run_that_is_stopped_in_time_each_step_equals_the_one_that_was_not(run, nine, tmp_path):
    for _ in range(9):
        result = run(tmp_path / "cut", max_steps=9, eval_steps=3, max_hours=1e-9)
    assert result.is_whole
    assert learnt(tmp_path / "cut") == learnt(nine)


def test_a_checkpoint_of_another_folder_makes_a_run_of_its_own(run, folder, tmp_path, capsys):
    """What lay in the folder is of another history, and the best of the other folder is not in this one."""
    shutil.copytree(folder, tmp_path / "branch")
    run(tmp_path / "branch", max_steps=9, eval_steps=3, resume=str(folder / "checkpoint-6"))
    assert "checkpoint-3, checkpoint-6, checkpoint-9 moved to" in capsys.readouterr().err
    assert steps(tmp_path / "branch") == [9]
    assert json.loads((tmp_path / "branch" / "best.json").read_text())["checkpoint"] == "checkpoint-9"
    assert steps(folder) == [3, 6, 9]


def test_changed_flags_are_said_with_what_they_change(folder, tmp_path):
    changed = {"weight_decay": 0.1, "bf16": "true", "max_grad_norm": 2.0, "max_steps": 12}
    flags = {"output_dir": str(folder), "bf16": "false", "max_steps": 9, "learning_rate": 3e-3, "seed": 0}
    checkpoint = folder / "checkpoint-9"
    assert changed_settings(TrainConfig(**flags), checkpoint) == []
    assert changed_settings(TrainConfig(**flags | changed), checkpoint) == [
        "changed since checkpoint-9: --max_steps from 9 to 12: this changes the learning rates",
        "changed since checkpoint-9: --weight_decay from 0.0 to 0.1, --max_grad_norm from 1.0 to 2.0: this changes "
        "the updates",
        "changed since checkpoint-9: --bf16 from false to true: this changes how is computed: losses are no longer "
        "equal to the bit",
    ]


@contextmanager
def no_file_beyond(size):
    """Inside, no file can grow beyond a size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_a_save_and_the_next_one_is_made(run, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_, step):
        size = (tmp_path / "metrics.jsonl").stat().st_size if step else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100 if step in (4, 5, 6) else soft, hard))

    try:
        run(tmp_path, max_steps=9, eval_steps=3, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert "step 5: " in err
    assert "metrics.jsonl: cannot be written: File too large; what belongs there is kept and tried again" in err
    assert f"step 6: {tmp_path}: the checkpoint of step 6 cannot be written: [Errno 27] File too large" in err
    assert "earlier ones are untouched; the run goes on and tries again at the next save" in err
    assert steps(tmp_path) == [3, 9]
    assert [entry["step"] for entry in metrics(tmp_path)] == list(range(1, 10)), "nothing of the record is lost"
    state = json.loads((tmp_path / "checkpoint-9" / "train_state" / "state.json").read_text())
    assert state["best_step"] in (3, 9), "what could not be kept is not the best"
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_at_the_end_is_one_line_and_the_earlier_checkpoint_stays_good(run, tmp_path):
    with no_file_beyond(10_000), pytest.raises(SaveError) as caught:
        run(tmp_path, max_steps=1)
    assert "the run is lost: make room, or mend the folder, and give the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    run(tmp_path, max_steps=1)
    with (
        no_file_beyond(10_000),
        pytest.raises(SaveError, match=f"the steps after {tmp_path / 'checkpoint-1'} are lost"),
    ):
        run(tmp_path, max_steps=2)
    assert verify(tmp_path / "checkpoint-1") is None
    assert steps(tmp_path) == [1]


def test_too_little_room_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**25))
    with pytest.raises(SaveError, match=r"it takes 0\.04 GB and 0\.03 GB are free on that disk"):
        run(tmp_path, max_steps=1)
    assert not list(tmp_path.glob("*checkpoint*"))


def test_a_folder_that_is_deleted_in_mid_run_is_said_and_the_run_goes_on_once_it_is_there(run, tmp_path, capsys):
    folder = tmp_path / "run"

    def delete(_, step):
        if step == 1:
            shutil.rmtree(folder)
        if step == 4:
            folder.mkdir()

    run(folder, max_steps=9, on_step=delete)
    assert "step 3: " in (err := capsys.readouterr().err)
    assert "the checkpoint of step 3 cannot be written: [Errno 2] No such file or directory" in err
    assert steps(folder) == [6, 9]
    assert "step 5: " in err
    assert "metrics.jsonl: was deleted; begun again, without the steps before" in err
    assert [entry["step"] for entry in metrics(folder)] == [2, 3, 4, 5, 6, 7, 8, 9]

    def delete_for_good(_, step):
        if step == 10:
            shutil.rmtree(folder)

    with pytest.raises(SaveError, match="the checkpoint of step 12 cannot be written"):
        run(folder, max_steps=12, save_steps=100, on_step=delete_for_good)


def test_a_record_with_a_line_of_zeros_is_kept_beside_and_said(run, folder, capsys):
    path = folder / "metrics.jsonl"
    shutil.rmtree(folder / "checkpoint-9")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0\0\0\n", b"[1]\n", *lines[2:]]))
    run(folder, max_steps=9, eval_steps=3)
    err = capsys.readouterr().err
    assert f"warning: {path}:3: no entry of a step (2 such lines); dropped, all is kept in {path}.damaged" in err
    assert (folder / "metrics.jsonl.damaged").read_bytes().count(b"\n") == 11
    assert [entry["step"] for entry in metrics(folder)] == list(range(1, 10))


@pytest.mark.slow
def test_a_second_signal_ends_the_run_at_once_and_says_what_is_lost(run, tmp_path, capsys):
    def ask_twice(_, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # as the process itself and with its group: one request
            time.sleep(2.1)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, max_steps=9, on_step=ask_twice)
    assert len(metrics(tmp_path)) == 4
    last = tmp_path / "checkpoint-3"
    assert f"stopped at once by a second signal: what came after {last} is lost" in capsys.readouterr().err


def test_a_run_that_is_asked_saves_and_goes_on(run, tmp_path, capsys):
    def ask(_, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    assert run(tmp_path, max_steps=4, save_steps=100, on_step=ask).is_whole
    assert steps(tmp_path) == [2, 4]
    assert f"step 2: asked to save; the newest checkpoint is {tmp_path / 'checkpoint-2'}" in capsys.readouterr().err


def test_a_folder_that_another_run_writes_into_is_refused(tmp_path):
    config = TrainConfig(output_dir=str(tmp_path), data=["none.jsonl"], num_processes=1)
    with run_lock(tmp_path, pytest.fail), pytest.raises(InputError, match="another run is writing into it"):
        fit(config)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        fit(config)
    assert not list(tmp_path.iterdir())


def test_flipped_weights_are_found_by_who_reads_or_trains_on_with_them(folder, tmp_path):
    weights = folder / json.loads((folder / "best.json").read_text())["checkpoint"] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    said = r"is not as it was saved: model\.safetensors has another checksum; name another checkpoint of the run"
    with pytest.raises(InputError, match=said):
        load_engine(folder)
    flags = {"output_dir": str(tmp_path / "next"), "data": ["none.jsonl"], "model_name_or_path": str(folder)}
    with pytest.raises(InputError, match=said):
        prepare(TrainConfig(**flags), World())


def test_other_texts_of_the_same_lengths_are_refused(run, samples, tmp_path):
    run(tmp_path, max_steps=3)
    question, answer = samples[0].turns
    changed = [replace(samples[0], turns=(question, replace(answer, parts=("1",)))), *samples[1:]]
    with pytest.raises(InputError, match="texts or images of the training data are no longer those"):
        run(tmp_path, data=changed)
    run(tmp_path, max_steps=4)
