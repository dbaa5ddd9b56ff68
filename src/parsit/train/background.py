"""A thread that does one piece of work at a time while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from parsit.types import ParsitError

# Asks whether work may go on; raises where it was given up.
GoOn = Callable[[], None]


class GivenUpError(ParsitError):
    """The work was given up by whoever began it."""


class Background:
    """At most one piece of work in flight.

    A thread, not a process: the work is writing and hashing, for which Python's lock is not held, and a process would
    need a copy of all that is written.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._given_up = threading.Event()

    def start(self, work: Callable[[GoOn], None]) -> None:
        """Begin; `work` is handed what it calls now and then."""
        assert self._thread is None, "the last piece of work was not waited for"
        self._error = None
        self._given_up.clear()
        self._thread = threading.Thread(target=self._do, args=(work,), name="checkpoint", daemon=True)
        self._thread.start()

    def _do(self, work: Callable[[GoOn], None]) -> None:
        try:
            work(self._go_on)
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def _go_on(self) -> None:
        if self._given_up.is_set():
            raise GivenUpError("given up")

    @property
    def is_done(self) -> bool:
        """Whether nothing is being done; there may be something that was not waited for yet."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def error(self) -> BaseException | None:
        """What the work raised; None: nothing, or it is still being done."""
        return self._error

    def wait(self) -> None:
        """Wait for the end of what was begun, if anything was, and raise what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def give_up(self) -> None:
        """End what is being done at its next chunk; what it raises is dropped."""
        self._given_up.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = self._error = None
