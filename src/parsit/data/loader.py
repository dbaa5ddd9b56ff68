"""The loader: the plan's sample numbers to batches, in worker processes.

Workers hold no state and draw no random numbers of their own, so a batch depends on the plan alone and not on which
worker makes it; resuming is beginning at another step. A sample that cannot be read is left out of its batch, which
keeps its place in the plan, and travels as a finding: on any number of processes the same samples are missing.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from parsit.data.dataset import DataSet
from parsit.data.faults import DataFault, Finding
from parsit.data.plan import Plan
from parsit.processing.collate import Batch, collate, collate_packed
from parsit.processing.processor import Features, ParsitProcessor
from parsit.types import InputError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A batch, and what had to be left out of it."""

    batch: Batch
    left_out: tuple[Finding, ...] = ()

    def pin_memory(self) -> Loaded:
        """The batch in page-locked memory (called by `DataLoader`)."""
        return Loaded(self.batch.pin_memory(), self.left_out)


class SampleDataset(Dataset):
    """Samples as `Features`, or a finding about the one that cannot be read."""

    def __init__(
        self, data: DataSet, processor: ParsitProcessor, with_glyphs: bool = False, with_line_texts: bool = False
    ) -> None:
        self.data, self.processor = data, processor
        self.targets = {"with_glyphs": with_glyphs, "with_line_texts": with_line_texts}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.data)

    def __getitem__(self, number: int) -> Features | Finding:
        """Sample `number`, decoded and tokenised."""
        place = name = ""
        try:
            sample = self.data.samples[number]
            place, name = sample.place, sample.id
            features = self.processor.encode(sample.turns, **self.targets)
        except DataFault as fault:
            return Finding(fault.code, fault.place or place, fault.detail, name)
        except InputError as error:
            return Finding("image-damaged", place, str(error), name)
        found, planned = len(features.input_ids), int(self.data.num_tokens[number])
        if found != planned:
            return Finding("changed-since-indexed", place, f"{found} tokens, but {planned} when it was indexed", name)
        return features


@dataclass(frozen=True, slots=True)
class _Collate:
    pad_token_id: int
    packed: bool

    def __call__(self, items: list[Features | Finding]) -> Loaded:
        features = [item for item in items if isinstance(item, Features)]
        make = collate_packed if self.packed else collate
        findings = tuple(item for item in items if isinstance(item, Finding))
        return Loaded(make(features, self.pad_token_id), findings)


@dataclass(frozen=True, slots=True)
class _Shares:
    """One rank's micro-batches from one step to another, as a DataLoader's `batch_sampler`."""

    plan: Plan
    first: int
    last: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[int]]:
        for micro_batch in self.plan.shares(self.first, self.last, self.rank, self.world_size):
            yield micro_batch.tolist()


def begin_worker(_: int) -> None:
    """Set a worker up: its generators seeded from torch's, as PyTorch's notes on reproducibility say; one thread.

    Nothing here draws random numbers; whatever a future augmentation draws will repeat. Requests to stop are for the
    training process, which still needs its workers for the step that it finishes: Slurm, Kubernetes and a terminal that
    closes send them to the whole process group. A worker ends with its DataLoader, or with its parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _tell_but_a_lost_parent
    info = get_worker_info()
    assert info is not None
    seed = info.seed % 2**32
    random.seed(seed)
    np.random.seed(seed)
    # The training process has the cores.
    torch.set_num_threads(1)


def _tell_but_a_lost_parent(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing of a training process that was killed as a batch was handed to it: who ended it is told elsewhere.

    Batches are handed over by a thread of `multiprocessing.resource_sharer`, which tells this hook of what goes wrong.
    """
    if not isinstance(error, ConnectionError | EOFError):  # before it had asked, and as it asked
        sys.__excepthook__(kind, error, trace)


class Loader:
    """Batches of a plan, step after step, for one rank.

    Args:
        data: what the plan's numbers stand for.
        processor: the model's processor.
        plan: decides the order.
        last_step: where to end.
        packed: whether micro-batches are packs.
        num_workers: processes; 0: this one.
        prefetch_factor: batches that each worker holds ready.
        with_glyphs: make glyph targets as well.
        with_line_texts: make targets of the lines' texts as well.
        rank: this process.
        world_size: processes in all.
    """

    def __init__(
        self,
        data: DataSet,
        processor: ParsitProcessor,
        plan: Plan,
        last_step: int,
        *,
        packed: bool = False,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        with_glyphs: bool = False,
        with_line_texts: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset = SampleDataset(data, processor, with_glyphs, with_line_texts)
        self.collate = _Collate(processor.chat_tokens.pad, packed)
        self.plan, self.last_step = plan, last_step
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.rank, self.world_size = rank, world_size
        self.next_step = 0

    def state_dict(self) -> dict[str, int]:
        """The position: the next step."""
        return {"step": self.next_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a position that `state_dict` gave; takes as long for every step."""
        self.next_step = state["step"]

    def __iter__(self) -> Iterator[list[Loaded]]:
        """The micro-batches of one optimizer step after another, from `next_step` on."""
        batches = iter(
            DataLoader(
                self.dataset,
                batch_sampler=_Shares(self.plan, self.next_step, self.last_step, self.rank, self.world_size),  # type: ignore[arg-type]  (any iterable of lists will do)
                collate_fn=self.collate,
                num_workers=self.num_workers,
                prefetch_factor=self.prefetch_factor if self.num_workers else None,
                worker_init_fn=begin_worker,
                # DataLoader draws its workers' seed from this; from the global generator it would move on the numbers
                # of the training run, and a resumed run would not equal an uninterrupted one.
                generator=torch.Generator(),
                pin_memory=torch.cuda.is_available(),
            )
        )
        while self.next_step < self.last_step:
            size = len(self.plan.share(self.next_step, self.rank, self.world_size))
            step = [next(batches) for _ in range(size)]
            self.next_step += 1
            yield step
