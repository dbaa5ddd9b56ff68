"""`RowEngine`: what engines share that answer conversations as rows of a batch: a model at hand, or vLLM's.

Prompts with images in, generations out; no document and no file format. Each is an `Engine` as `parsit.parse.reader`
asks for, and what `parsit.serve.batcher.Batcher` steps.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from parsit.parse.answer_text import AnswerText
from parsit.parse.reader import OnDelta
from parsit.parse.row_queue import Row, RowQueue
from parsit.processing.processor import ParsitProcessor
from parsit.types import GREEDY, Delta, Generation, InputError, Sampling, Turn

# Byte-level tokenizers (Radford et al. 2019) write each byte as a character that can be seen: the visible ones of
# Latin-1 as themselves, the others in their order from U+0100 on.
_VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _VISIBLE]
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}


class RowEngine(ABC):
    """Answers conversations, several at a time; where one ends the next begins.

    Args:
        processor: the model's.
        batch_size: conversations that are answered at a time.
    """

    def __init__(self, processor: ParsitProcessor, batch_size: int) -> None:
        self.processor = processor
        self.batch_size = batch_size
        self._encoding = threading.Lock()  # fast tokenizers do not let two threads in

    @property
    def read_prompt(self) -> str:
        """The prompt with which the model was trained to read."""
        return self.processor.read_prompt

    @property
    def reading_unit(self) -> str:
        """What the model was trained to read at once: `page` or `line`."""
        return self.processor.reading_unit

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model is known to be able to do; none: that is not known."""
        return self.processor.tasks

    @abstractmethod
    def new_batch(self) -> RowQueue[Any]:
        """An empty batch, for whoever steps it himself."""

    @abstractmethod
    def _new_row(self, turns: tuple[Turn, ...], sampling: Sampling, how: dict[str, Any]) -> Row:
        """A row of this engine; `how` holds what all rows have, but for the number of prompt tokens."""

    @abstractmethod
    def close(self) -> None:
        """End what the engine has started."""

    def new_row(
        self,
        turns: tuple[Turn, ...],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: Callable[[Delta], None] | None = None,
        deadline: float = math.inf,
    ) -> Row:
        """A conversation that is ready to be put into a batch; any thread may make one.

        Args:
            turns: ends with the user's turn.
            max_new_tokens: the longest answer, in tokens.
            sampling: how tokens are chosen.
            on_delta: called with every token.
            deadline: `time.monotonic()` at which the answer is stopped.

        Raises:
            InputError: an image that cannot be read, half a character in a text, or a schema that cannot be followed.
        """
        for turn in turns:
            _check_characters(turn.text)
        text = AnswerText(self.processor.tokenizer, sampling.stop)
        how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "sampling": sampling, "text": text}
        with self._encoding:
            return self._new_row(turns, sampling, how | {"on_delta": on_delta, "deadline": deadline})

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for: part of a character, for some."""
        word = str(self.processor.tokenizer.convert_ids_to_tokens(token) or "")
        known = _BYTE_OF
        return bytes(known[c] for c in word) if all(c in known for c in word) else word.encode()

    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
    ) -> list[Generation]:
        """One answer for each conversation.

        Args:
            conversations: each ends with the user's turn.
            max_new_tokens: the longest answer, in tokens; where the model's context ends it is `truncated` earlier.
            sampling: how tokens are chosen; greedily by default.
            on_delta: called with every token.

        Raises:
            InputError: an image that cannot be read, a prompt that fills the model's context, or a schema that cannot
                be followed.
        """
        batch = self.new_batch()
        rows: list[Row] = []
        try:
            while len(rows) < len(conversations) or not all(row.result for row in rows):
                while len(rows) < len(conversations) and len(batch.waiting) + len(batch.active) < self.batch_size:
                    place = len(rows)
                    listen = None if on_delta is None else _at(place, on_delta)
                    row = self.new_row(
                        conversations[place], max_new_tokens=max_new_tokens, sampling=sampling, on_delta=listen
                    )
                    batch.add(row)
                    rows.append(row)
                batch.step()
        finally:
            batch.discard()
        return [row.result for row in rows if row.result]


def _check_characters(text: str) -> None:
    """Refuse what UTF-8 cannot say: half of a pair in JSON, or bytes of a command line that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text has half a character at {error.start} (a lone surrogate)") from error


def _at(place: int, on_delta: OnDelta) -> Callable[[Delta], None]:
    return lambda delta: on_delta(place, delta)
