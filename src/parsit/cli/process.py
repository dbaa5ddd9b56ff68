"""A verb's process: how its threads wait, what SIGTERM does (set before anything heavy is imported), how it ends."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def wait_passively() -> None:
    """Let idle threads of torch sleep, here and in child processes, unless the user has said how they wait.

    By default libgomp's threads spin while they wait for each other. Beside other programs they burn the time that
    the one they wait for needs (docs/performance.md). libgomp reads these variables once, when torch is imported.
    """
    if not _WAITING.keys() & os.environ.keys():
        os.environ.update(_WAITING)


def stop_on_sigterm() -> None:
    """Let SIGTERM end a verb as Ctrl-C does, so that it removes its drafts and stops its workers.

    In the background (`parsit … &`, nohup, cron) SIGINT is ignored, and SIGTERM is the only way to ask. The processes
    of a run that a launcher started keep the default: they may hang in a collective, where no handler would run.
    """
    if "RANK" not in os.environ and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def end(code: int) -> NoReturn:
    """End a process of a run as Python would, but for taking its interpreter down; for after `leave`.

    DeepSpeed and the meshes of sharded models keep process groups alive, and with them gloo's threads. One that is late
    to let go of the tensor of its last collective needs Python's lock for that. Where the interpreter goes down
    meanwhile, Python ends that thread and C++ aborts the process: on a busy machine one that had ended well was told to
    have been killed by SIGABRT.
    """
    threading._shutdown()  # type: ignore[attr-defined]  (waits for threads that are no daemons)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError:  # a full disk
            code = code or 1
    os._exit(code)
