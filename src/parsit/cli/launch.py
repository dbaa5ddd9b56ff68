"""Start one process for each GPU of this machine, and end with them.

torchrun does more (several machines, restarts); under it, srun or `accelerate launch` nothing is started here. On one
machine this keeps the command the same and the error one line: the processes' output goes straight to the terminal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from parsit.train.world import World

GRACE_S = 30.0
# After a second request to stop.
HURRY_S = 3.0
# Two signals within so many seconds are one request, as for the processes themselves (`parsit.train.requests`).
SAME_REQUEST_S = 2.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINGER_S = 5.0
LET_END_S = 5.0  # for processes that may be ending by themselves
_ASKED = "parsit/last-word"
_LAUNCHER = "PARSIT_LAUNCHER"
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def num_processes(asked: int) -> int:
    """How many processes a run on this machine has: as asked, or one for each GPU."""
    if asked:
        return asked
    import torch

    return max(torch.cuda.device_count(), 1)


def set_defaults(processes: int) -> None:
    """Settings of memory and communication, for what the user has not set.

    On one machine with several GPUs NCCL talks over NVLink or PCIe alone; with one GPU, or under a launcher that may
    span machines, nothing of NCCL's is touched.
    """
    from parsit.train.fit import set_device_defaults

    set_device_defaults()
    launched = "RANK" in os.environ or "SLURM_PROCID" in os.environ
    if processes > 1 and not launched:
        os.environ.setdefault("NCCL_P2P_DISABLE", "0")
        os.environ.setdefault("NCCL_IB_DISABLE", "1")


def run_processes(arguments: Sequence[str], processes: int, hang_timeout_s: int = 0) -> int:
    """`parsit ARGUMENTS` in so many processes; the exit code of the first that failed, else 0.

    Where one ends badly the others are asked to stop, and killed if they do not; one that was killed, and so could not
    say anything, is named, and so is one that does not go on. Signals are handed on; a second request to stop ends the
    processes within `HURRY_S`. They end with this process, however it ends.

    Args:
        arguments: the command line.
        processes: how many.
        hang_timeout_s: how long a process may be stopped (SIGSTOP) before all are ended; 0: for ever.
    """
    port = str(_free_port())
    running = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, _LAUNCHER: str(os.getpid())}
        running.append(subprocess.Popen([sys.executable, "-m", "parsit.cli", *arguments], env=os.environ | place))
    requests: list[float] = []

    def hand_on(number: int, _: object) -> None:
        if number != signal.SIGUSR1:
            requests.append(time.monotonic())
        _signal_all(running, number)

    heard = [signal.SIGUSR1, *(number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN)]
    previous = {number: signal.signal(number, hand_on) for number in heard}
    try:
        return _wait(running, requests, hang_timeout_s)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Let this process, where `run_processes` started it, be asked to stop (SIGTERM) when that one ends (on Linux)."""
    launcher = os.environ.get(_LAUNCHER)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if launcher is None or prctl is None:
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(launcher):  # it was faster
        os.kill(os.getpid(), signal.SIGTERM)


class LastWord:
    """Where processes end in the middle of a collective, lets one of them say why, and ends them without waiting.

    To part from each other in good order would be to wait for those that wait for this one.

    Args:
        world: the processes; all make this before what they may not survive.
    """

    def __init__(self, world: World) -> None:
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  (documented as this)

        self._world = world
        # The store at which the processes met.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(address, port, is_master=False, wait_for_workers=False)

    def is_mine(self) -> bool:
        """Whether no other process has asked before."""
        try:
            return self._store.add(_ASKED, 1) == 1
        except RuntimeError:  # the first process, which keeps the store, has asked and is gone
            return False

    def end(self) -> NoReturn:
        """End this process, which has asked, with exit code 1."""
        # The first process keeps the store, which the others ask; often all of them fail at once.
        deadline = time.monotonic() + LINGER_S
        while self._world.is_first and self._store.add(_ASKED, 0) < self._world.size and time.monotonic() < deadline:
            time.sleep(0.05)
        os._exit(1)


def is_peer_lost(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone. Why it went is for that one to say, or its starter.

    gloo, NCCL and the store at which the processes met have no error of their own for this.
    """
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exit")
    words += ("failed to recv", "Timed out waiting", "Connection refused")
    return any(part in str(error) for part in words)


def end_without_peer(error: RuntimeError, rank: int) -> NoReturn:
    """End a process that lost another one, with exit code 1; whoever started them all may say which it was.

    To part in good order would be to wait for the one that is gone.
    """
    if _LAUNCHER not in os.environ:
        reason = " ".join(str(error).split())[:200]
        said = f"process {rank}: another process of the run is gone or does not answer ({reason})"
        print(f"parsit: {said}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
    os._exit(1)


def _wait(running: list[subprocess.Popen[bytes]], requests: list[float], hang_timeout_s: int) -> int:
    stopped_s = [0.0] * len(running)
    # Each is asked each time: the one that failed may stand behind one that waits for it for ever.
    while not any(codes := [process.poll() for process in running]) and None in codes:
        if requests and requests[-1] - requests[0] > SAME_REQUEST_S:
            _let_end(running)
            _end(running, HURRY_S)
            break
        # Counted, not measured: where this process is stopped too (Ctrl-Z) no time passes.
        stopped_s = [s + _POLL_S if _is_stopped(p.pid) else 0.0 for s, p in zip(stopped_s, running, strict=True)]
        if hang_timeout_s and max(stopped_s) > hang_timeout_s:
            _end_stopped(running, stopped_s.index(max(stopped_s)), hang_timeout_s)
            _let_end(running)
            break
        time.sleep(_POLL_S)
    else:
        _let_end(running)
        _tell_killed(running)
    _end(running)
    codes = [process.wait() for process in running]
    # The first that failed by itself; those that were ended because of it carry a signal's negative number.
    bad = [code for code in codes if code > 0] or [128 - code for code in codes if code < 0]
    return bad[0] if bad else 0


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger (Linux's /proc; elsewhere never)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _end_stopped(running: list[subprocess.Popen[bytes]], rank: int, seconds: int) -> None:
    """Name the process that is stopped, and end it: the others then notice that it is gone."""
    said = f"process {rank} has been stopped (SIGSTOP or a debugger) for {seconds} s (--hang_timeout), the others wait"
    print(
        f"parsit: {said}: the run ends; the same command goes on from the last checkpoint", file=sys.stderr, flush=True
    )
    running[rank].kill()


def _tell_killed(running: list[subprocess.Popen[bytes]]) -> None:
    """A line for each process that a signal ended which nobody here sent."""
    for rank, process in enumerate(running):
        code = process.returncode or 0
        if code < 0 and -code not in (signal.SIGINT, signal.SIGTERM):
            why = ": did the machine's memory run out?" if -code == signal.SIGKILL else ""
            print(f"parsit: process {rank} was ended by {signal.Signals(-code).name}{why}", file=sys.stderr)


def _let_end(running: list[subprocess.Popen[bytes]]) -> None:
    """Give processes that may be ending a moment for it.

    They may be ending with the same error. And of one that is killed the others hear, and end, before it has ended.
    """
    deadline = time.monotonic() + LET_END_S
    while time.monotonic() < deadline and any(process.poll() is None for process in running):
        time.sleep(_POLL_S)


def _end(running: list[subprocess.Popen[bytes]], grace_s: float = GRACE_S) -> None:
    """End those that still run."""
    _signal_all(running, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(process.poll() is None for process in running):
        time.sleep(_POLL_S)
    _signal_all(running, signal.SIGKILL)


def _signal_all(running: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
