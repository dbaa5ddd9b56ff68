"""A process of `parsit train` that dies in a collective or in a save ends the other, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parsit.files.run_folder import find_newest
from process_support import children, is_alive, started, wait_until

pytestmark = [pytest.mark.sweep, pytest.mark.dist]

FLAGS = {"glyph_loss_weight": 0, "bf16": "false", "per_device_train_batch_size": 2, "optim": "adamw"}
FLAGS |= {"max_steps": 100_000, "save_steps": 2, "save_total_limit": 3, "lr_scheduler_type": "constant"}
FLAGS |= {"logging_steps": 1000, "num_processes": 2, "dataloader_num_workers": 1}
# From the moment of the loss; a bound for what hangs, as other programs may have the processors.
END_S = 600


def command(start, **flags):
    words = [sys.executable, "-m", "parsit.cli", "train", "tiny", "--data", start / "d.jsonl", "--output_dir", "run"]
    words += ["--model_name_or_path", start / "start"]
    return [str(w) for w in [*words, *(part for flag in (FLAGS | flags).items() for part in (f"--{flag[0]}", flag[1]))]]


def port_of(pid):
    """Where the processes of a run meet."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (port,) = (int(word.partition(b"=")[2]) for word in words if word.startswith(b"MASTER_PORT="))
    return port


def let_wait(ranks):
    """Stop the first process; the second then waits for it in a collective, and computes no more."""
    os.kill(ranks[0], signal.SIGSTOP)
    used = None
    while used != processor_time(ranks[1]):
        used = processor_time(ranks[1])
        time.sleep(1)


def processor_time(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def in_a_collective(run, process, ranks):
    """The second dies while it waits for the first."""
    let_wait(ranks)
    os.kill(ranks[1], signal.SIGKILL)
    os.kill(ranks[0], signal.SIGCONT)
    return 1


def in_its_save(run, process, ranks):
    """The first dies while it writes, and the second waits for it."""
    wait_until(lambda: list(run.glob(".checkpoint-*.partial")), process)
    os.kill(ranks[0], signal.SIGKILL)
    return 0


def in_the_others_save(run, process, ranks):
    """The second dies while the first writes."""
    wait_until(lambda: list(run.glob(".checkpoint-*.partial")), process)
    os.kill(ranks[1], signal.SIGKILL)
    return 1


def stopped(run, process, ranks):
    """The second goes on no more, without being dead."""
    os.kill(ranks[1], signal.SIGSTOP)
    return 1


@pytest.mark.parametrize("loses", [in_a_collective, in_its_save, in_the_others_save, stopped])
@pytest.mark.parametrize("flags", [{}, {"fsdp": "true"}], ids=["DDP", "FSDP2"])
def test_a_lost_process_is_named_and_nothing_is_left_of_the_run(start, tmp_path, loses, flags):
    run = tmp_path / "run"
    # A stopped process is named in two seconds; one that is stopped on the way to a death in a collective is not.
    flags = flags | {"hang_timeout": 2 if loses is stopped else END_S}
    with started(command(start, **flags), cwd=tmp_path, start_new_session=True) as process:
        wait_until(lambda: find_newest(run, lambda line: None) if run.is_dir() else None, process)
        ranks = children(process.pid)
        below = [*ranks, *(child for rank in ranks for child in children(rank))]
        port = port_of(ranks[0])
        lost = loses(run, process, ranks)
        _, errors = process.communicate(timeout=END_S)
    assert process.returncode not in (0, None)
    assert [line for line in errors.splitlines() if line.startswith(f"parsit: process {lost} ")], errors
    assert "Traceback" not in errors
    assert not any(map(is_alive, below))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    left = [path for path in Path("/dev/shm").iterdir() if any(f"_{pid}_" in path.name for pid in below)]
    assert not left, "shared memory is free again"
    last = find_newest(run, pytest.fail)
    again = subprocess.run(
        command(start, **flags, max_steps=int(last.name.rpartition("-")[2]) + 1),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert f"resuming from run/{last.name}" in again.stderr + again.stdout
