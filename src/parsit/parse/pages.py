"""Files in, page images out: PDF, multi-page TIFF and single images, one page in memory at a time.

What a file is, its first bytes say, not its suffix. A file that cannot be read at all is refused
when it is opened; a page that cannot is an error of that page, and the caller may go on with the
next one. Limits are named in one place, `ReadingLimits`. PDFs are drawn in a process of their own (see
`parsit.parse.pdf`); images are decoded in this one, behind the size check of
`parsit.processing.images`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image, UnidentifiedImageError

from parsit.parse.ink import is_blank
from parsit.parse.pdf import PdfFile, WorkerError
from parsit.parse.selection import Selection
from parsit.processing.images import (
    FORMATS_IN_WORDS,
    MAX_PIXELS,
    check_file,
    decode_image,
    open_image,
    page_frames,
)
from parsit.types import InputError

DEFAULT_DPI = 150.0
# The first bytes of the image formats that are read: a comment in one may mention a PDF.
IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|II[*+]\0|MM\0[*+]|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|P[1-7fF]\s", re.DOTALL
)
PDF_HEADER_WITHIN_BYTES = 1024  # PDF Reference 1.7, Appendix H, note 13: where readers look for %PDF-


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """How much of this machine one file may take.

    `max_pages` holds when no pages are chosen: a longer file is read only on request. A page of
    more than `max_page_pixels` is scaled down to them (A0 at 150 dpi and A4 at 600 dpi fit) and
    flagged `reduced`. `timeout_s` and `max_memory_bytes` hold for the process that draws PDFs.
    """

    max_file_bytes: int = 1 << 30
    max_pages: int = 1000
    max_page_pixels: int = 36_000_000
    timeout_s: float = 60.0
    max_memory_bytes: int = 2 << 30


class PageError(InputError):
    """One page of a file cannot be read; the others may. The message names file and page."""

    def __init__(self, path: Path, number: int, reason: str) -> None:
        super().__init__(f"{path}, page {number}: {reason}")
        self.number = number
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PageImage:
    """A page as an upright RGB image.

    `flags` may hold `blank` (nothing on it to read), `reduced` (drawn with fewer pixels than
    asked for, to stay within `ReadingLimits.max_page_pixels`) and `text_not_drawn` (letters are missing in the picture,
    because their font is neither in the PDF nor on this machine).
    """

    number: int
    image: Image.Image
    flags: tuple[str, ...] = ()


class PageFile:
    """An open file of pages. Use it as a context manager; pages count from 1 and are drawn when asked for.

    Args:
        path: A PDF or an image, by its content.
        dpi: Dots per inch at which PDF pages are drawn; images keep their pixels.
        limits: What is refused or scaled down.

    Raises:
        InputError: The file is missing, a folder, empty, too large, of no known type, encrypted or
            damaged.
    """

    def __init__(self, path: Path, *, dpi: float = DEFAULT_DPI, limits: ReadingLimits | None = None) -> None:
        self.path = path
        self.dpi = dpi
        self.limits = limits or ReadingLimits()
        size = check_file(path)
        if size > self.limits.max_file_bytes:
            raise InputError(f"{path} has {size:,} bytes; the limit is {self.limits.max_file_bytes:,}")
        self._open_parts = ExitStack()
        self._pdf: PdfFile | None = None
        self._image: Image.Image | None = None
        self._frames: list[int] = []
        if _is_pdf(path):
            pdf = PdfFile(path, timeout_s=self.limits.timeout_s, max_memory_bytes=self.limits.max_memory_bytes)
            self._pdf = self._open_parts.enter_context(pdf)
            self.page_count = pdf.page_count
        else:
            self._image = self._open_parts.enter_context(_opened_image(path))
            self._frames = page_frames(self._image, str(path))
            self.page_count = len(self._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and end the process that draws it."""
        self._open_parts.close()

    def numbers(self, selection: Selection | None = None) -> list[int]:
        """The page numbers to be read: those selected, or all.

        Raises:
            InputError: A selected page does not exist, or nothing is selected and there are more
                pages than `ReadingLimits.max_pages`.
        """
        if selection is not None:
            return selection.pages(self.page_count, str(self.path))
        if self.page_count > self.limits.max_pages:
            raise InputError(
                f"{self.path} has {self.page_count:,} pages; more than {self.limits.max_pages:,} are read only"
                f" when chosen, for example with --pages 1-{self.limits.max_pages}"
            )
        return list(range(1, self.page_count + 1))

    def page(self, number: int) -> PageImage:
        """Draw or decode one page.

        Raises:
            PageError: The page is damaged, takes too long or too much memory.
        """
        image, reduced, undrawn = self._pdf_page(number) if self._pdf else (*self._image_page(number), False)
        found = {"blank": is_blank(image), "reduced": reduced, "text_not_drawn": undrawn}
        return PageImage(number, image, tuple(flag for flag, is_set in found.items() if is_set))

    def text_layer(self, number: int) -> str:
        """The text stored in a PDF page, in PDFium's reading order; empty for a scan or an image.

        Raises:
            PageError: As `page`.
        """
        if self._pdf is None:
            return ""
        try:
            return self._pdf.text(number)
        except WorkerError as error:
            raise PageError(self.path, number, str(error)) from error

    def _pdf_page(self, number: int) -> tuple[Image.Image, bool, bool]:
        assert self._pdf is not None
        try:
            image, dpi = self._pdf.render(number, dpi=self.dpi, max_pixels=self.limits.max_page_pixels)
            undrawn = self._pdf.undrawn(number)
        except WorkerError as error:
            raise PageError(self.path, number, str(error)) from error
        return image, dpi < self.dpi * 0.999, undrawn > 0

    def _image_page(self, number: int) -> tuple[Image.Image, bool]:
        assert self._image is not None
        try:
            image = decode_image(self._image, "the image", frame=self._frames[number - 1])
        except InputError as error:
            raise PageError(self.path, number, str(error)) from error
        share = (self.limits.max_page_pixels / (image.width * image.height)) ** 0.5
        if share >= 1:
            return image, False
        size = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        return image.resize(size, Image.Resampling.LANCZOS), True


def text_layer(path: Path, page: int) -> str:
    """The text layer of one page (from 1) of a file; see `PageFile.text_layer`.

    Raises:
        InputError: The file cannot be read, or the page does not exist.
    """
    with PageFile(path) as file:
        Selection(((page, page),)).pages(file.page_count, str(path))
        return file.text_layer(page)


@contextmanager
def _opened_image(path: Path) -> Iterator[Image.Image]:
    """`open_image`, with an error that names PDF among the known formats."""
    try:
        opened = ExitStack()
        image = opened.enter_context(open_image(path, max_pixels=MAX_PIXELS))
    except InputError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        known = f"a PDF nor an image of a known format ({FORMATS_IN_WORDS})"
        raise InputError(f"{path} is neither {known}, or its header is damaged") from error
    with opened:
        yield image


def _is_pdf(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(PDF_HEADER_WITHIN_BYTES)
    return b"%PDF-" in start and not IMAGE_START.match(start)
