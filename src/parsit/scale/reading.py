"""A pile through one engine: files are drawn ahead, images of many files are read together, records are kept.

The engine is given windows of several times its batch, in which those that are likely to take long come first: rows
that are free go to shorter ones, and at the end of a window only short ones are left. What goes together does not
change what is read (`parsit.parse.rows`). Memory: about two windows of images, whatever the pile's size.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from parsit.parse.reader import Engine
from parsit.scale.attempts import WARMER, Job
from parsit.scale.drawing import Drawing, DrawnPage, pages_of
from parsit.scale.inputs import Source
from parsit.scale.page_reading import PageReading, record_of
from parsit.scale.store import Store
from parsit.scale.workers import Request, Result, Workers
from parsit.types import GREEDY, Generation, ImageRef, Page, ParsitError, Sampling, Turn

WINDOW = 4  # batches that are given to the engine at a time
UNITS_OF_A_PAGE = {"page": 1, "lines": 40}  # until it is known


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been done so far: files, pages that were read, of which so many failed; seconds, and with the engine."""

    files: int
    pages: int
    failed: int
    seconds: float
    busy_s: float

    @property
    def busy(self) -> float:
        """The share of the time in which the engine was at work, 0 to 1."""
        return self.busy_s / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Reading:
    """What a run learnt of the files: their contents' digests, and why some could not be looked at."""

    digests: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


class PileReader:
    """Reads files into a store with an engine; the processes that draw stay until `close`.

    Args:
        engine: what reads; None where text layers alone are taken.
        store: where records go; what is in it is not read again.
        drawing: how pages are drawn.
        workers: processes that draw.
        on_progress: told now and then.
        retry_failed: read again what failed.
        clock: tells seconds.
    """

    def __init__(
        self,
        engine: Engine | None,
        store: Store,
        drawing: Drawing,
        workers: int,
        on_progress: Callable[[Progress], None] = lambda _: None,
        retry_failed: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._store, self._drawing, self._count = engine, store, drawing, workers
        self.workers = Workers(drawing, workers, self._skip)
        self._set = store.reading_set
        self._on_progress, self._retry_failed, self._clock = on_progress, retry_failed, clock
        self._batch = engine.batch_size if engine else 1
        self._window = WINDOW * self._batch
        self._jobs: dict[Sampling, deque[Job]] = {GREEDY: deque(), WARMER: deque()}
        self._claimed: set[str] = set()
        self._lock = threading.Lock()
        self._drawn = [1, UNITS_OF_A_PAGE[self._set.split]]  # pages, and units in them
        self._files = self._pages = self._failed = 0
        self._busy_s, self._started = 0.0, 0.0

    def read(self, sources: Iterable[Source]) -> Reading:
        """Read what is not in the store yet; all is on the disk at the end, and what was done when it is interrupted.

        Raises:
            ParsitError: the store cannot be written.
        """
        reading = Reading()
        self._started = self._clock()
        try:
            self._run(deque(sources), reading)
        finally:
            self._store.flush()
        return reading

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that draw."""
        self.workers.close()

    @property
    def progress(self) -> Progress:
        """What has been done so far."""
        return Progress(self._files, self._pages, self._failed, self._clock() - self._started, self._busy_s)

    def _run(self, waiting: deque[Source], reading: Reading) -> None:
        workers = self.workers
        more: deque[Request] = deque()  # the other pages of files that were begun
        while waiting or more or workers.in_hand or self._num_jobs:
            while (waiting or more) and self._has_room(workers.in_hand):
                workers.ask(more.popleft() if more else Request(waiting.popleft()))
            # Only where nothing can be read yet is there anything to wait for.
            for result in workers.results(wait=not self._has_batch):
                more.extend(self._take(result, reading))
            if self._has_batch or (self._num_jobs and not (waiting or more or workers.in_hand)):
                self._read_window()
            self._on_progress(self.progress)

    def _skip(self, digest: str) -> frozenset[int] | None:
        """Which pages of a file need not be drawn; None: none need. Called from the threads of the workers."""
        with self._lock:
            if digest in self._claimed:
                return None
            self._claimed.add(digest)
        known = self._store.known(digest)
        if known is None:
            return frozenset()
        if known.has(pages_of(self._drawing.selection, known.page_count), self._retry_failed):
            return None
        return known.done(self._retry_failed)

    def _has_room(self, in_hand: int) -> bool:
        """Whether more is to be drawn: there is room for another half a window of what is drawn.

        Also where nothing is in hand: pages of many units would else pile up before an engine that is slower.
        """
        pages, units = self._drawn
        expected = in_hand * self._drawing.pages_at_once * units / pages
        return in_hand < 2 * self._count and self._num_jobs + expected < 1.5 * self._window

    @property
    def _num_jobs(self) -> int:
        return sum(map(len, self._jobs.values()))

    @property
    def _has_batch(self) -> bool:
        """Whether the engine has work: where drawing is the slower part it does not wait for a whole window."""
        return max(map(len, self._jobs.values())) >= self._batch

    def _take(self, result: Result, reading: Reading) -> Iterator[Request]:
        """Let what was drawn wait for the engine; yields the request for the other pages of the file."""
        request, drawn = result.request, result.drawn
        if request.numbers is None:
            self._files += 1
            if result.digest:
                reading.digests[request.source.name] = result.digest
        if drawn is None:
            return
        if drawn.error:
            if drawn.is_lasting:
                self._keep_failed_file(result.digest, request.source.name, drawn.error)
            else:
                self._claimed.discard(result.digest)  # another file of this content may be readable
                reading.unread[request.source.name] = drawn.error
                self._failed += 1
        for page in drawn.pages or []:
            self._drawn[0] += 1
            self._drawn[1] += len(page.page.units)
            self._begin(page, request.source.name, result.digest, drawn.page_count)
        if drawn.rest:
            yield Request(request.source, result.digest, list(drawn.rest), drawn.page_count)

    def _begin(self, drawn: DrawnPage, name: str, digest: str, page_count: int) -> None:
        """Have a page read; it goes into the store when it is done."""

        def keep(page: Page, facts: dict[str, Any]) -> None:
            self._pages += 1
            self._failed += bool(page.error)
            self._store.add(record_of(self._set, digest, name, page_count, page, facts))

        how = {"retries": self._set.retry_flagged, "max_line_aspect": self._drawing.max_line_aspect}
        PageReading(drawn, **how, ask=lambda job: self._jobs[job.sampling].append(job), on_done=keep).start()

    def _keep_failed_file(self, digest: str, name: str, reason: str) -> None:
        page = Page(0, "", 0, 0, ("failed",), error=reason)
        self._failed += 1
        self._store.add(record_of(self._set, digest, name, 0, page, {}))

    def _read_window(self) -> None:
        """Have the engine read a window, the longest first; second tries as soon as they fill one."""
        fuller = max(self._jobs, key=lambda one: len(self._jobs[one]))
        sampling = WARMER if len(self._jobs[WARMER]) >= self._window else fuller
        jobs = self._jobs[sampling]
        window = [jobs.popleft() for _ in range(min(self._window, len(jobs)))]
        window.sort(key=lambda job: job.length, reverse=True)
        started = self._clock()
        readings = self._generated(window, sampling)
        seconds = self._clock() - started
        self._busy_s += seconds
        for job, reading in zip(window, readings, strict=True):
            job.on_done(reading, seconds / len(window))

    def _generated(self, window: Sequence[Job], sampling: Sampling) -> list[Generation | ParsitError]:
        """The engine's answers; if it refuses, one by one, and why where it refuses that one."""
        assert self._engine is not None
        conversations = [(Turn("user", (ImageRef(job.image), self._set.prompt)),) for job in window]
        try:
            return list(
                self._engine.generate(conversations, max_new_tokens=self._set.max_new_tokens, sampling=sampling)
            )
        except ParsitError as error:
            if len(window) == 1:
                return [error]
            return [answer for job in window for answer in self._generated([job], sampling)]
