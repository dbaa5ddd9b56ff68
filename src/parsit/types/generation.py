"""What is asked of a model for one answer, and what it wrote, with what is known about how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the likeliest token; 1 draws as the model says; above it, more freely.
        top_p: draw among the likeliest tokens that have this probability together.
        seed: of the draws; the same seed gives the same answer, whatever else is in the batch.
        stop: the answer ends before any of these texts.
        schema: a JSON schema, as text, that the answer follows; None: any text.
        top_logprobs: how many of the likeliest tokens are named beside each token.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: str | None = None
    top_logprobs: int = 0


GREEDY = Sampling()
# Below this mean probability of its tokens what was read is flagged `low_confidence` (docs/reading.md): by the model's
# own account one token in twenty is wrong, which for a model that writes characters is a word in four.
LOW_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and its log-probability (nats) in the model's own distribution, before temperature and schema."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds to an answer: a token and the text that is now certain (it may be empty)."""

    text: str
    token: TokenScore


@dataclass(frozen=True, slots=True)
class Confidence:
    """Mean and lowest probability of an answer's tokens, each between 0 and 1."""

    mean: float
    lowest: float

    @property
    def flags(self) -> tuple[str, ...]:
        """What a line or a page that was read with it is flagged with."""
        return ("low_confidence",) if self.mean < LOW_CONFIDENCE else ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated answer.

    `flags` may hold `truncated` (the token limit came before the end of the turn), `looping` (the text repeated itself
    and was stopped), `stopped` (it was ended from outside: time ran out, or whoever asked has gone), and `retried` (the
    first reading looped or was cut, and a second one, drawn more freely, was made). `confidence` is None where nothing
    was generated.
    """

    text: str
    num_tokens: int
    flags: tuple[str, ...] = ()
    confidence: Confidence | None = None
    num_prompt_tokens: int = 0


def joined_confidence(generations: Sequence[Generation]) -> Confidence | None:
    """The confidence in several answers together: the mean over all their tokens, and the lowest of all."""
    known = [(one.confidence, max(one.num_tokens, 1)) for one in generations if one.confidence]
    if not known:
        return None
    total = sum(count for _, count in known)
    mean = sum(confidence.mean * count for confidence, count in known) / total
    return Confidence(mean, min(confidence.lowest for confidence, _ in known))
