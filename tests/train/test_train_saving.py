"""Saves while training goes on: what is written is the step that it names, and the run's end waits for it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from safetensors.torch import load_file
from test_train_loop import learnt

from parsit import hf
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.files.manifest import verify
from parsit.files.run_folder import list_checkpoints
from parsit.train.background import Background, GivenUpError
from parsit.train.checkpoint import TrainState
from parsit.train.loop import Run
from parsit.train.prepare import Prepared, set_free
from parsit.train.requests import Asked
from parsit.train.saving import Saver
from parsit.train.world import World
from parsit.types import ParsitError


@pytest.fixture
def gate(monkeypatch):
    """The disk takes nothing from a thread that writes a checkpoint, until the gate is opened."""
    opened, fsync = threading.Event(), os.fsync

    def wait_and_sync(descriptor):
        if threading.current_thread().name == "checkpoint":
            assert opened.wait(600), "nobody opened the gate: training waits for the disk"
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait_and_sync)
    yield opened
    opened.set()


@pytest.fixture
def saving(mini, processor, samples, tmp_path):
    """A run that has made a step, and what saves it."""
    flags = {"bf16": "false", "dataloader_num_workers": 0, "per_device_train_batch_size": 4, "max_steps": 6}
    config = TrainConfig(output_dir=str(tmp_path), learning_rate=3e-3, glyph_loss_weight=0.5, ema_decay=0.9, **flags)
    model = hf.new_model(mini, processor, 0)
    data = in_memory(samples, processor, 512)
    run = Run(prepared := Prepared(config, World(), model, processor, data, data, set_free(model, config)))
    run.left_out.begin(0, print)
    batches = run.training_batches(0)
    run.step(0, batches, Asked())
    return Saver(prepared, run.strategy, run.ema), run, batches


def files(checkpoint):
    """All that a checkpoint holds in tensors, by file and name."""
    return {
        (path.relative_to(checkpoint).as_posix(), name): tensor.tolist()
        for path in checkpoint.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.mark.slow
def test_what_is_written_is_the_step_that_was_saved_whatever_training_does_meanwhile(saving, gate, tmp_path):
    saver, run, batches = saving
    saver.begin(TrainState(1, "data"))
    run.step(1, batches, Asked())
    gate.set()
    saver.wait()
    written = files(tmp_path / "checkpoint-1")
    kinds = {name.split("/")[0] for name, _ in written}
    assert kinds == {"model.safetensors", "ema", "train_state"}
    saver.begin(TrainState(2, "data"))
    saver.wait()
    later = files(tmp_path / "checkpoint-2")
    assert written.keys() == later.keys()
    changed = {key for key in written if written[key] != later[key]}
    state = {"train_state/optimizer.safetensors", "train_state/objective.safetensors"}
    assert {name for name, _ in changed} >= {"model.safetensors", "ema/model.safetensors", *state}
    assert {value for (_, name), value in written.items() if name.endswith("/step")} == {1.0}
    assert verify(tmp_path / "checkpoint-1") is None


def test_training_goes_on_while_a_checkpoint_is_written_and_ends_as_one_that_waits(run, gate, tmp_path):
    def open_late(_, step):
        if step == 5:
            assert list_checkpoints(tmp_path / "async") == [], "that of step 3 is still being written"
            gate.set()

    result = run(tmp_path / "async", eval_steps=6, on_step=open_late)
    plain = run(tmp_path / "plain", eval_steps=6, async_save=False)
    assert learnt(tmp_path / "async") == learnt(tmp_path / "plain")
    for step in (3, 6):
        one, two = (folder / f"checkpoint-{step}" for folder in (tmp_path / "async", tmp_path / "plain"))
        assert verify(one) is None
        names = {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
        assert names == {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
        differ = {str(name) for name in names if (one / name).read_bytes() != (two / name).read_bytes()}
        assert differ == {"train_config.yaml", "manifest.json"}, "which say --async_save"
    assert result.checkpoint.name == plain.checkpoint.name == "checkpoint-6"


def test_a_run_that_is_asked_to_save_waits_for_it(run, tmp_path, capsys):
    def ask(_, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        if step == 3:
            assert verify(tmp_path / "checkpoint-2") is None

    run(tmp_path, max_steps=4, save_steps=100, on_step=ask)
    assert f"the newest checkpoint is {tmp_path / 'checkpoint-2'}" in capsys.readouterr().err


def test_a_failed_save_is_said_while_training_goes_on_and_tried_again(run, gate, tmp_path, capsys):
    told = []

    def take_away(_, step):
        if step == 3:
            (tmp_path / ".checkpoint-3.partial").rename(tmp_path / "elsewhere")
            gate.set()
            while any(thread.name == "checkpoint" for thread in threading.enumerate()):
                time.sleep(0.01)
        if step == 4:
            told.append(capsys.readouterr().err)

    run(tmp_path, eval_steps=3, on_step=take_away)
    assert f"step 3: {tmp_path}: the checkpoint of step 3 cannot be written: [Errno 2] No such file" in told[0]
    assert "earlier ones are untouched; the run goes on and tries again at the next save" in told[0]
    assert "cannot be written" not in capsys.readouterr().err, "said once"
    assert [step for step, _ in list_checkpoints(tmp_path)] == [6]
    best = json.loads((tmp_path / "checkpoint-6" / "train_state" / "state.json").read_text())["best"]
    assert [one["step"] for one in best] == [6], "what could not be kept is not the best"


@contextmanager
def ending_with(error):
    with pytest.raises(type(error)):
        yield


def test_an_error_lets_the_save_in_flight_end(saving, tmp_path):
    saver, *_ = saving
    with ending_with(ParsitError("the loss is nan")), saver:
        saver.begin(TrainState(1, "data"))
        raise ParsitError("the loss is nan")
    assert verify(tmp_path / "checkpoint-1") is None


def test_a_second_signal_gives_the_save_in_flight_up(saving, tmp_path):
    saver, *_ = saving
    with ending_with(KeyboardInterrupt()), saver:
        saver.begin(TrainState(1, "data"))
        raise KeyboardInterrupt
    assert not list(tmp_path.glob(".checkpoint*")), "no draft"
    assert all(verify(path) is None for _, path in list_checkpoints(tmp_path))


def test_work_that_is_given_up_ends_and_its_error_is_dropped():
    background, begun, ends = Background(), threading.Event(), []

    def work(go_on):
        begun.set()
        try:
            while True:
                go_on()
        except GivenUpError:
            ends.append("given up")
            raise

    background.start(work)
    begun.wait()
    assert not background.is_done
    background.give_up()
    assert background.is_done
    background.wait()
    assert ends == ["given up"]


def test_an_error_of_the_work_is_raised_where_it_is_waited_for_and_once():
    background = Background()

    def fail(go_on):
        raise OSError("full")

    background.start(fail)
    with pytest.raises(OSError, match="full"):
        background.wait()
    background.wait()


def test_the_time_that_is_left_counts_saves_that_go_on_behind_steps(saving):
    saver, *_ = saving
    assert saver.spare_s == 0
    saver.begin(TrainState(1, "data"))
    saver.wait()
    assert saver.spare_s == 2 * saver.longest_s > 0
