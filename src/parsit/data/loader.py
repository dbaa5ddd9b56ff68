"""The loader: the plan's sample numbers to batches, in worker processes.

Workers hold no state and draw no random numbers of their own, so a batch depends on the plan
alone and not on which worker makes it. An error in a worker travels as a value: the main process
raises it, in one line, instead of a traceback out of another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from parsit.data.plan import Plan
from parsit.processing.collate import Batch, collate
from parsit.processing.processor import Features, ParsitProcessor
from parsit.types import InputError, Sample


@dataclass(frozen=True, slots=True)
class BadBatch:
    """A batch that could not be made: the first error."""

    error: str


class SampleDataset(Dataset):
    """Samples as `Features`, or the error of the one that cannot be read."""

    def __init__(self, samples: Sequence[Sample], processor: ParsitProcessor, with_glyphs: bool) -> None:
        self.samples = samples
        self.processor = processor
        self.with_glyphs = with_glyphs

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, number: int) -> Features | BadBatch:
        """Sample `number`, decoded and tokenised."""
        sample = self.samples[number]
        try:
            return self.processor.encode(sample.turns, with_glyphs=self.with_glyphs)
        except InputError as error:
            return BadBatch(f"{sample.place}: {error}")


@dataclass(frozen=True, slots=True)
class _Collate:
    pad_token_id: int

    def __call__(self, items: list[Features | BadBatch]) -> Batch | BadBatch:
        for item in items:
            if isinstance(item, BadBatch):
                return item
        return collate([item for item in items if isinstance(item, Features)], self.pad_token_id)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The plan's batches from one step to another, as a DataLoader's `batch_sampler`."""

    plan: Plan
    first: int
    last: int

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan.batches(self.first, self.last):
            yield batch.tolist()


def _worker_init(_: int) -> None:
    # One thread a worker: the training process has the cores.
    torch.set_num_threads(1)


def loader(
    samples: Sequence[Sample],
    processor: ParsitProcessor,
    plan: Plan,
    first_step: int,
    last_step: int,
    *,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    with_glyphs: bool = False,
) -> Iterator[Batch]:
    """Batches of the optimizer steps `first_step` to `last_step` - 1.

    Args:
        samples: what the plan's numbers stand for.
        processor: the model's processor.
        plan: decides the order.
        first_step: where to begin; no earlier batch is made.
        last_step: where to end.
        num_workers: processes; 0: this one.
        prefetch_factor: batches that each worker holds ready.
        with_glyphs: make glyph targets as well.

    Raises:
        InputError: a sample that cannot be read, when its batch is reached.
    """
    batches = DataLoader(
        SampleDataset(samples, processor, with_glyphs),
        batch_sampler=_Steps(plan, first_step, last_step),  # type: ignore[arg-type]  (any iterable of lists will do)
        collate_fn=_Collate(processor.chat_tokens.pad),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        worker_init_fn=_worker_init,
        # DataLoader draws its workers' seed from this; from the global generator it would move on the numbers
        # of the training run, and a resumed run would not equal an uninterrupted one.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    for batch in batches:
        if isinstance(batch, BadBatch):
            raise InputError(batch.error)
        yield batch
