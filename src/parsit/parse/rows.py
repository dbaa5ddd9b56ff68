"""`RowBatch`: continuous batching. Conversations go in whenever they come, and out as soon as each is done.

A step is: take in rows that wait, run the model once on the newest tokens of all rows, choose a token for each, let
rows go that have ended. What a row answers does not depend on what else is in the batch: its attention is its own, its
draws have a generator of their own; matrix products of more rows may round differently in the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from parsit.model import ParsitForConditionalGeneration
from parsit.parse.row_attention import RowCache, Segment, attending_rows
from parsit.parse.row_queue import Row, RowQueue
from parsit.processing.collate import collate_packed
from parsit.processing.processor import Features, ParsitProcessor
from parsit.types import Sampling, TokenScore

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
class ModelRow(Row):
    """A row with what the model keeps of it.

    Args:
        features: the encoded prompt; dropped once the model has seen it.
        matcher: holds the answer to a schema.
    """

    features: Features | None = None
    matcher: Matcher | None = None
    cache: RowCache = field(default_factory=RowCache)
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.sampling.temperature > 0:
            self.generator = torch.Generator(device="cpu").manual_seed(self.sampling.seed)

    def accept(self, token: int) -> None:
        """Tell the schema's matcher."""
        if self.matcher:
            self.matcher.accept(token)

    def release(self) -> None:
        """Let go of keys and values."""
        self.features, self.cache, self.matcher, self.generator = None, RowCache(), None, None


class RowBatch(RowQueue[ModelRow]):
    """Rows on one model.

    Args:
        model: the model, on its device.
        processor: its processor.
        max_rows: rows that are written at a time.
    """

    def __init__(self, model: ParsitForConditionalGeneration, processor: ParsitProcessor, max_rows: int) -> None:
        super().__init__(max_rows, model.config.text_config.max_position_embeddings)
        self.model, self.processor = model, processor

    @torch.no_grad()
    def step(self) -> list[ModelRow]:
        """One token for every row that is written; gives the rows that are done."""
        stopped = self.stop_rows()
        new = self.admit(PROMPT_TOKENS_A_STEP.get(self.model.device.type, 2048))
        if not self.active and not new:
            return stopped
        scores_RV = self._scores(self.active, new)
        self.active += new
        self._choose(scores_RV)
        return stopped + self.take_done()

    def _scores(self, written: Sequence[ModelRow], new: Sequence[ModelRow]) -> torch.Tensor:
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

    def _embeds(self, written: Sequence[ModelRow], new: Sequence[ModelRow]) -> torch.Tensor:
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
            row.advance(TokenScore(token, float(own_V[token]) - total, top), self.processor.chat_tokens.im_end)


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
