"""The last word of processes that end together, and the word of who started them."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from parsit.cli import launch
from parsit.cli.launch import LastWord
from parsit.train.world import World

# A process that keeps the store at which the others met, until it is told to go.
KEEPER = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_who_asks_after_the_first_process_has_gone_has_not_the_last_word(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        words = [LastWord(World(rank=rank, local_rank=rank, size=3)) for rank in (1, 2)]
        assert words[0].is_mine()
        assert not words[0].is_mine()
        keeper.communicate("\n")
    assert not words[1].is_mine()


@pytest.mark.slow
def test_a_killed_process_is_named_though_another_ends_before_it(capsys):
    """Its connections are closed, and the others end because of that, before it has ended."""
    programs = ("raise SystemExit(1)", "import os, time; time.sleep(1); os.kill(os.getpid(), 9)")
    running = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    running[0].wait()
    assert launch._wait(running, [], hang_timeout_s=0) == 1
    assert "parsit: process 1 was ended by SIGKILL" in capsys.readouterr().err
