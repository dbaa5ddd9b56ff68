"""`RowBatch`: continuous batching. Conversations go in whenever they come, and out as soon as each is done.

A step is: take in rows that wait, run the model once on the newest tokens of all rows, choose a token for each, let
rows go that have ended. What a row answers does not depend on what else is in the batch: its attention is its own, its
draws have a generator of their own; matrix products of more rows may round differently in the last bit.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from parsit.model import ParsitForConditionalGeneration
from parsit.parse.answer_text import AnswerText
from parsit.parse.row_attention import RowCache, Segment, attending_rows
from parsit.processing.collate import collate_packed
from parsit.processing.processor import Features, ParsitProcessor
from parsit.types import Confidence, Delta, Generation, InputError, Sampling, TokenScore

# A text loops when its last tokens are one period, at most this long, this many times over.
MAX_PERIOD = 64
MIN_REPEATS = 4
MIN_LOOP_TOKENS = 32
_CHECK_EVERY = 8
# Prompts that go through the model in one step, in tokens; a longer one goes alone, and rows that are being written
# wait for that step. On a CPU one prompt a step: it keeps the processor busy by itself, so that several only wait for
# each other, and rows that begin together end together, which makes the next ones wait as well (benchmarks/rows.py).
PROMPT_TOKENS_A_STEP = {"cpu": 1, "cuda": 2048}


class Matcher(Protocol):
    """What says which tokens may come next; see `parsit.parse.grammar`."""

    def allow(self, logits_V: torch.Tensor) -> None:
        """Set the logits of tokens that may not come to minus infinity."""
        ...

    def accept(self, token: int) -> None:
        """Go on behind a token."""
        ...


@dataclass(eq=False, slots=True)
class Row:
    """One conversation that is being answered.

    Args:
        features: the encoded prompt; dropped once the model has seen it.
        max_new_tokens: the longest answer.
        sampling: how tokens are chosen.
        text: the answer so far.
        matcher: holds the answer to a schema.
        on_delta: called with every token, in the thread that steps.
        deadline: `time.monotonic()` at which the answer is stopped.
        is_bulk: one of many; see `RowBatch`.
    """

    features: Features | None
    max_new_tokens: int
    sampling: Sampling
    text: AnswerText
    matcher: Matcher | None = None
    on_delta: Callable[[Delta], None] | None = None
    deadline: float = math.inf
    is_bulk: bool = False
    is_cancelled: bool = False
    result: Generation | None = None
    num_prompt_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cache: RowCache = field(default_factory=RowCache)
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.sampling.temperature > 0:
            self.generator = torch.Generator(device="cpu").manual_seed(self.sampling.seed)

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
        self.features, self.cache, self.matcher, self.generator = None, RowCache(), None, None


class RowBatch:
    """Rows that wait and rows that are being written, on one model. Not thread-safe: one thread steps.

    Rows begin in the order in which they came, but bulk rows never take the last quarter of the places: who asks one
    question does not wait for the pages of a long document.

    Args:
        model: the model, on its device.
        processor: its processor.
        max_rows: rows that are written at a time.
    """

    def __init__(self, model: ParsitForConditionalGeneration, processor: ParsitProcessor, max_rows: int) -> None:
        self.model, self.processor, self.max_rows = model, processor, max_rows
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []

    def add(self, row: Row) -> None:
        """Let a row wait for its turn.

        Raises:
            InputError: its prompt leaves no room in the model's context.
        """
        self.check(row)
        self.waiting.append(row)

    def check(self, row: Row) -> None:
        """See to it that a row ends where the model's context does; any thread may ask. Raises as `add`."""
        assert row.features is not None
        row.num_prompt_tokens = len(row.features.input_ids)
        row.max_new_tokens = min(row.max_new_tokens, self.room(row.num_prompt_tokens))

    def room(self, prompt_length: int) -> int:
        """How many tokens the model's context leaves behind a prompt. Raises `InputError` if that is none."""
        context = self.model.config.text_config.max_position_embeddings
        if prompt_length >= context:
            raise InputError(
                f"images and prompt are {prompt_length:,} tokens, the model's context has {context:,}: show fewer pages"
            )
        return context - prompt_length

    @torch.no_grad()
    def step(self) -> list[Row]:
        """One token for every row that is written; gives the rows that are done."""
        stopped = self._stop_rows()
        new = self._admit()
        if not self.active and not new:
            return stopped
        scores_RV = self._scores(self.active, new)
        self.active += new
        self._choose(scores_RV)
        done = [row for row in self.active if row.result]
        self.active = [row for row in self.active if not row.result]
        return stopped + done

    def _stop_rows(self) -> list[Row]:
        """Close the rows whose time is up or that nobody waits for any more."""
        now = time.monotonic()
        stopped = [row for row in (*self.active, *self.waiting) if row.is_cancelled or now >= row.deadline]
        for row in stopped:
            row.finish(("stopped",))
        if stopped:
            self.active = [row for row in self.active if not row.result]
            self.waiting = deque(row for row in self.waiting if not row.result)
        return stopped

    def _admit(self) -> list[Row]:
        """The rows that begin in this step."""
        new: list[Row] = []
        num_tokens = 0
        most = PROMPT_TOKENS_A_STEP.get(self.model.device.type, 2048)
        free = self.max_rows - len(self.active)
        free_for_bulk = self.max_rows - self.max_rows // 4 - sum(row.is_bulk for row in self.active)
        for row in tuple(self.waiting):
            if len(new) == free or (new and num_tokens + row.num_prompt_tokens > most):
                break
            if row.is_bulk and free_for_bulk <= 0:
                continue
            free_for_bulk -= row.is_bulk
            num_tokens += row.num_prompt_tokens
            new.append(row)
            self.waiting.remove(row)
        return new

    def _scores(self, written: Sequence[Row], new: Sequence[Row]) -> torch.Tensor:
        """Run the model on the last token of rows that are written and on the prompts of new ones.

        Returns:
            `float32[rows, V]` on the CPU: the scores of each row's next token.
        """
        device = self.model.device
        rows = [*written, *new]
        lengths = [1] * len(written) + [row.num_prompt_tokens for row in new]
        starts = [row.cache.length for row in rows]
        positions = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        ends = torch.tensor(lengths).cumsum(0) - 1
        embeds_1TD = self._embeds(written, new)
        with attending_rows(self.model):
            # Its parts are called, not the model: a strategy that shards has gathered what is its own for the whole of
            # a reading, and would let go of it behind a call.
            logits = self.model.forward(
                inputs_embeds=embeds_1TD,
                # A mask with four dimensions is handed through as it is; None would make transformers build one.
                attention_mask=embeds_1TD.new_zeros(1, 1, 1, 1),
                position_ids=positions[None].to(device),
                use_cache=False,
                logits_to_keep=ends.to(device),
                segments=[Segment(row.cache, length) for row, length in zip(rows, lengths, strict=True)],
            ).logits
        assert logits is not None, "nothing is learnt here"
        for row, length in zip(rows, lengths, strict=True):
            row.cache.length += length
            row.features = None
        return logits[0].float().cpu()

    def _embeds(self, written: Sequence[Row], new: Sequence[Row]) -> torch.Tensor:
        """`float[1, T, D]`: tokens of the rows that are written, then the new prompts with their images."""
        parts = []
        if written:
            ids = torch.tensor([[row.ids[-1] for row in written]], device=self.model.device)
            # Not `embed`: a model may say the image token, which then is a word like any other.
            parts.append(self.model.get_input_embeddings()(ids))
        if new:
            prompts: list[Features] = [row.features for row in new if row.features]
            batch = collate_packed(prompts, self.processor.chat_tokens.pad).to(self.model.device)
            inputs: dict[str, Any] = {
                "pixel_values": batch.pixel_values,
                "image_sizes": batch.image_sizes,
                "image_positions": batch.image_positions,
            }
            parts.append(self.model.embed(batch.input_ids, **inputs)[0])
        return torch.cat(parts, dim=1)

    def _choose(self, scores_RV: torch.Tensor) -> None:
        """A token for each active row, and what becomes of the row."""
        totals = scores_RV.logsumexp(-1).tolist()  # a score less this is a log-probability
        for row, scores_V, total in zip(self.active, scores_RV, totals, strict=True):
            own_V = scores_V.clone() if row.matcher else scores_V
            top = _top(own_V, total, row.sampling.top_logprobs)
            if row.matcher:
                row.matcher.allow(scores_V)
                if scores_V.max() == -torch.inf:  # a schema that leads nowhere from here
                    row.finish(("truncated",))
                    continue
            token = _draw(scores_V, row.sampling, row.generator)
            self._advance(row, TokenScore(token, float(own_V[token]) - total, top))

    def _advance(self, row: Row, token: TokenScore) -> None:
        """Put a token behind a row's answer; the row is done if that ends it."""
        row.logprobs.append(token.logprob)
        if token.id == self.processor.chat_tokens.im_end:
            row.finish(())
            return
        row.ids.append(token.id)
        delta = row.text.add(token.id)
        if row.on_delta:
            row.on_delta(Delta(delta, token))
        if row.matcher:
            row.matcher.accept(token.id)
        if row.text.is_stopped:
            row.finish(())
        elif len(row.ids) % _CHECK_EVERY == 0 and repeats_itself(row.ids):
            row.finish(("looping",))
        elif len(row.ids) >= row.max_new_tokens:
            row.finish(("truncated",))


def _draw(scores_V: torch.Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The likeliest token, or one that is drawn."""
    if generator is None:
        return int(scores_V.argmax())
    probabilities_V = (scores_V / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, places = probabilities_V.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0  # the first one always stays
        return int(places[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def _top(scores_V: torch.Tensor, total: float, count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest tokens with their log-probabilities; `total` is the scores' logsumexp."""
    if not count:
        return ()
    values, ids = scores_V.topk(count)
    return tuple(zip(ids.tolist(), (values - total).tolist(), strict=True))


def repeats_itself(ids: Sequence[int]) -> bool:
    """Whether the end of `ids` is one period of up to `MAX_PERIOD` tokens, `MIN_REPEATS` times over."""
    for period in range(1, MAX_PERIOD + 1):
        length = max(MIN_REPEATS * period, MIN_LOOP_TOKENS)
        if length > len(ids):
            return False
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False
