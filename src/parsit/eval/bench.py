"""Readings of a published benchmark's pages, written where its own judge looks for them.

Two layouts are known:

- `olmocr` (olmOCR-bench): DIR/pdfs/**/NAME.pdf → DIR/parsit/**/NAME_pg1_repeat1.md, a file for each page;
- `omnidocbench` (OmniDocBench, end to end): DIR/images/NAME.jpg → DIR/parsit/NAME.md; of the file with the truth
  (DIR/OmniDocBench.json) the pages that it names, instead of the folder's.

The raw text of the model is written the same way beside it, into DIR/parsit-raw; DIR/parsit is post-processed. What
could not be read is an empty file, which fails its tests: a judge leaves a system out that lacks a page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parsit.eval.postprocess import postprocess
from parsit.files import whole_folder
from parsit.types import Document, InputError, ParsitError, UsageError

Layout = Literal["olmocr", "omnidocbench"]
LAYOUTS: tuple[Layout, ...] = ("olmocr", "omnidocbench")
NAME, RAW_NAME = "parsit", "parsit-raw"
# In each folder of readings: what wrote them. A folder without it is somebody else's.
ABOUT_FILE = "parsit.json"
IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class BenchFolder:
    """A benchmark's folder: its layout, and the files that are to be read, in order."""

    root: Path
    layout: Layout
    files: tuple[Path, ...]

    @classmethod
    def open(cls, root: Path, layout: Layout) -> BenchFolder:
        """Find the files.

        Args:
            root: the benchmark's folder; for `omnidocbench` also a file with its truth, which lies in that folder.
            layout: which benchmark's it is.

        Raises:
            InputError: there are none, two would have one reading, or the truth is broken or names what is not there.
        """
        if layout == "omnidocbench" and root.is_file():
            root, files = root.parent, pages_of_truth(root)
        else:
            source = root / ("pdfs" if layout == "olmocr" else "images")
            suffixes = (".pdf",) if layout == "olmocr" else IMAGES
            files = sorted(path for path in source.rglob("*") if path.suffix.lower() in suffixes)
            if not files:
                what = "PDFs" if layout == "olmocr" else "JPEG or PNG images"
                raise InputError(f"{source} holds no {what}: is {root} a folder in the layout of {layout}?")
        folder = cls(root, layout, tuple(files))
        folder.check_names()
        return folder

    def check_names(self) -> None:
        """Raises `InputError` if two files would have one reading, of which one would be lost."""
        seen: dict[Path, Path] = {}
        for file in self.files:
            first = seen.setdefault(self.reading(file, 1), file)
            if first != file:
                raise InputError(f"{first} and {file} would both be read into {self.reading(file, 1)}: rename one")

    def reading(self, file: Path, page: int) -> Path:
        """Where the reading of a page goes, below a system's folder."""
        if self.layout == "omnidocbench":
            return Path(f"{file.stem}.md")
        inside = file.relative_to(self.root / "pdfs").with_suffix("")
        return inside.with_name(f"{inside.name}_pg{page}_repeat1.md")

    def check_target(self) -> None:
        """Raises `UsageError` if a folder that would be replaced holds what was not written here."""
        for name in (NAME, RAW_NAME):
            folder = self.root / name
            if (
                folder.exists()
                and not (folder / ABOUT_FILE).is_file()
                and (not folder.is_dir() or any(folder.iterdir()))
            ):
                raise UsageError(f"{folder} was not written by `parsit eval --bench`: move it away")

    def missing(self, system: Path) -> list[str]:
        """The files (names) of which a system's folder has no reading of the first page."""
        return [file.name for file in self.files if not (system / self.reading(file, 1)).is_file()]


@dataclass(frozen=True, slots=True)
class BenchReadings:
    """How reading went: files and pages that were read, and the reasons why some were not."""

    files: int
    pages: int
    failures: tuple[str, ...]


def write_readings(
    bench: BenchFolder,
    read: Callable[[Path], Document],
    about: dict[str, object],
    on_file: Callable[[], None] = lambda: None,
) -> BenchReadings:
    """Read every file and put both folders in their places, whole, when all is read.

    Args:
        bench: where to read and write.
        read: a file's pages; one that fails is kept with its reason in `Page.error`.
        about: what is written into `ABOUT_FILE`.
        on_file: called when a file is done.

    Raises:
        UsageError: see `BenchFolder.check_target`.
        ParsitError: a folder cannot be written.
    """
    bench.check_target()
    pages, failures = 0, []
    try:
        with ExitStack() as stack:
            folders = [
                stack.enter_context(whole_folder(bench.root / name, synced=False, replaces=True))
                for name in (NAME, RAW_NAME)
            ]
            for file in bench.files:
                for number, text, error in _pages(file, read):
                    _write(folders, bench.reading(file, number), text)
                    pages += 1
                    failures += [f"{file}, page {number}: {error}"] if error else []
                on_file()
            for folder in folders:
                (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ParsitError(f"{bench.root}: the readings cannot be written: {error}") from error
    return BenchReadings(len(bench.files), pages, tuple(failures))


def pages_of_truth(path: Path) -> list[Path]:
    """The images that a file of OmniDocBench's truth names, in its order, below `images` beside it.

    Raises:
        InputError: it is no such file, or an image is not there or lies elsewhere.
    """
    try:
        pages = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    folder, files = path.parent / "images", []
    for number, page in enumerate(pages if isinstance(pages, list) else [None]):
        match page:
            case {"page_info": {"image_path": str(name)}}:
                file = folder / name
            case _:
                raise InputError(f"{path}[{number}] has no page_info.image_path: is it OmniDocBench's truth?")
        if Path(name).is_absolute() or ".." in Path(name).parts or not file.is_file():
            raise InputError(f"{path}[{number}]: there is no image {name} in {folder}")
        files.append(file)
    if not files:
        raise InputError(f"{path} holds no pages")
    return files


def _pages(file: Path, read: Callable[[Path], Document]) -> Iterator[tuple[int, str, str]]:
    """Number, text and error of each page; a file that cannot be opened is an empty first page."""
    try:
        document = read(file)
    except ParsitError as error:
        yield 1, "", str(error)
        return
    for page in document.pages:
        yield page.number, page.text, page.error


def _write(folders: list[Path], name: Path, text: str) -> None:
    """The post-processed text into the first folder, the raw one into the second."""
    for folder, written in zip(folders, (postprocess(text), text), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate is written as its escape, as everywhere.
        path.write_text(written, encoding="utf-8", errors="backslashreplace", newline="\n")
