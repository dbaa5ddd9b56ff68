"""What a run is asked while it goes: to stop after this step, to save and go on, to end at once; and its time.

Signals are noted by each process and agreed upon before a step, so that all save or leave after the same one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# What asks a run to stop: a person, a scheduler, a terminal that closes.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVING = signal.SIGUSR1
# Two signals within so many seconds are one request.
SAME_REQUEST_S = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked before a step: to `stop` after it, because a signal came or the time is up; to `save` after it."""

    stop: bool = False
    time_is_up: bool = False
    save: bool = False

    @property
    def ends(self) -> bool:
        """Whether the run ends after the step."""
        return self.stop or self.time_is_up

    def as_numbers(self) -> list[float]:
        """To be summed over the processes."""
        return [float(self.stop), float(self.time_is_up), float(self.save)]

    @classmethod
    def of(cls, sums: Sequence[float]) -> Asked:
        """What any process was asked."""
        return cls(*(number > 0 for number in sums))


class Requests:
    """What this process was asked.

    Args:
        max_hours: stop in time for this limit, from now on; 0: there is none.
    """

    def __init__(self, max_hours: float = 0.0) -> None:
        self._limit = time.monotonic() + 3600 * max_hours if max_hours else None
        self._last: float | None = None
        self._longest_s = 0.0
        self._stopped_at: float | None = None
        self._save = False
        self._at_once: Callable[[], None] = lambda: None

    def take(self, spare_s: float = 0.0) -> Asked:
        """What is asked before the step that begins now; a save is asked for once.

        The time is up where another step as long as the longest so far, with its validation and its checkpoint, would
        go beyond the limit.

        Args:
            spare_s: seconds that the run's end takes besides, as saves that go on behind steps do.
        """
        now = time.monotonic()
        self._longest_s, self._last = max(self._longest_s, now - (self._last or now)), now
        time_is_up = self._limit is not None and now + 2 * self._longest_s + spare_s > self._limit
        asked = Asked(self._stopped_at is not None, time_is_up, self._save)
        self._save = False
        return asked

    def note(self, number: int, _: object) -> None:
        """The handler of the signals.

        Raises:
            KeyboardInterrupt: it is the second request to stop.
        """
        if number == SAVING:
            self._save = True
            return
        if self._stopped_at is not None and time.monotonic() > self._stopped_at + SAME_REQUEST_S:
            self._at_once()
            raise KeyboardInterrupt
        self._stopped_at = self._stopped_at or time.monotonic()

    @contextmanager
    def heard(self, at_once: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hear signals inside; `at_once` is called where a second one ends the run.

        One request may come twice: to the whole process group, and handed on by what started this process. Outside the
        main thread, which alone hears of signals, none is heard; nor is a request to stop that is ignored (`nohup`).
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._at_once = at_once
        numbers = [SAVING, *(number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN)]
        previous = {number: signal.signal(number, self.note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
