"""Work in several processes, its results in order."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from parsit.types import ParsitError

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_AHEAD = 4


def in_order(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Generator[Result, None, None]:
    """What a function makes of each task, in the tasks' order, some tasks ahead of who asks.

    Args:
        function: travels to the processes once for each task, so it should be small.
        tasks: asked for as they are needed.
        workers: processes; 1: this one.

    Raises:
        ParsitError: a worker process was killed.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    # A fresh interpreter each: a fork would copy the locks of this process's threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=follow_parent)
    try:
        pending: deque[Future[Result]] = deque()
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) >= _TASKS_AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        advice = "run less beside it, or fewer --workers where the verb has them"
        raise ParsitError(f"a worker process was killed (out of memory?): {advice}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def follow_parent() -> None:
    """Let a worker end with its parent: not on Ctrl-C by itself, and not outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "follow_parent is for worker processes"

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
