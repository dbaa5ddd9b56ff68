"""`Generation`: what a model wrote for one prompt, with what is known about how it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated answer.

    `flags` may hold `truncated` (the token limit came before the end of the turn) and `looping`
    (the text repeated itself and was stopped).
    """

    text: str
    num_tokens: int
    flags: tuple[str, ...] = ()
