"""`Reader`: files in, `Document`s and answers out, through any engine that can generate.

The engine sees conversations of images and text and never a file; the reader sees pages and never
a tensor. Pages are drawn as they are needed and read in batches of `engine.batch_size` that run
across page ends, so no more than a batch of pages is in memory and no batch goes out half empty.
The price: a page may have to wait for the next one before it is done.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol

from PIL import Image

from parsit.hub import require_asking, require_reading
from parsit.parse.open_page import Listener, OpenPage, TextDelta, Unit, failed_page, open_page
from parsit.parse.pages import DEFAULT_DPI, PageError, PageFile, ReadingLimits
from parsit.parse.selection import Selection, parse_selection
from parsit.processing.images import Source, load_image
from parsit.types import (
    GREEDY,
    Delta,
    Document,
    FileSlice,
    Generation,
    ImageRef,
    Page,
    ParsitError,
    Sampling,
    Turn,
    UsageError,
)

# Called with the place of a conversation among those given, and what one step adds to its answer.
OnDelta = Callable[[int, Delta], None]
Split = Literal["page", "lines"]
OnError = Literal["raise", "keep"]

# Some 24 characters: with its padding a line is about 1.3 em high, and a character 0.45 em wide.
MAX_LINE_ASPECT = 9.0
# A page: what the presets' 8,192 tokens leave for the text of one that was drawn at 150 dpi.
MAX_NEW_TOKENS = {"page": 4400, "lines": 96}
MAX_ANSWER_TOKENS = 256
# A reading that loops or is cut gets a second chance, drawn rather than always the likeliest token.
SECOND_TRY = {"temperature": 0.5, "top_p": 0.95, "seed": 1}


class Engine(Protocol):
    """What answers conversations that show images: a model at hand, or one elsewhere."""

    @property
    def batch_size(self) -> int:
        """How many conversations are best given to `generate` at a time."""
        ...

    @property
    def read_prompt(self) -> str:
        """What to say, after the image, to have it read."""
        ...

    @property
    def reading_unit(self) -> str:
        """What one image held when the model learnt to read: `page` or `line`."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model is known to be able to do (`parsit.hub.tasks`); none: that is not known."""
        ...

    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
    ) -> list[Generation]:
        """The model's next turn in each conversation, in order; `on_delta` is called as tokens come."""
        ...


class Reader:
    """Reads documents with a model.

    Args:
        engine: The model; see `Engine`.
        limits: What a file may take of this machine.
        max_line_aspect: With `split="lines"`, the most times its height that a crop is wide.
        retry: Read what looped or was cut once more, drawing tokens; the flag `retried` says so.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        limits: ReadingLimits | None = None,
        max_line_aspect: float = MAX_LINE_ASPECT,
        retry: bool = True,
    ) -> None:
        self.engine = engine
        self.retry = retry
        self.limits = limits or ReadingLimits()
        self.max_line_aspect = max_line_aspect

    def parse(
        self,
        file: str | Path,
        *,
        pages: str | Selection | None = None,
        prompt: str | None = None,
        split: Split | None = None,
        max_new_tokens: int | None = None,
        dpi: float = DEFAULT_DPI,
        on_page: Callable[[Page], None] | None = None,
        listener: Listener | None = None,
        on_error: OnError = "raise",
    ) -> Document:
        """Read a PDF or an image.

        Args:
            file: The file; what it is, its content says.
            pages: "1-3,7", or None for all pages.
            prompt: What to say after each image; by default the model's own prompt for reading.
            split: Whether the model sees a whole page, or one line after the other (a long line in
                pieces, whose texts are joined by spaces; lines are joined by newlines). By default
                what it was trained on.
            max_new_tokens: The most tokens that are generated for one image; by default 4400 for a
                page and 96 for a line.
            dpi: Dots per inch at which PDF pages are drawn.
            on_page: Called with every page, in order, as soon as it is done.
            listener: Told of pages as they are drawn and of text as it comes as well.
            on_error: What a page that fails does: "raise" a `PageError`, or be kept without text,
                with the flag `failed` and the reason in `Page.error`.

        Raises:
            InputError: The file cannot be read, has no such page, or has too many; and `PageError`.
            UsageError: `pages` or `split` is not well-formed, or a model that only reads is given another prompt.
        """
        if prompt is not None:
            require_reading(self.engine.tasks, prompt, self.engine.read_prompt)
        selection = parse_selection(pages) if isinstance(pages, str) else pages
        split = split or ("lines" if self.engine.reading_unit == "line" else "page")
        if split not in MAX_NEW_TOKENS:
            raise UsageError(f"split={split!r}: pages are split into 'page' or 'lines'")
        listener = listener or Listener()
        done: list[Page] = []
        with PageFile(Path(file), dpi=dpi, limits=self.limits) as opened:
            job = _Reading(
                self.engine,
                opened,
                prompt=self.engine.read_prompt if prompt is None else prompt,
                max_new_tokens=max_new_tokens or MAX_NEW_TOKENS[split],
                max_line_aspect=self.max_line_aspect if split == "lines" else None,
                keep_failed=on_error == "keep",
                retry=self.retry,
                listener=listener,
            )
            for page in job.read(opened.numbers(selection)):
                done.append(page)
                for told in (on_page, listener.on_page):
                    if told:
                        told(page)
        return Document(str(file), tuple(done))

    def ask(
        self,
        source: Source | Sequence[Source],
        question: str,
        *,
        pages: str | Selection | None = None,
        max_new_tokens: int = MAX_ANSWER_TOKENS,
        dpi: float = DEFAULT_DPI,
        schema: str | Mapping[str, Any] | None = None,
    ) -> str:
        """The answer to one question; see `answers`."""
        how: dict[str, Any] = {"pages": pages, "max_new_tokens": max_new_tokens, "dpi": dpi, "schema": schema}
        return self.answers(source, [question], **how)[0].text

    def answers(
        self,
        source: Source | Sequence[Source],
        questions: Sequence[str],
        *,
        pages: str | Selection | None = None,
        max_new_tokens: int = MAX_ANSWER_TOKENS,
        dpi: float = DEFAULT_DPI,
        schema: str | Mapping[str, Any] | None = None,
    ) -> list[Generation]:
        """Answer questions, each in a conversation of its own that shows all pages first, in batches.

        Args:
            source: One or several files, encoded images (bytes, or bytes inside a file) or Pillow images.
            questions: What to ask.
            pages: "1-3,7" of every file, or None for all pages; images in memory have no pages.
            max_new_tokens: The most tokens of one answer.
            dpi: Dots per inch at which PDF pages are drawn.
            schema: A JSON schema that every answer follows, as text or as a dictionary. An answer that does not end
                in time is no whole JSON, and has the flag `truncated` or `looping`.

        Raises:
            InputError: A file or a page cannot be read, or the schema cannot be followed.
            UsageError: `pages` is not well-formed, or the model only reads.
        """
        require_asking(self.engine.tasks)
        selection = parse_selection(pages) if isinstance(pages, str) else pages
        sources = [source] if isinstance(source, str | Path | FileSlice | bytes | Image.Image) else source
        shown = tuple(ImageRef(image) for one in sources for image in self._images(one, selection, dpi))
        conversations = [(Turn("user", (*shown, question)),) for question in questions]
        text = json.dumps(schema) if isinstance(schema, Mapping) else schema
        sampling = replace(GREEDY, schema=text)
        answers: list[Generation] = []
        for start in range(0, len(conversations), self.engine.batch_size):
            batch = conversations[start : start + self.engine.batch_size]
            answers += _generate(self.engine, batch, max_new_tokens, self.retry, sampling)
        return answers

    def _images(self, source: Source, selection: Selection | None, dpi: float) -> list[Image.Image]:
        if isinstance(source, FileSlice | bytes | Image.Image):
            return [load_image(source)]
        with PageFile(Path(source), dpi=dpi, limits=self.limits) as file:
            return [file.page(number).image for number in file.numbers(selection)]


def _generate(
    engine: Engine,
    conversations: Sequence[tuple[Turn, ...]],
    max_new_tokens: int,
    retry: bool,
    sampling: Sampling = GREEDY,
    on_delta: Callable[[int, int, Delta], None] | None = None,
) -> list[Generation]:
    """Answers; what looped or was cut is tried once more, and the second answer is kept if that one ends.

    `on_delta` is called with the place of a conversation, the attempt (0 or 1), and what one step adds.
    """

    def attempt(places: Sequence[int], sampling: Sampling, number: int) -> list[Generation]:
        def listen(place: int, delta: Delta) -> None:
            if on_delta is not None:
                on_delta(places[place], number, delta)

        chosen = [conversations[place] for place in places]
        found = engine.generate(chosen, max_new_tokens=max_new_tokens, sampling=sampling, on_delta=listen)
        assert len(found) == len(chosen), f"the engine gave {len(found)} answers to {len(chosen)} conversations"
        return found

    answers = attempt(range(len(conversations)), sampling, 0)
    unfinished = [place for place, answer in enumerate(answers) if {"looping", "truncated"} & set(answer.flags)]
    if retry and unfinished:
        seconds = attempt(unfinished, replace(sampling, **SECOND_TRY), 1)
        for place, second in zip(unfinished, seconds, strict=True):
            kept = answers[place] if second.flags else second
            answers[place] = replace(kept, flags=(*kept.flags, "retried"))
    return answers


@dataclass(frozen=True, slots=True)
class _Reading:
    """One file being read. `max_line_aspect` is None when whole pages are read."""

    engine: Engine
    file: PageFile
    prompt: str
    max_new_tokens: int
    max_line_aspect: float | None
    keep_failed: bool
    retry: bool
    listener: Listener

    def read(self, numbers: Sequence[int]) -> Iterator[Page]:
        """The pages in order, each as soon as it and those before it are done."""
        open_pages: deque[OpenPage] = deque()
        queue: deque[Unit] = deque()
        for number in numbers:
            page = self._open(number)
            open_pages.append(page)
            queue.extend(page.units)
            while len(queue) >= self.engine.batch_size:
                self._read([queue.popleft() for _ in range(self.engine.batch_size)])
            while open_pages and open_pages[0].is_done:
                yield open_pages.popleft().close()
        if queue:
            self._read(list(queue))
        yield from (page.close() for page in open_pages)

    def _open(self, number: int) -> OpenPage:
        try:
            return open_page(self.file, number, self.max_line_aspect, self.listener.on_drawn)
        except PageError as error:
            if not self.keep_failed:
                raise
            return failed_page(error)

    def _read(self, units: list[Unit]) -> None:
        """Read a batch; if it fails, one by one, to find the page that is to blame."""
        started = perf_counter()
        conversations = [(Turn("user", (ImageRef(unit.image), self.prompt)),) for unit in units]
        listen = None if self.listener.on_text is None else self._listen(units, self.listener.on_text)
        try:
            readings = _generate(self.engine, conversations, self.max_new_tokens, self.retry, on_delta=listen)
        except ParsitError as error:
            if len(units) > 1:
                for unit in units:
                    self._read([unit])
                return
            self._fail(units[0].page, error)
            return
        for unit, reading in zip(units, readings, strict=True):
            unit.reading = reading
            unit.page.seconds += (perf_counter() - started) / len(units)

    def _listen(self, units: Sequence[Unit], on_text: Callable[[TextDelta], None]) -> Callable[[int, int, Delta], None]:
        """Tells of text as it comes, with the place on the page."""

        def listen(place: int, attempt: int, delta: Delta) -> None:
            unit = units[place]
            if delta.text:
                on_text(TextDelta(unit.page.number, unit.number, delta.text, unit.box, attempt))

        return listen

    def _fail(self, page: OpenPage, error: ParsitError) -> None:
        if not self.keep_failed:
            raise PageError(self.file.path, page.number, str(error)) from error
        page.error = str(error)
