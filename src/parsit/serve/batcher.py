"""`Batcher`: the one thread that owns the model. Whatever is asked is written together, each row on its own.

Rows come in from any thread and are told of their tokens in the batcher's own; whoever listens hands on and returns at
once. A step that fails fails the rows that were in it, and the next rows find an empty batch.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from parsit.parse.reader import Engine, OnDelta
from parsit.parse.row_engine import RowEngine
from parsit.types import GREEDY, Delta, Generation, ParsitError, Sampling, Turn

log = logging.getLogger("parsit.serve")
_PATIENCE_S = 0.1  # between looks at whether anybody still waits

OnDone = Callable[[Generation | Exception], None]


class StoppedError(Exception):
    """Whoever asked has gone, the time is up, or the server ends: nobody waits for this answer."""


class Ticket(Protocol):
    """An answer on its way."""

    def cancel(self) -> None:
        """Let go of it; its row is free from the next step on."""
        ...


class ServingEngine(Engine, Protocol):
    """What the server needs of an engine: a reader's `generate` from many threads, and answers one by one."""

    def submit(
        self,
        turns: tuple[Turn, ...],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        on_delta: Callable[[Delta], None],
        on_done: OnDone,
        deadline: float,
    ) -> Ticket:
        """Ask for one answer; the callbacks come from another thread. Raises `InputError`."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        ...

    def load(self) -> tuple[int, int]:
        """Answers that are being written, and answers that wait."""
        ...

    def stop(self) -> None:
        """End all answers and take no more."""
        ...


@dataclass(eq=False, slots=True)
class RowTicket:
    """A row of the batch, and who is told when it is done."""

    row: Any
    on_done: OnDone

    def cancel(self) -> None:
        """Let go of the row."""
        self.row.is_cancelled = True


class Batcher:
    """Answers from many threads at once, on one `parsit.parse.row_engine.RowEngine`: a model at hand, or vLLM's.

    Args:
        engine: the model; nobody else may use it from now on.
    """

    def __init__(self, engine: RowEngine) -> None:
        self._engine = engine
        self._batch = engine.new_batch()
        self._tickets: dict[Any, RowTicket] = {}
        self._inbox: list[RowTicket] = []
        self._wake = threading.Condition()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="parsit-batcher", daemon=True)
        self._thread.start()

    @property
    def batch_size(self) -> int:
        """Answers that are written at a time."""
        return self._engine.batch_size

    @property
    def read_prompt(self) -> str:
        """The prompt with which the model was trained to read."""
        return self._engine.read_prompt

    @property
    def reading_unit(self) -> str:
        """What the model was trained to read at once: `page` or `line`."""
        return self._engine.reading_unit

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model is known to be able to do; none: that is not known."""
        return self._engine.tasks

    def submit(
        self,
        turns: tuple[Turn, ...],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: Callable[[Delta], None] | None = None,
        on_done: OnDone,
        deadline: float = math.inf,
        is_bulk: bool = False,
    ) -> RowTicket:
        """Ask for one answer; the prompt is encoded here, in the thread that asks.

        Args:
            turns: the conversation.
            max_new_tokens: the longest answer.
            sampling: how tokens are chosen.
            on_delta: told of every token.
            on_done: told once, of the answer or of what went wrong.
            deadline: `time.monotonic()` at which the answer is stopped.
            is_bulk: one of many of a file; some rows are kept free of these.

        Raises:
            InputError: an image that cannot be read, a prompt that is too long, or a schema that cannot be followed.
            StoppedError: the server ends.
        """
        row = self._engine.new_row(
            turns, max_new_tokens=max_new_tokens, sampling=sampling, on_delta=on_delta, deadline=deadline
        )
        row.is_bulk = is_bulk
        self._batch.check(row)
        ticket = RowTicket(row, on_done)
        with self._wake:
            if self._is_stopped:
                raise StoppedError("the server ends")
            self._inbox.append(ticket)
            self._wake.notify()
        return ticket

    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
        deadline: float = math.inf,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Generation]:
        """As `Engine.generate`, beside whatever else is being answered.

        Args:
            conversations: what to answer.
            max_new_tokens: the longest answer.
            sampling: how tokens are chosen.
            on_delta: told of every token.
            deadline: `time.monotonic()` at which all is stopped.
            is_wanted: asked now and then; all is stopped when it says no.

        Raises:
            ParsitError: as `submit`.
            StoppedError: the time is up, or nobody wants the answers any more.
        """
        results: list[Generation | Exception | None] = [None] * len(conversations)
        done = threading.Semaphore(0)
        tickets = []

        def finish(place: int) -> OnDone:
            def on_done(result: Generation | Exception) -> None:
                results[place] = result
                done.release()

            return on_done

        try:
            for place, turns in enumerate(conversations):
                listen = None if on_delta is None else _at(place, on_delta)
                tickets.append(
                    self.submit(
                        turns,
                        max_new_tokens=max_new_tokens,
                        sampling=sampling,
                        on_delta=listen,
                        on_done=finish(place),
                        is_bulk=True,
                    )
                )
            for _ in tickets:
                while not done.acquire(timeout=_PATIENCE_S):
                    if time.monotonic() >= deadline or not is_wanted():
                        raise StoppedError("the reading was stopped")
        finally:
            for ticket in tickets:
                ticket.cancel()  # those that are done do not mind
        return [_unwrapped(result) for result in results]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        return self._engine.token_bytes(token)

    def load(self) -> tuple[int, int]:
        """Answers that are being written, and answers that wait."""
        return len(self._batch.active), len(self._batch.waiting) + len(self._inbox)

    def stop(self) -> None:
        """End all answers and the thread."""
        with self._wake:
            self._is_stopped = True
            self._wake.notify()
        self._thread.join()
        self._engine.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._inbox or self._tickets or self._is_stopped):
                    self._wake.wait()
                arrived, self._inbox = self._inbox, []
                is_stopped = self._is_stopped
            for ticket in arrived:
                self._tickets[ticket.row] = ticket
                self._batch.add(ticket.row)
            if is_stopped:
                return self._fail(StoppedError("the server ends"))
            self._step()

    def _step(self) -> None:
        try:
            done = self._batch.step()
        except Exception as error:
            log.exception("a step of the batch failed")
            self._fail(error, keep=self._batch.waiting)
            return
        for row in done:
            self._tell(self._tickets.pop(row), row.result)

    def _fail(self, error: Exception, keep: Sequence[Any] = ()) -> None:
        """Give up on all rows but those that are kept, which go on in a new batch."""
        self._batch.discard()
        self._batch = self._engine.new_batch()
        tickets, self._tickets = self._tickets, {row: self._tickets[row] for row in keep}
        for row in keep:
            self._batch.add(row)
        for row, ticket in tickets.items():
            if row not in self._tickets:
                self._tell(ticket, error)

    def _tell(self, ticket: RowTicket, result: Generation | Exception) -> None:
        try:
            ticket.on_done(result)
        except RuntimeError:  # the event loop of whoever asked has ended
            log.debug("nobody listens any more", exc_info=True)


def _unwrapped(result: Generation | Exception | None) -> Generation:
    if isinstance(result, Generation):
        if "stopped" in result.flags:
            raise StoppedError("the reading was stopped")
        return result
    assert result is not None
    if isinstance(result, StoppedError | ParsitError):
        raise result
    raise RuntimeError("the model failed at a reading") from result


def _at(place: int, on_delta: OnDelta) -> Callable[[Delta], None]:
    return lambda delta: on_delta(place, delta)
