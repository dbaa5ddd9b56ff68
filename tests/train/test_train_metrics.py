"""What the terminal says of a run's speed, by a clock that the test holds."""

from __future__ import annotations

import pytest

from parsit.train import metrics
from parsit.train.metrics import Log
from parsit.train.trackers import tracker


@pytest.fixture
def lines(tmp_path, monkeypatch, capsys):
    """What is told of steps that took these seconds each, eight samples a step, a line every two steps."""

    def tell(seconds, first_step=0, total_steps=10):
        now = [100.0]
        monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
        told = tracker("none", tmp_path, None, first_step)
        with Log(tmp_path, first_step, total_steps, logging_steps=2, tracker=told) as log:
            for number, took in enumerate(seconds, first_step + 1):
                now[0] += took
                # The last step's own rate is what the lines do not give.
                log.write({"step": number, "loss": 1.0, "learning_rate": 0.1, "samples": 8, "samples_per_s": 8 / took})
        return [line.partition("  lr 1.0e-01  ")[2] for line in capsys.readouterr().err.splitlines()]

    return tell


def test_a_line_gives_the_mean_rate_since_the_last_one_and_the_time_that_it_leaves(lines):
    assert lines([1, 3, 1, 7]) == ["4.0 samples/s  ETA 16 s", "2.0 samples/s  ETA 24 s"]


def test_a_run_that_goes_on_counts_from_where_it_began(lines):
    assert lines([2, 4, 12], first_step=7) == ["4.0 samples/s  ETA 4 s", "1.0 samples/s  ETA 0 s"]


def test_a_slow_beginning_is_forgotten(lines):
    assert lines([100, 100, 1, 1])[-1] == "8.0 samples/s  ETA 6 s"
