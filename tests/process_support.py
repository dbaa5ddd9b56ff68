"""Commands that tests start and stop. What is waited for is an event; pytest's own time limit ends what hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def started(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command's process, its stderr a pipe of text; killed at the end, if it still runs."""
    process = subprocess.Popen([str(word) for word in command], **{"stderr": subprocess.PIPE, "text": True} | options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does; fails if it ends without that."""
    while not happened():
        if process.poll() is not None and not happened():
            _, errors = process.communicate()
            raise AssertionError(f"ended with {process.returncode} before: {errors}")
        time.sleep(0.05)


def everything_shown(terminal: int) -> str:
    """What a pseudo-terminal was sent, once nobody writes to it; it is closed."""
    shown = b""
    with suppress(OSError):  # what Linux gives at the end
        while part := os.read(terminal, 65_536):
            shown += part
    os.close(terminal)
    return shown.decode()


def children(pid: int) -> list[int]:
    """The processes that a process started, in the order of their start."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs: it is there, and is more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ignore_interrupts() -> None:
    """What a shell does in a command that it starts in the background: a `preexec_fn`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
