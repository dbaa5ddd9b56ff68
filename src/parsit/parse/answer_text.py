"""Token by token to text: what is certain is given out, what may still change or be cut is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"  # what a decoder gives for the first bytes of a character


class AnswerText:
    """The text of one answer as it grows.

    Args:
        tokenizer: decodes ids.
        stop: texts before which the answer ends.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._known, self._done = 0, 0  # ids before `_done` are decoded; from `_known` on they are decoded again
        self._held = ""
        self.text = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now, after one more token; it may be empty."""
        self._ids.append(token)
        new = self._decoded()
        return self._give_out(self._held + new) if new else ""

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        rest = self._decode(self._known, len(self._ids)).removeprefix(self._decode(self._known, self._done))
        rest = "" if self.is_stopped else self._held + rest
        self._held, self._known, self._done = "", len(self._ids), len(self._ids)
        self.text += rest
        return rest

    def _decoded(self) -> str:
        """Text of the ids that have not been given out; nothing while a character is incomplete."""
        before = self._decode(self._known, self._done)
        now = self._decode(self._known, len(self._ids))
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        self._known, self._done = self._done, len(self._ids)
        return now[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)) if start < end else ""

    def _give_out(self, waiting: str) -> str:
        """The part of `waiting` in which no stop text can begin; the rest is held back."""
        places = [place for place in (waiting.find(text) for text in self._stop) if place >= 0]
        if places:
            self.is_stopped = True
            given, self._held = waiting[: min(places)], ""
        else:
            held = max((_overlap(waiting, text) for text in self._stop), default=0)
            given, self._held = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
        self.text += given
        return given


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
