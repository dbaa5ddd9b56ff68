"""`Reader`: files in, `Document`s and answers out, through any engine that can generate.

The engine sees conversations of images and text and never a file; the reader sees pages and never
a tensor. Pages are drawn as they are needed and read in batches of `engine.batch_size` that run
across page ends, so no more than a batch of pages is in memory and no batch goes out half empty.
The price: a page may have to wait for the next one before it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal, Protocol

from PIL import Image

from parsit.parse.lines import line_pieces
from parsit.parse.pages import DEFAULT_DPI, PageError, PageFile, PageImage, ReadingLimits
from parsit.parse.selection import Selection, parse_selection
from parsit.parse.upright import hangs, ought_to_stand
from parsit.processing.images import Source, load_image
from parsit.types import Document, FileSlice, Generation, ImageRef, Page, ParsitError, Turn, UsageError

Split = Literal["page", "lines"]
OnError = Literal["raise", "keep"]

# Some 24 characters: with its padding a line is about 1.3 em high, and a character 0.45 em wide.
MAX_LINE_ASPECT = 9.0
# A page: what the presets' 8,192 tokens leave for the text of one that was drawn at 150 dpi.
MAX_NEW_TOKENS = {"page": 4400, "lines": 96}
MAX_ANSWER_TOKENS = 256


class Engine(Protocol):
    """What a reader needs of a model."""

    @property
    def batch_size(self) -> int:
        """How many conversations `generate` is given at a time, at most."""
        ...

    @property
    def read_prompt(self) -> str:
        """What to say, after the image, to have it read."""
        ...

    @property
    def reading_unit(self) -> str:
        """What one image held when the model learnt to read: `page` or `line`."""
        ...

    def generate(self, conversations: Sequence[tuple[Turn, ...]], *, max_new_tokens: int) -> list[Generation]:
        """The model's next turn in each conversation, in order."""
        ...


@dataclass(slots=True)
class _Unit:
    """One image that is read in one go: a page, or a piece of one of its lines."""

    page: _OpenPage
    image: Image.Image
    joint: str  # what stands between this unit's text and the next one's
    reading: Generation | None = None


@dataclass(slots=True)
class _OpenPage:
    """A page on its way to being read."""

    number: int
    size: tuple[int, int] = (0, 0)
    flags: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    hangs: bool = False  # what its ink says of it; see `parsit.parse.upright`
    units: list[_Unit] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return bool(self.error) or all(unit.reading for unit in self.units)

    def close(self) -> Page:
        """The finished page: its units' texts joined, and the union of their flags."""
        if self.error:
            flags, text = (*self.flags, "failed"), ""
        else:
            readings = [(unit.reading, unit.joint) for unit in self.units if unit.reading]
            flags = self.flags + tuple(flag for reading, _ in readings for flag in reading.flags)
            text = "".join(reading.text + joint for reading, joint in readings).rstrip("\n")
            flags += ("upside_down",) if self.hangs and ought_to_stand(text) else ()
        return Page(self.number, text, *self.size, tuple(dict.fromkeys(flags)), self.seconds, self.error)


class Reader:
    """Reads documents with a model.

    Args:
        engine: The model; see `Engine`.
        limits: What a file may take of this machine.
        max_line_aspect: With `split="lines"`, the most times its height that a crop is wide.
    """

    def __init__(
        self, engine: Engine, *, limits: ReadingLimits | None = None, max_line_aspect: float = MAX_LINE_ASPECT
    ) -> None:
        self.engine = engine
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
            on_error: What a page that fails does: "raise" a `PageError`, or be kept without text,
                with the flag `failed` and the reason in `Page.error`.

        Raises:
            InputError: The file cannot be read, has no such page, or has too many; and `PageError`.
            UsageError: `pages` or `split` is not well-formed.
        """
        selection = parse_selection(pages) if isinstance(pages, str) else pages
        split = split or ("lines" if self.engine.reading_unit == "line" else "page")
        if split not in MAX_NEW_TOKENS:
            raise UsageError(f"split={split!r}: pages are split into 'page' or 'lines'")
        done: list[Page] = []
        with PageFile(Path(file), dpi=dpi, limits=self.limits) as opened:
            job = _Reading(
                self.engine,
                opened,
                prompt=self.engine.read_prompt if prompt is None else prompt,
                max_new_tokens=max_new_tokens or MAX_NEW_TOKENS[split],
                max_line_aspect=self.max_line_aspect if split == "lines" else None,
                keep_failed=on_error == "keep",
            )
            for page in job.read(opened.numbers(selection)):
                done.append(page)
                if on_page:
                    on_page(page)
        return Document(str(file), tuple(done))

    def ask(
        self,
        source: Source | Sequence[Source],
        question: str,
        *,
        pages: str | Selection | None = None,
        max_new_tokens: int = MAX_ANSWER_TOKENS,
        dpi: float = DEFAULT_DPI,
    ) -> str:
        """The answer to one question; see `answers`."""
        return self.answers(source, [question], pages=pages, max_new_tokens=max_new_tokens, dpi=dpi)[0].text

    def answers(
        self,
        source: Source | Sequence[Source],
        questions: Sequence[str],
        *,
        pages: str | Selection | None = None,
        max_new_tokens: int = MAX_ANSWER_TOKENS,
        dpi: float = DEFAULT_DPI,
    ) -> list[Generation]:
        """Answer questions, each in a conversation of its own that shows all pages first, in batches.

        Args:
            source: One or several files, encoded images (bytes, or bytes inside a file) or Pillow images.
            questions: What to ask.
            pages: "1-3,7" of every file, or None for all pages; images in memory have no pages.
            max_new_tokens: The most tokens of one answer.
            dpi: Dots per inch at which PDF pages are drawn.

        Raises:
            InputError: A file or a page cannot be read.
            UsageError: `pages` is not well-formed.
        """
        selection = parse_selection(pages) if isinstance(pages, str) else pages
        sources = [source] if isinstance(source, str | Path | FileSlice | bytes | Image.Image) else source
        shown = tuple(ImageRef(image) for one in sources for image in self._images(one, selection, dpi))
        conversations = [(Turn("user", (*shown, question)),) for question in questions]
        answers: list[Generation] = []
        for start in range(0, len(conversations), self.engine.batch_size):
            batch = conversations[start : start + self.engine.batch_size]
            answers += self.engine.generate(batch, max_new_tokens=max_new_tokens)
        return answers

    def _images(self, source: Source, selection: Selection | None, dpi: float) -> list[Image.Image]:
        if isinstance(source, FileSlice | bytes | Image.Image):
            return [load_image(source)]
        with PageFile(Path(source), dpi=dpi, limits=self.limits) as file:
            return [file.page(number).image for number in file.numbers(selection)]


@dataclass(frozen=True, slots=True)
class _Reading:
    """One file being read. `max_line_aspect` is None when whole pages are read."""

    engine: Engine
    file: PageFile
    prompt: str
    max_new_tokens: int
    max_line_aspect: float | None
    keep_failed: bool

    def read(self, numbers: Sequence[int]) -> Iterator[Page]:
        """The pages in order, each as soon as it and those before it are done."""
        open_pages: deque[_OpenPage] = deque()
        queue: deque[_Unit] = deque()
        for number in numbers:
            page = self._open(number)
            open_pages.append(page)
            queue.extend(page.units)
            while len(queue) >= self.engine.batch_size:
                self._generate([queue.popleft() for _ in range(self.engine.batch_size)])
            while open_pages and open_pages[0].is_done:
                yield open_pages.popleft().close()
        if queue:
            self._generate(list(queue))
        yield from (page.close() for page in open_pages)

    def _open(self, number: int) -> _OpenPage:
        """Draw a page and cut it into what is read in one go."""
        started = perf_counter()
        page = _OpenPage(number)
        try:
            drawn = self.file.page(number)
        except PageError as error:
            if not self.keep_failed:
                raise
            page.error = error.reason
        else:
            page.size, page.flags = drawn.image.size, drawn.flags
            page.units = self._units(page, drawn)
            page.hangs = bool(page.units) and hangs(drawn.image)
        page.seconds = perf_counter() - started
        return page

    def _units(self, page: _OpenPage, drawn: PageImage) -> list[_Unit]:
        if "blank" in drawn.flags:
            return []
        if self.max_line_aspect is None:
            return [_Unit(page, drawn.image, joint="")]
        lines = line_pieces(drawn.image, max_aspect=self.max_line_aspect)
        if not lines:
            page.flags += ("no_lines",)
        return [
            _Unit(page, drawn.image.crop(box), joint="\n" if box is pieces[-1] else " ")
            for pieces in lines
            for box in pieces
        ]

    def _generate(self, units: list[_Unit]) -> None:
        """Read a batch; if it fails, one by one, to find the page that is to blame."""
        started = perf_counter()
        conversations = [(Turn("user", (ImageRef(unit.image), self.prompt)),) for unit in units]
        try:
            readings = self.engine.generate(conversations, max_new_tokens=self.max_new_tokens)
        except ParsitError as error:
            if len(units) > 1:
                for unit in units:
                    self._generate([unit])
                return
            self._fail(units[0].page, error)
            return
        assert len(readings) == len(units), f"the engine gave {len(readings)} readings for {len(units)} images"
        for unit, reading in zip(units, readings, strict=True):
            unit.reading = reading
            unit.page.seconds += (perf_counter() - started) / len(units)

    def _fail(self, page: _OpenPage, error: ParsitError) -> None:
        if not self.keep_failed:
            raise PageError(self.file.path, page.number, str(error)) from error
        page.error = str(error)
