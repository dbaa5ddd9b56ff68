"""Any order of saves, kills, damage, restarts and ways back: a whole checkpoint is there, and all of the best."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_support import save
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kill_support import on_operations

from parsit.config import TrainConfig
from parsit.files.manifest import verify
from parsit.files.run_folder import Retention, clear_leftovers, find_best, find_newest, list_checkpoints
from parsit.train.best import judged
from parsit.train.checkpoint import TrainState, load_state, write_best
from parsit.train.resume import settle

# Fewer where there is little time.
TRACES = int(os.environ.get("TRACES", "10000"))
LOSSES = st.none() | st.floats(0, 1)
OPERATIONS = 130  # a few more than a save with all that follows it has


class KilledError(BaseException):
    """Nothing of ours catches this."""


class Rotation(RuleBasedStateMachine):
    """A run's folder through its life. What is damaged here is never among the best: no rotation could help that."""

    def __init__(self):
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.state = TrainState(0, "data")
        self.damaged: set[int] = set()

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize(keep=st.integers(0, 3), keep_best=st.integers(1, 3))
    def begin(self, keep, keep_best):
        self.retention, self.keep_best = Retention(self.folder, keep), keep_best

    def whole(self):
        return [step for step, _ in list_checkpoints(self.folder) if step not in self.damaged]

    def do_save(self, state):
        """As `Saver` does."""
        save(self.folder, state.step, best=state.best, metric=state.metric)
        self.damaged.discard(state.step)
        write_best(self.folder, state)
        self.retention.prune(state.step, state.best_steps)

    def next_state(self, loss):
        """After another interval; measured, or not."""
        state = replace(self.state, step=self.state.step + 3)
        return judged(state, {} if loss is None else {"eval_loss": loss}, self.keep_best, lambda line: None)

    @rule(loss=LOSSES)
    def saves(self, loss):
        before = set(self.whole())
        self.state = self.next_state(loss)
        self.do_save(self.state)
        assert self.state.step in self.whole(), "what was just written is there"
        could, kept = (steps - {*self.state.best_steps} for steps in (before | {self.state.step}, set(self.whole())))
        assert len(kept) == min(self.retention.keep or 10**9, len(could)), "so many that verify, and no more"

    @rule(loss=LOSSES, at=st.integers(0, OPERATIONS))
    def is_killed_while_it_saves_and_starts_again(self, loss, at):
        there, left = bool(self.whole()), at

        def happens(_):
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        with contextlib.suppress(KilledError):
            on_operations(lambda: self.do_save(self.next_state(loss)), happens)
        assert not there or self.whole()
        self.damaged = {step for step, path in list_checkpoints(self.folder) if verify(path)}
        self.starts(self.retention.keep)

    @rule(keep=st.integers(0, 3))
    def starts(self, keep):
        """With --resume auto."""
        clear_leftovers(self.folder)
        newest = find_newest(self.folder, lambda line: None)
        self.retention = Retention(self.folder, keep)
        self.state = TrainState(0, "data")
        if newest is not None:
            self.goes_on_from(newest)
        elif list_checkpoints(self.folder):  # refused: none is whole; a person begins again
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.damaged.clear()

    @precondition(lambda self: self.whole())
    @rule(data=st.data())
    def goes_back(self, data):
        """With --resume PATH."""
        step = data.draw(st.sampled_from(self.whole()))
        self.goes_on_from(self.folder / f"checkpoint-{step}")

    def goes_on_from(self, checkpoint):
        before = set(self.whole())
        self.state, _ = settle(TrainConfig(output_dir=str(self.folder)), checkpoint, load_state(checkpoint).state)
        beyond = {step for step in before if step > self.state.step}
        aside = {step for path in self.folder.glob("superseded-*") for step, _ in list_checkpoints(path)}
        assert beyond <= aside, "moved, not deleted"
        self.damaged &= {step for step, _ in list_checkpoints(self.folder)}

    @precondition(lambda self: set(self.whole()) - {*self.state.best_steps})
    @rule(data=st.data())
    def is_damaged(self, data):
        step = data.draw(st.sampled_from(sorted(set(self.whole()) - {*self.state.best_steps})))
        file = self.folder / f"checkpoint-{step}" / "model.safetensors"
        # Its size too: what a run has verified once it does not read again.
        file.write_bytes(random.choice([b"", b"weights and more"]))
        self.damaged.add(step)

    @invariant()
    def a_checkpoint_verifies_and_the_best_is_there(self):
        found = find_newest(self.folder, lambda line: None)
        assert (found is not None) == bool(self.whole())
        assert list(self.measured()) == sorted(self.measured()), "best first"
        assert len(self.state.best) <= self.keep_best
        for step in self.state.best_steps:
            assert verify(self.folder / f"checkpoint-{step}") is None, "none of the best is lost"
        if self.state.best:
            assert find_best(self.folder) == self.folder / f"checkpoint-{self.state.best_steps[0]}"

    def measured(self):
        return [best.value for best in self.state.best]


def run(traces):
    run_state_machine_as_test(
        Rotation, settings=settings(max_examples=traces, stateful_step_count=12, deadline=None, database=None)
    )


def test_rotation_in_any_order(capsys):
    run(25)


@pytest.mark.sweep
def test_rotation_in_any_order_often(measured):
    run(TRACES)
    measured(f"rotation: {TRACES:,} traces of up to 12 rules: always a checkpoint that verifies, the best never lost")
