"""`/v1/parse`: a file to a document, at once, as server-sent events, or as a job.

Each file is read by a `Reader` in a thread of its own, a few at a time; PDFs are drawn in a process that can be killed.
What is known of a reading is a list of events (`drawn`, `text`, `page`, then `done` or `error`); whoever streams
follows it, a job remembers how many pages are done.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from PIL import Image

from parsit.parse.open_page import Listener, TextDelta
from parsit.parse.pages import PageImage
from parsit.parse.reader import OnDelta, Reader, Split
from parsit.serve.batcher import Batcher, StoppedError
from parsit.serve.errors import ServeError
from parsit.serve.files import TemporaryFile
from parsit.serve.limits import ServeLimits
from parsit.serve.metrics import Metrics
from parsit.serve.sse import event_of
from parsit.types import GREEDY, Document, Generation, Page, ParsitError, Sampling, Turn

log = logging.getLogger("parsit.serve")
Mode = Literal["wait", "stream", "job"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
PICTURE_PIXELS = 1_000_000  # of a page's picture in the stream
PICTURE_QUALITY = 80


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """How a file is read; see `Reader.parse`. `pictures`: the stream has the pages' pictures in it."""

    pages: str | None = None
    prompt: str | None = None
    split: Split | None = None
    max_tokens: int | None = None
    dpi: float = 150.0
    pictures: bool = False


@dataclass(slots=True)
class Job:
    """One file that is being read, or has been."""

    id: str
    name: str
    created: int
    state: State = "queued"
    pages_done: int = 0
    error: ServeError | None = None
    document: Document | None = None
    expires: float = float("inf")
    is_followed: bool = False  # somebody takes its events
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: asyncio.Queue[tuple[str, dict[str, Any]] | None] = field(default_factory=asyncio.Queue)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def as_json(self) -> dict[str, Any]:
        """What a client is told of a job."""
        error = str(self.error) if self.error else None
        names = ("id", "name", "created", "state", "pages_done")
        return {name: getattr(self, name) for name in names} | {"object": "parse.job", "error": error}


class ParseService:
    """Reads files.

    Args:
        engine: what reads.
        limits: what a file may take.
        metrics: what is counted.
    """

    def __init__(self, engine: Batcher, limits: ServeLimits, metrics: Metrics) -> None:
        self.engine, self.limits, self.metrics = engine, limits, metrics
        self.jobs: dict[str, Job] = {}
        self._open = 0
        self._pool = ThreadPoolExecutor(limits.max_parses, thread_name_prefix="parsit-parse")

    def begin(self, name: str, data: bytes, options: ParseOptions, mode: Mode) -> Job:
        """Put a file in line.

        Args:
            name: what it is called.
            data: its bytes.
            options: how it is read.
            mode: `job`: known under its id afterwards; `stream`: its events are followed; `wait`: neither.

        Raises:
            ServeError: too many files are waiting.
        """
        self._forget()
        if self._open >= self.limits.max_parses + self.limits.max_parse_queue:
            raise ServeError(429, "too many files are waiting: come again", retry_after=10)
        if mode == "job" and len(self.jobs) >= self.limits.max_kept_jobs:
            raise ServeError(429, "too many jobs are kept: delete some, or come again", retry_after=60)
        job = Job(f"parse-{secrets.token_hex(12)}", name, int(time.time()), is_followed=mode == "stream")
        if mode == "job":
            self.jobs[job.id] = job
        self._open += 1
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._pool, _Reading(self, job, options, loop).run, data)
        reading.add_done_callback(lambda _: self._close(job))
        return job

    def get(self, id: str) -> Job:
        """A job by its id. Raises `ServeError` where there is none."""
        self._forget()
        if id not in self.jobs:
            raise ServeError(404, f"there is no job {id[:60]!r}: it never was, or its time is over")
        return self.jobs[id]

    def delete(self, id: str) -> Job:
        """Stop a job and forget it. Raises as `get`."""
        job = self.get(id)
        job.cancelled.set()
        del self.jobs[id]
        return job

    def stop(self) -> None:
        """Stop all readings."""
        for job in self.jobs.values():
            job.cancelled.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def load(self) -> tuple[int, int]:
        """Files that are read, and files that wait."""
        running = min(self._open, self.limits.max_parses)
        return running, self._open - running

    async def stream(self, job: Job) -> AsyncIterator[str]:
        """A job's events as they come."""
        while (event := await job.events.get()) is not None:
            name, value = event
            yield event_of(value, name)

    def _close(self, job: Job) -> None:
        self._open -= 1
        job.expires = time.monotonic() + self.limits.kept_seconds
        if job.state in ("queued", "running"):
            job.state = "cancelled"
        job.events.put_nowait(None)
        job.finished.set()

    def _forget(self) -> None:
        now = time.monotonic()
        self.jobs = {id: job for id, job in self.jobs.items() if job.expires > now}


class _Reading:
    """The reading of one file, in a thread of the pool."""

    def __init__(self, service: ParseService, job: Job, options: ParseOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.service, self.job, self.options, self._loop = service, job, options, loop
        self._deadline = 0.0

    def run(self, data: bytes) -> None:
        """Read the file; all that happens becomes events, errors as well."""
        if self.job.cancelled.is_set():
            return
        self.job.state = "running"
        self._deadline = time.monotonic() + self.service.limits.max_parse_seconds
        try:
            document = self._read(data)
        except StoppedError:
            self._stopped()
        except ServeError as error:
            self._fail(error)
        except Exception:  # nobody looks at this thread: a job must not end without a word, nor with too much of one
            log.exception("a file could not be parsed")
            self._fail(ServeError(500, "the server failed at this file; its log says why"))
        else:
            self.job.document, self.job.state = document, "done"
            self._tell("done", {"source": document.source, "pages": len(document.pages)})

    def _read(self, data: bytes) -> Document:
        """The document. Raises `StoppedError`, and `ServeError` where the file cannot be read."""
        with TemporaryFile(self.job.name, data) as file:
            try:
                return replace(self._parse(file), source=file.name)
            except ParsitError as error:
                raise ServeError(400, file.renamed(str(error))) from error

    def _parse(self, file: TemporaryFile) -> Document:
        options, limits = self.options, self.service.limits
        reader = Reader(_OneReading(self), limits=limits.reading)
        listener = Listener(
            on_drawn=self._drawn,
            on_text=self._text if self.job.is_followed else None,
            on_page=lambda page: self._page(page, file),
        )
        return reader.parse(
            file.path,
            pages=options.pages,
            prompt=options.prompt,
            split=options.split,
            max_new_tokens=min(options.max_tokens, limits.max_tokens) if options.max_tokens else None,
            dpi=options.dpi,
            listener=listener,
            on_error="keep",
        )

    def check(self) -> None:
        """Raise `StoppedError` where nobody wants to know any more."""
        if not self.is_wanted() or time.monotonic() >= self._deadline:
            raise StoppedError("the reading was stopped")

    def is_wanted(self) -> bool:
        """Whether somebody still wants the document."""
        return not self.job.cancelled.is_set()

    @property
    def deadline(self) -> float:
        """`time.monotonic()` at which the reading ends, done or not."""
        return self._deadline

    def _drawn(self, page: PageImage) -> None:
        self.check()
        if self.job.is_followed:
            value: dict[str, Any] = {"page": page.number, "width": page.image.width, "height": page.image.height}
            value["picture"] = _picture(page.image) if self.options.pictures else None
            self._tell("drawn", value)

    def _text(self, delta: TextDelta) -> None:
        self._tell("text", asdict(delta))

    def _page(self, page: Page, file: TemporaryFile) -> None:
        self.job.pages_done += 1
        self.service.metrics.pages.inc()
        self._tell("page", asdict(replace(page, error=file.renamed(page.error))))

    def _stopped(self) -> None:
        if self.is_wanted():
            limit = self.service.limits.max_parse_seconds
            if time.monotonic() >= self._deadline:
                self._fail(ServeError(408, f"the file was not read within {limit:g} s"))
            else:
                self._fail(ServeError(503, "the server ends"))
        else:
            self.job.state = "cancelled"

    def _fail(self, error: ServeError) -> None:
        self.job.error, self.job.state = error, "failed"
        self._tell("error", {"message": str(error), "status": error.status})

    def _tell(self, name: str, value: dict[str, Any]) -> None:
        if self.job.is_followed:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self.job.events.put_nowait, (name, value))


class _OneReading:
    """The engine as one reading sees it: it stops when the reading is not wanted any more."""

    def __init__(self, reading: _Reading) -> None:
        self._reading, self._engine = reading, reading.service.engine
        self.batch_size, self.read_prompt = self._engine.batch_size, self._engine.read_prompt
        self.reading_unit, self.tasks = self._engine.reading_unit, self._engine.tasks

    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
    ) -> list[Generation]:
        self._reading.check()
        return self._engine.generate(
            conversations,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            on_delta=on_delta,
            deadline=self._reading.deadline,
            is_wanted=self._reading.is_wanted,
        )


def _picture(image: Image.Image) -> str:
    """A page as a `data:` URL of a JPEG, small enough to be shown."""
    share = min(1.0, (PICTURE_PIXELS / (image.width * image.height)) ** 0.5)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=PICTURE_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
