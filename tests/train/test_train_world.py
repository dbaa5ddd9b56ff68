"""Processes wait for each other as long as --ddp_timeout says, and then say so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from dist_support import free_port

# The first process waits in a group of its own making, as tensor parallelism and DeepSpeed make them, and the second
# never comes.
WAITS = """
import sys, torch
import torch.distributed as dist
from parsit.train.world import join
world = join(3)
group = dist.new_group([0, 1])
if world.rank == 1:
    sys.stdin.read()
try:
    dist.all_reduce(torch.ones(1), group=group)
except RuntimeError as error:
    print(error)
"""


def place(rank, port):
    return os.environ | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip


def train(tmp_path, rank, port):
    words = ["train", "tiny", "--data", "d.jsonl", "--output_dir", str(tmp_path), "--ddp_timeout", "1"]
    command = [sys.executable, "-m", "parsit.cli", *words]
    return subprocess.run(command, env=place(rank, port), capture_output=True, text=True)


@pytest.mark.dist
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_others_never_start_ends_with_one_line(tmp_path, rank):
    done = train(tmp_path, rank, free_port())
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("parsit: ")]
    assert ours == [
        f"parsit: process {rank} of 2: the others did not come within 1 s: was each of them started, and can they "
        "reach MASTER_ADDR and MASTER_PORT? (--ddp_timeout)"
    ]
    assert "Traceback" not in done.stderr
    assert rank == 1 or len(done.stderr.splitlines()) == 1, "the second's connection has words of torch's own"


@pytest.mark.dist
def test_a_port_that_another_program_has_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = train(tmp_path, 0, port)
    assert done.returncode == 1
    assert f"parsit: process 0 of 2: port {port} is taken by another program" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.dist
def test_groups_that_are_made_later_wait_as_long():
    port = free_port()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", WAITS], env=place(rank, port), **pipes) for rank in (0, 1)]
    try:
        said, _ = running[0].communicate()  # without the limit that would be in half an hour
        assert "imed out" in said, said
    finally:
        for process in running:
            process.kill()
            process.wait()
