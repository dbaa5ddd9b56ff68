"""Processes that draw pages, each with a thread that talks to it; what is done waits in a queue for who reads.

A process that dies costs the file it was working on a second try, in a new process; then it is a failure of that file.
What it may be asked of at a time is up to who asks: `in_hand` says how many requests are on their way.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from parsit.parse.open_page import OpenPage
from parsit.scale.drawing import Drawing, Drawn, DrawnPage, from_message, request_of
from parsit.scale.inputs import Source

TRIES = 2
_COMMAND = [sys.executable, "-P", "-c", "from parsit.scale.drawing import serve; serve()"]


class WorkerDiedError(Exception):
    """The process that drew is gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """A file that is to be drawn: all that is needed of it, or the pages that an earlier request left."""

    source: Source
    digest: str = ""
    numbers: list[int] | None = None
    page_count: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request; `drawn` is None where nothing had to be drawn."""

    request: Request
    digest: str
    drawn: Drawn | None


class Workers:
    """Draws files ahead in processes of its own, until `close`.

    Args:
        drawing: how pages are drawn.
        count: processes.
        skip: called with a file's digest from any thread: the pages that need not be drawn, or None where none need.
    """

    def __init__(self, drawing: Drawing, count: int, skip: Callable[[str], frozenset[int] | None]) -> None:
        self._drawing, self._skip = drawing, skip
        self._threads = ThreadPoolExecutor(count, "parsit-drawing")
        self._own = threading.local()
        self._processes: set[_Process] = set()
        self._done: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._is_closed = False
        self.in_hand = 0

    def close(self) -> None:
        """End the processes; what they were working on is lost."""
        self._is_closed = True
        for process in tuple(self._processes):
            process.kill()  # its thread learns of it, and ends as well
        self._threads.shutdown(cancel_futures=True)
        for process in tuple(self._processes):
            process.end()

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that are there now."""
        return [process.pid for process in tuple(self._processes)]

    def ask(self, request: Request) -> None:
        """Have a file drawn."""
        self.in_hand += 1
        self._threads.submit(self._do, request)

    def results(self, wait: bool) -> Iterator[Result]:
        """What is done; with `wait`, at least one result, if any is on its way."""
        while self.in_hand:
            try:
                result = self._done.get(block=wait)
            except queue.Empty:
                return
            wait = False
            self.in_hand -= 1
            if isinstance(result, BaseException):
                raise result
            yield result

    def _do(self, request: Request) -> None:
        try:
            self._done.put(self._result(request))
        except BaseException as error:
            self._done.put(error)  # a fault of ours; who waits is told

    def _result(self, request: Request) -> Result:
        digest, skip = request.digest, frozenset[int]()
        try:
            if request.numbers is None:
                header, _ = self._asked({"do": "digest", "source": asdict(request.source)})
                if "error" in header:
                    return Result(request, "", Drawn(error=header["error"]))
                digest = header["digest"]
                found = self._skip(digest)
                if found is None:
                    return Result(request, digest, None)
                skip = found
            header, pixels = self._asked(request_of(request.source, self._drawing, request.numbers, skip))
        except WorkerDiedError as error:
            return Result(request, digest, self._given_up(request, str(error)))
        return Result(request, digest, from_message(header, pixels))

    def _given_up(self, request: Request, reason: str) -> Drawn:
        """A file whose drawing ends the process: it fails; further on in it, the pages that were asked for."""
        if request.numbers is None:
            return Drawn(error=reason, is_lasting=True)
        chunk = self._drawing.pages_at_once
        pages = [DrawnPage(OpenPage(number, error=reason), []) for number in request.numbers[:chunk]]
        return Drawn(request.page_count, pages, tuple(request.numbers[chunk:]))

    def _asked(self, message: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The answer to a message, from a second process where the first one dies. Raises `WorkerDiedError`."""
        for attempt in range(TRIES):
            process = self._process()
            try:
                return process.exchange(message)
            except WorkerDiedError:
                self._processes.discard(process)
                self._own.process = None
                if attempt == TRIES - 1 or self._is_closed:
                    raise
        raise AssertionError("unreachable")

    def _process(self) -> _Process:
        """The process of the thread that asks; it is started where there is none."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = _Process()
            self._processes.add(process)
            if self._is_closed:
                process.kill()
        return process


class _Process:
    """One process that draws."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def exchange(self, message: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """One request and its answer. Raises `WorkerDiedError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            header = json.loads(line)
            payload = self._process.stdout.read(header["size"])
            if len(payload) != header["size"]:
                raise EOFError("half an answer")
            return header, payload
        except (OSError, EOFError, ValueError) as error:
            self.end()
            raise WorkerDiedError(f"the process that drew it ended ({self._how()})") from error

    def kill(self) -> None:
        """Kill it; any thread may."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and clean up, in the thread that talks to it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError, ValueError):  # bytes that it never read
                pipe.close()

    def _how(self) -> str:
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"code {code}"


def default_count() -> int:
    """Processes that draw ahead by default: all processors but one, which the model has, and at most eight."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 2))
