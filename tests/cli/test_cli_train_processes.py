"""Processes of a run that die, stop, or lose what started them; a run that is asked to save, and twice to stop.

On pictures of numbers, with runs that would take for ever.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image, ImageDraw

from parsit.files.manifest import verify
from parsit.files.run_folder import find_newest, list_checkpoints
from process_support import children, is_alive, started, wait_until

pytestmark = pytest.mark.slow

FLAGS = ["--glyph_loss_weight", "0", "--bf16", "false", "--per_device_train_batch_size", "2", "--optim", "adamw"]
FLAGS += [
    "--max_steps",
    "100000",
    "--save_steps",
    "100000",
    "--lr_scheduler_type",
    "constant",
    "--logging_steps",
    "1000",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures of numbers."""
    folder = tmp_path_factory.mktemp("processes")
    lines = []
    for number in range(6):
        image = Image.new("RGB", (40, 24), "white")
        ImageDraw.Draw(image).text((2, 6), str(number * 37), fill="black")
        image.save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": str(number * 37)}]
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def command(name, *flags):
    words = [sys.executable, "-m", "parsit.cli", "train", "tiny", "--data", "data.jsonl", "--output_dir", name]
    return [*words, *FLAGS, *flags]


def trains(run):
    """Whether a run has made steps."""
    metrics = run / "metrics.jsonl"
    return lambda: metrics.exists() and metrics.stat().st_size > 2000


@pytest.mark.dist
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "was ended by SIGKILL"), (signal.SIGSTOP, "been stopped")]
)
def test_a_process_that_is_killed_or_stopped_is_named_and_ends_the_run(folder, number, said):
    name = f"lost-{number}"
    flags = ("--num_processes", "2", "--hang_timeout", "2")
    with started(command(name, *flags), cwd=folder, start_new_session=True) as process:
        wait_until(trains(folder / name), process)
        ranks = children(process.pid)
        os.kill(ranks[1], number)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert [line for line in errors.splitlines() if line.startswith("parsit: process 1 ") and said in line]
    assert "Traceback" not in errors
    assert not any(map(is_alive, ranks))


@pytest.mark.dist
def test_ranks_save_and_end_with_a_launcher_that_is_killed(folder):
    """And before that they are asked to save, and go on."""
    run = folder / "orphans"
    with started(command("orphans", "--num_processes", "2"), cwd=folder, start_new_session=True) as process:
        wait_until(trains(run), process)
        ranks = children(process.pid)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: list_checkpoints(run), process)
        size = (run / "metrics.jsonl").stat().st_size
        wait_until(lambda: (run / "metrics.jsonl").stat().st_size > size + 1000, process)
        process.kill()
        process.wait()
        while any(map(is_alive, ranks)):
            time.sleep(0.05)
        errors = process.stderr.read()
    (first, path), *rest = list_checkpoints(run)
    assert f"step {first}: asked to save; the newest checkpoint is orphans/{path.name}" in errors
    assert len(rest) == 1
    assert find_newest(run, pytest.fail) == rest[0][1]
    assert f"stopped by a signal; saved orphans/{rest[0][1].name}" in errors


@pytest.mark.sweep
def test_a_second_run_in_the_folder_is_refused_and_a_second_signal_says_what_is_lost(folder):
    run = folder / "twice"
    with started(command("twice"), cwd=folder) as process:
        wait_until(trains(run), process)
        other = subprocess.run(command("twice"), cwd=folder, capture_output=True, text=True, check=False)
        assert (other.returncode, other.stderr.count("\n")) == (1, 1)
        assert f"twice: another run is writing into it (process {process.pid} on " in other.stderr
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: list_checkpoints(run), process)
        # What is read next never comes: the first request would be met after the step.
        os.kill(process.pid, signal.SIGSTOP)
        (worker,) = children(process.pid)
        os.kill(worker, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        os.kill(worker, signal.SIGCONT)
        _, errors = process.communicate()
    assert process.returncode == 130
    ((_, path),) = list_checkpoints(run)
    assert f"stopped at once by a second signal: what came after twice/{path.name} is lost" in errors
    assert verify(path) is None
