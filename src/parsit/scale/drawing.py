"""The process that draws pages ahead of the model: files in, pages cut into what is read in one go out.

It hashes a file, opens it, draws some pages, and takes the text layer of those where it is asked to and may. Requests
come in as JSON lines on stdin; each is answered by a JSON line and as many bytes as its `size` says: plain numbers and
pixels, as from the process that draws PDFs (`parsit.parse.worker`), since images are decoded here. It ends with stdin,
so that none is left over when the process that reads is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from parsit.data.faults import DataFault
from parsit.parse.lines import Box
from parsit.parse.open_page import OpenPage, Unit, failed_page, open_page
from parsit.parse.pages import PageError, PageFile, ReadingLimits
from parsit.parse.pdf import WorkerError
from parsit.parse.selection import parse_selection
from parsit.scale.inputs import Source
from parsit.types import InputError

DARK = 128  # grey levels; what is darker is ink, for the guess how long a page's text is

# A page's text from its text layer, with its quality; raises DataFault where the page does not pass.
TextOf = Callable[[int], tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How pages are drawn.

    Args:
        dpi: of PDF pages.
        max_line_aspect: the most times its height that a piece of a line is wide; None: pages are read as a whole.
        selection: pages, as `1-3,7`; None: all. What a file does not have of them is left out.
        pages_at_once: the most pages of one file that one request draws.
        text_layer: `auto`, `never` or `only`.
        gate: `module:function` that opens the text layer of a PDF: a context manager of a path and limits that yields
            a `TextOf`. It is called by name, since it stands on a floor above and runs in another process.
    """

    dpi: float = 150.0
    max_line_aspect: float | None = None
    selection: str | None = None
    pages_at_once: int = 4
    text_layer: str = "never"
    gate: str = ""


@dataclass(slots=True)
class DrawnPage:
    """A page on its way to the model, or with its text already: `text` of the text layer, with its quality.

    `lengths` guesses for each unit how long its answer is: for a piece of a line its width in heights, for a page its
    ink in pixels.
    """

    page: OpenPage
    lengths: list[float]
    text: str | None = None
    quality: float = 0.0


@dataclass(slots=True)
class Drawn:
    """What became of a request: some pages, those that are still to be drawn, or why the file cannot be opened.

    A failure `is_lasting` if it lies in the content: then it is a record, and is not tried again.
    """

    page_count: int = 0
    pages: list[DrawnPage] | None = None
    rest: tuple[int, ...] = ()
    error: str = ""
    is_lasting: bool = False


def draw(source: Source, drawing: Drawing, numbers: list[int] | None, skip: frozenset[int]) -> Drawn:
    """Draw the first pages of a file.

    Args:
        source: the file.
        drawing: how, and which pages.
        numbers: the pages that are left of an earlier request; None: those of the selection.
        skip: pages that are not needed.
    """
    drawn = Drawn()
    try:
        with source.as_file() as path, _opened(path, drawing) as file:
            drawn.page_count = file.page_count
            chosen = _chosen(file, drawing) if numbers is None else numbers
            needed = [number for number in chosen if number not in skip]
            drawn.rest = tuple(needed[drawing.pages_at_once :])
            with _text_layer(path, drawing) as text_of:
                drawn.pages = [_page(file, n, drawing, text_of) for n in needed[: drawing.pages_at_once]]
    except _LastingError as error:
        drawn.error, drawn.is_lasting = error.reason, True
    except InputError as error:
        drawn.error = str(error)
    except OSError as error:
        drawn.error = f"cannot be read: {error.strerror or error}"
    return drawn


class _LastingError(Exception):
    """The content of a file cannot be opened."""

    def __init__(self, path: Path, error: InputError) -> None:
        self.reason = str(error).removeprefix(str(path)).lstrip(" :")  # the same whatever the file is called


@contextmanager
def _opened(path: Path, drawing: Drawing) -> Iterator[PageFile]:
    try:
        file = PageFile(path, dpi=drawing.dpi)
    except InputError as error:
        raise _LastingError(path, error) from error
    with file:
        yield file


def _chosen(file: PageFile, drawing: Drawing) -> list[int]:
    """The selected pages that the file has. Raises `InputError` where it has none of them, or too many to take all."""
    if drawing.selection is None:
        try:
            return file.numbers()
        except InputError as error:
            raise InputError(str(error).removeprefix(str(file.path)).lstrip()) from error
    chosen = pages_of(drawing.selection, file.page_count)
    if not chosen:
        raise InputError(f"has {file.page_count} pages; --pages {drawing.selection} asks for others")
    return chosen


def pages_of(selection: str | None, page_count: int) -> list[int]:
    """The pages of a selection that a file of so many pages has. Raises `UsageError`."""
    if selection is None:
        return list(range(1, page_count + 1))
    ranges = parse_selection(selection).ranges
    return [page for first, last in ranges for page in range(first, min(last, page_count) + 1)]


@contextmanager
def _text_layer(path: Path, drawing: Drawing) -> Iterator[TextOf | None]:
    """The text layer's gate where one is asked for; None for what has no text layer."""
    if drawing.text_layer == "never":
        yield None
        return
    module, _, name = drawing.gate.partition(":")
    with ExitStack() as stack:
        try:
            gate = stack.enter_context(getattr(importlib.import_module(module), name)(path, ReadingLimits()))
        except InputError:
            gate = None  # an image
        yield gate


def _page(file: PageFile, number: int, drawing: Drawing, text_of: TextOf | None) -> DrawnPage:
    if drawing.text_layer != "never":
        try:
            if text_of is None:
                raise DataFault("page-no-text", "the file is an image")
            text, quality = text_of(number)
            return DrawnPage(OpenPage(number, flags=("text_layer",)), [], text, quality)
        except (DataFault, WorkerError) as error:
            if drawing.text_layer == "only":
                return DrawnPage(OpenPage(number, error=f"its text layer does not pass: {error}"), [])
    try:
        page = open_page(file, number, drawing.max_line_aspect)
    except PageError as error:
        page = failed_page(error)
    return DrawnPage(page, lengths_of(page))


def lengths_of(page: OpenPage) -> list[float]:
    """For each unit a guess how long its answer is; see `DrawnPage`."""
    return [_length(unit) for unit in page.units]


def _length(unit: Unit) -> float:
    if unit.box is not None:
        return unit.image.width / unit.image.height
    return float((np.asarray(unit.image.convert("L")) < DARK).sum())


def to_message(drawn: Drawn) -> tuple[dict[str, Any], bytes]:
    """What was drawn as JSON and pixels."""
    pixels: list[bytes] = []
    pages = []
    for one in drawn.pages or []:
        page = one.page
        units = [
            {"box": unit.box, "ends": [unit.ends_line, unit.ends_word], "size": _put(unit.image, pixels)}
            for unit in page.units
        ]
        # The picture of a page that is read as a whole goes along as its unit.
        image = _put(page.image, pixels) if page.image and units[0]["box"] is not None else None
        facts = {"number": page.number, "size": page.size, "flags": page.flags, "seconds": page.seconds}
        facts |= {"error": page.error, "hangs": page.hangs, "units": units, "image": image}
        pages.append(facts | {"lengths": one.lengths, "text": one.text, "quality": one.quality})
    header = {"pages": pages, "page_count": drawn.page_count, "rest": drawn.rest}
    return header | {"error": drawn.error, "is_lasting": drawn.is_lasting}, b"".join(pixels)


def from_message(header: dict[str, Any], pixels: bytes) -> Drawn:
    """The other way round."""
    left = memoryview(pixels)

    def take(size: tuple[int, int]) -> Image.Image:
        nonlocal left
        count = size[0] * size[1] * 3
        image = Image.frombytes("RGB", (size[0], size[1]), bytes(left[:count]))
        left = left[count:]
        return image

    pages = []
    for facts in header["pages"]:
        known = {name: facts[name] for name in ("number", "seconds", "error", "hangs")}
        page = OpenPage(size=tuple(facts["size"]), flags=tuple(facts["flags"]), **known)
        for number, unit in enumerate(facts["units"]):
            box = None if unit["box"] is None else Box(*unit["box"])
            page.units.append(Unit(page, number, take(unit["size"]), box, *unit["ends"]))
        if page.hangs:
            page.image = take(facts["image"]) if facts["image"] else page.units[0].image
        pages.append(DrawnPage(page, facts["lengths"], facts["text"], facts["quality"]))
    rest = tuple(header["rest"])
    return Drawn(header["page_count"], pages, rest, header["error"], header["is_lasting"])


def _put(image: Image.Image, pixels: list[bytes]) -> tuple[int, int]:
    pixels.append(image.tobytes())
    return image.size


def request_of(source: Source, drawing: Drawing, numbers: list[int] | None, skip: frozenset[int]) -> dict[str, Any]:
    """The arguments of `draw` as JSON."""
    wanted = {"numbers": numbers, "skip": sorted(skip)}
    return {"do": "draw", "source": asdict(source), "drawing": asdict(drawing), **wanted}


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Do one request: `digest` or `draw`."""
    source = Source(**request["source"])
    if request["do"] == "digest":
        try:
            return {"digest": source.digest()}, b""
        except OSError as error:
            return {"error": f"cannot be read: {error.strerror or error}"}, b""
    return to_message(draw(source, Drawing(**request["drawing"]), request["numbers"], frozenset(request["skip"])))


def serve() -> None:
    """Answer requests until stdin ends; started by `parsit.scale.workers`."""
    output: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not taken for an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            header, payload = answer(json.loads(line))
            output.write(json.dumps({**header, "size": len(payload)}).encode() + b"\n")
            output.write(payload)
            output.flush()
