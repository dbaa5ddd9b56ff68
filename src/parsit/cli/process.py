"""What a verb's process is set to before anything heavy is imported: how its threads wait, and what SIGTERM does."""

from __future__ import annotations

import os
import signal
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
