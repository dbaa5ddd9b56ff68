"""`Row` and `RowQueue`: conversations that are being answered, and the order in which they begin; of any engine."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from parsit.parse.answer_text import AnswerText
from parsit.types import Confidence, Delta, Generation, InputError, Sampling, TokenScore

# A text loops when its last tokens are one period, at most this long, this many times over.
MAX_PERIOD = 64
MIN_REPEATS = 4
MIN_LOOP_TOKENS = 32
_CHECK_EVERY = 8


@dataclass(eq=False, slots=True)
class Row:
    """One conversation that is being answered.

    Args:
        num_prompt_tokens: tokens of the prompt, images included.
        max_new_tokens: the longest answer.
        sampling: how tokens are chosen.
        text: the answer so far.
        on_delta: called with every token, in the thread that steps.
        deadline: `time.monotonic()` at which the answer is stopped.
        is_bulk: one of many; see `RowQueue`.
    """

    num_prompt_tokens: int
    max_new_tokens: int
    sampling: Sampling
    text: AnswerText
    on_delta: Callable[[Delta], None] | None = None
    deadline: float = math.inf
    is_bulk: bool = False
    is_cancelled: bool = False
    result: Generation | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def advance(self, token: TokenScore, end: int) -> None:
        """Put a token behind the answer; the row is done if that ends it.

        Args:
            token: the next one.
            end: the token that ends a turn.
        """
        self.logprobs.append(token.logprob)
        if token.id == end:
            self.finish(())
            return
        self.ids.append(token.id)
        delta = self.text.add(token.id)
        if self.on_delta:
            self.on_delta(Delta(delta, token))
        self.accept(token.id)
        if self.text.is_stopped:
            self.finish(())
        elif len(self.ids) % _CHECK_EVERY == 0 and repeats_itself(self.ids):
            self.finish(("looping",))
        elif len(self.ids) >= self.max_new_tokens:
            self.finish(("truncated",))

    def finish(self, flags: tuple[str, ...]) -> None:
        """Close the answer and let its memory go."""
        rest = self.text.finish()
        if rest and self.on_delta:
            self.on_delta(Delta(rest, TokenScore(-1, 0.0)))
        probabilities = [math.exp(one) for one in self.logprobs]
        confidence = None
        if probabilities:
            confidence = Confidence(sum(probabilities) / len(probabilities), min(probabilities))
        self.result = Generation(self.text.text, len(self.ids), flags, confidence, self.num_prompt_tokens)
        self.release()

    def accept(self, token: int) -> None:
        """For an engine that holds answers to a schema by itself: go on behind a token."""

    def release(self) -> None:
        """For an engine: let go of what an answer that is done needs no more."""


R = TypeVar("R", bound=Row)


class RowQueue(ABC, Generic[R]):
    """Rows that wait and rows that are being written. Not thread-safe: one thread steps.

    Rows begin in the order in which they came, but bulk rows never take the last quarter of the places: who asks one
    question does not wait for the pages of a long document.

    Args:
        max_rows: rows that are written at a time.
        context: the most tokens of a prompt and its answer.
    """

    def __init__(self, max_rows: int, context: int) -> None:
        self.max_rows, self.context = max_rows, context
        self.waiting: deque[R] = deque()
        self.active: list[R] = []

    @abstractmethod
    def step(self) -> list[R]:
        """One token, or several, for rows that are written; gives the rows that are done."""

    def discard(self) -> None:
        """Let go of the rows that are being written; nobody is told."""
        self.active = []

    def add(self, row: R) -> None:
        """Let a row wait for its turn.

        Raises:
            InputError: its prompt leaves no room in the model's context.
        """
        self.check(row)
        self.waiting.append(row)

    def check(self, row: R) -> None:
        """See to it that a row ends where the model's context does; any thread may ask. Raises as `add`."""
        row.max_new_tokens = min(row.max_new_tokens, self.room(row.num_prompt_tokens))

    def room(self, prompt_length: int) -> int:
        """How many tokens the model's context leaves behind a prompt. Raises `InputError` if that is none."""
        if prompt_length >= self.context:
            raise InputError(
                f"images and prompt are {prompt_length:,} tokens, the model's context has {self.context:,}: "
                "show fewer pages"
            )
        return self.context - prompt_length

    def stop_rows(self) -> list[R]:
        """Close the rows whose time is up or that nobody waits for any more."""
        now = time.monotonic()
        stopped = [row for row in (*self.active, *self.waiting) if row.is_cancelled or now >= row.deadline]
        for row in stopped:
            row.finish(("stopped",))
        if stopped:
            self.active = [row for row in self.active if not row.result]
            self.waiting = deque(row for row in self.waiting if not row.result)
        return stopped

    def admit(self, most_tokens: float = math.inf) -> list[R]:
        """The rows that begin now: as many as there is room for, of `most_tokens` prompt tokens but one at least."""
        new: list[R] = []
        num_tokens = 0
        free = self.max_rows - len(self.active)
        free_for_bulk = self.max_rows - self.max_rows // 4 - sum(row.is_bulk for row in self.active)
        for row in tuple(self.waiting):
            if len(new) == free or (new and num_tokens + row.num_prompt_tokens > most_tokens):
                break
            if row.is_bulk and free_for_bulk <= 0:
                continue
            free_for_bulk -= row.is_bulk
            num_tokens += row.num_prompt_tokens
            new.append(row)
            self.waiting.remove(row)
        return new

    def take_done(self) -> list[R]:
        """The rows that have ended since it was last asked; their places are free."""
        done = [row for row in self.active if row.result]
        self.active = [row for row in self.active if not row.result]
        return done


def repeats_itself(ids: Sequence[object]) -> bool:
    """Whether the end of `ids` is one period of up to `MAX_PERIOD` tokens, `MIN_REPEATS` times over."""
    for period in range(1, MAX_PERIOD + 1):
        length = max(MIN_REPEATS * period, MIN_LOOP_TOKENS)
        if length > len(ids):
            return False
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False
