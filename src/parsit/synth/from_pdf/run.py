"""A data set from a folder of PDFs: several read at a time, written in the order of their names, all or nothing.

Threads are enough here: each PDF is opened, drawn and read in a process of its own that can be killed, and what is left
is mostly the compression of images, which lets other threads go on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from parsit.data.faults import Finding
from parsit.files import refuse_inputs, whole_folder
from parsit.synth.from_pdf.document import PdfResult, PdfSource, read_pdf
from parsit.synth.from_pdf.settings import FromPdfSettings
from parsit.synth.run import SUMMARY_FILE, check_target
from parsit.synth.split import SPLITS
from parsit.types import InputError, ParsitError

AHEAD = 4  # PDFs in hand for each worker
VERSIONED = ("parsit", "pypdfium2", "pillow", "numpy")


@dataclass(frozen=True, slots=True)
class PdfCounts:
    """What a run made and refused. `mean_quality` is that of the pages that were taken."""

    pdfs: int
    pages: int
    pages_by_split: dict[str, int]
    findings: dict[str, int]
    mean_quality: float


def pdfs_in(folder: Path) -> list[Path]:
    """The PDFs below a folder, by name; what a Mac writes beside each (`._NAME`) is none.

    Raises:
        InputError: there is none.
    """
    named = (path for path in folder.rglob("*") if path.suffix.lower() == ".pdf" and not path.name.startswith("._"))
    found = sorted(path for path in named if path.is_file())
    if not found:
        raise InputError(f"{folder}: no PDF in it or in its folders")
    return found


def make_from_pdfs(settings: FromPdfSettings, on_pdf: Callable[[PdfResult], None] = lambda _: None) -> PdfCounts:
    """Make a data set in `settings.out`; `on_pdf` hears of each PDF, in order.

    Raises:
        UsageError, InputError: what the settings and the folders do not allow.
        ParsitError: the data cannot be written.
    """
    settings.check()
    check_target(settings.out, settings.overwrite)
    paths = pdfs_in(settings.folder)
    refuse_inputs(settings.out, [settings.folder, *paths])
    try:
        with whole_folder(settings.out, synced=False, replaces=True) as folder:
            counts = _write(settings, folder, paths, on_pdf)
            _write_summary(settings, counts, folder / SUMMARY_FILE)
    except OSError as error:
        raise ParsitError(f"cannot write {settings.out}: {error}") from error
    return counts


def _write(
    settings: FromPdfSettings, folder: Path, paths: list[Path], on_pdf: Callable[[PdfResult], None]
) -> PdfCounts:
    pages, findings, quality = Counter[str](), Counter[str](), 0.0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for name in (*SPLITS, "findings")
        }
        for result in _results(settings, folder, paths):
            files[result.split].writelines(f"{line}\n" for line in result.lines)
            files["findings"].writelines(f"{json.dumps(finding.as_json())}\n" for finding in result.findings)
            pages[result.split] += len(result.lines)
            findings.update(finding.code for finding in result.findings)
            quality += result.quality
            on_pdf(result)
    by_split = {split: pages[split] for split in SPLITS}
    mean = round(quality / max(1, pages.total()), 4)
    return PdfCounts(len(paths), pages.total(), by_split, dict(sorted(findings.items())), mean)


def _results(settings: FromPdfSettings, folder: Path, paths: list[Path]) -> Iterator[PdfResult]:
    """The PDFs' results in order, some PDFs ahead."""
    first: dict[str, str] = {}
    waiting: deque[Future[tuple[PdfSource, PdfResult]]] = deque()
    pool = ThreadPoolExecutor(settings.workers)
    try:
        for path in paths:
            waiting.append(pool.submit(_result, settings, folder, path))
            if len(waiting) >= AHEAD * settings.workers:
                yield _compared(*waiting.popleft().result(), first)
        while waiting:
            yield _compared(*waiting.popleft().result(), first)
    finally:
        pool.shutdown(cancel_futures=True)


def _result(settings: FromPdfSettings, folder: Path, path: Path) -> tuple[PdfSource, PdfResult]:
    source = source_of(settings, path)
    return source, read_pdf(settings, folder, source)


def _compared(source: PdfSource, result: PdfResult, first: dict[str, str]) -> PdfResult:
    """The result, with a note if an earlier PDF has the same bytes."""
    same = first.setdefault(source.digest, source.name)
    if same != source.name:
        result.findings.insert(0, Finding("pdf-duplicate", source.name, f"the same bytes as {same}"))
    return result


def source_of(settings: FromPdfSettings, path: Path) -> PdfSource:
    """A PDF with its split, which its bytes and the seed decide: copies of one PDF are in one split."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    position = hashlib.blake2b(f"{settings.seed}/{digest}".encode(), digest_size=8).digest()
    split = settings.fractions.split_at(int.from_bytes(position, "big") / 2**64)
    # The name of a file need not be text; what is not is written as its escape.
    name = path.relative_to(settings.folder).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")
    return PdfSource(path, name, digest, split)


def _write_summary(settings: FromPdfSettings, counts: PdfCounts, path: Path) -> None:
    """`synth.json`: the settings that shape the data, the versions that made it, and what it holds."""
    shaping = asdict(settings)
    for place_or_speed in ("folder", "out", "workers", "overwrite", "timeout_s"):
        del shaping[place_or_speed]
    versions = {name: version(name) for name in VERSIONED}
    summary = {"made_by": "data from-pdf", "settings": shaping, "versions": versions, "counts": asdict(counts)}
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
