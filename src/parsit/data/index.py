"""The index of one data file: where each good sample lies, and how long it is, known before a pixel is decoded.

Lengths come from the text and the images' headers alone. Columns lie on disk as plain arrays and are memory-mapped,
in a folder whose name is a digest of all that they depend on: the file's path, size, time and ends, the image folder,
tokenizer and tiling. So an index is built again for a file that changed, and opened otherwise. What is set aside is
listed beside the columns; the index does not depend on `model_max_length`, so that another limit costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from parsit.data.containers import RecordSpan
from parsit.data.faults import DataFault, Finding, Level
from parsit.data.parallel import in_order
from parsit.data.records import Checks, DataFile, id_hash
from parsit.files import whole_folder
from parsit.processing.chat import count_chats
from parsit.processing.processor import ParsitProcessor
from parsit.types import ParsitError, Sample

# Raised whenever the columns change their meaning, or an encoding its length.
VERSION = 2
COLUMNS = {
    "number": np.uint64,
    "offset": np.uint64,
    "size": np.uint64,
    "num_tokens": np.uint32,
    "num_supervised": np.uint32,
    "num_tiles": np.uint32,
    "num_images": np.uint16,
    "id_hash": np.uint64,
}
_CHUNK = 512
# Starting another process means importing torch and transformers in it: seconds that few samples do not pay back.
_ALONE_UP_TO = 50_000
_ENDS_BYTES = 65536


@dataclass(frozen=True)
class FileIndex:
    """One file's index on disk. Column `NAME`: `array[samples]`, see `COLUMNS`."""

    folder: Path
    data: DataFile

    def column(self, name: str) -> np.ndarray:
        """One column, memory-mapped."""
        return self.columns[name]

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """All columns."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}

    def __len__(self) -> int:
        """Number of good samples."""
        return len(self.columns["offset"])

    def __reduce__(self) -> tuple[type, tuple[Path, DataFile]]:
        """Another process maps the files again instead of being sent their content."""
        return FileIndex, (self.folder, self.data)

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))

    @property
    def fault_counts(self) -> Counter[str]:
        """What was set aside: each record once, by its first fault, and what is wrong with the file as a whole."""
        return Counter(self._meta["faults"])

    @property
    def note_counts(self) -> Counter[str]:
        """What is worth knowing of the good records, by code; of ids, each run counts for itself."""
        return Counter(self._meta["notes"])

    @property
    def num_records(self) -> int:
        """Records in the file, good and bad."""
        return self._meta["records"]

    @property
    def findings_file(self) -> Path:
        """A JSON object for each finding."""
        return self.folder / "findings.jsonl"

    def findings(self) -> Iterator[Finding]:
        """What was set aside or noted, in the file's order."""
        with self.findings_file.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                yield Finding(entry["code"], entry["place"], entry["detail"], entry["id"])

    def span(self, row: int) -> RecordSpan:
        """Where the sample of one row lies in the file."""
        columns = self.columns
        return RecordSpan(int(columns["number"][row]), int(columns["offset"][row]), int(columns["size"][row]))


def cache_folder() -> Path:
    """Where indexes lie: `$PARSIT_CACHE`, else the user's cache folder.

    Raises:
        ParsitError: neither is set, and the user has no home.
    """
    own = os.environ.get("PARSIT_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parsit"
    except RuntimeError as error:
        raise ParsitError("this user has no home folder; name a folder for indexes in PARSIT_CACHE") from error


def open_index(
    data: DataFile,
    processor: ParsitProcessor,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FileIndex:
    """The index of a data file, built where there is none that fits.

    Args:
        data: the file and how to read it.
        processor: the model's processor.
        workers: processes for building; None: one for each core.
        on_progress: called with (records done since the last call, records in the file).

    Raises:
        DataFault: the file as a whole cannot be read.
        ParsitError: the index cannot be written.
    """
    _ = data.container  # says what is no data file, before it is opened: a pipe would be waited for, for ever
    folder = cache_folder() / "index" / _key(data, processor)
    try:
        if not (folder / "meta.json").is_file():
            _build(folder, data, processor, workers or os.cpu_count() or 1, on_progress or _silent)
    except OSError as error:
        reason = error.strerror or error
        raise ParsitError(
            f"{cache_folder()}: indexes cannot be kept there: {reason}; name another folder in PARSIT_CACHE"
        ) from error
    return FileIndex(folder, data)


def _silent(_: int, __: int) -> None:
    """No progress bar."""


def _key(data: DataFile, processor: ParsitProcessor) -> str:
    digest = hashlib.sha256()
    parts = [VERSION, data.path.resolve(), data.root.resolve(), data.format_name]
    parts += [processor.image_processor.layout, processor.chat_tokens, _tokenizer_digest(processor)]
    digest.update(repr(parts).encode())
    files = sorted(p for p in data.path.rglob("*") if p.is_file()) if data.path.is_dir() else [data.path]
    for file in files:
        digest.update(_state_of(file).encode())
    return digest.hexdigest()[:32]


def _tokenizer_digest(processor: ParsitProcessor) -> str:
    return hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _state_of(file: Path) -> str:
    """Name, size, time and a digest of the first and last bytes of a file."""
    try:
        status = file.stat()
        with file.open("rb") as stream:
            ends = hashlib.sha256(stream.read(_ENDS_BYTES))
            stream.seek(max(0, status.st_size - _ENDS_BYTES))
            ends.update(stream.read(_ENDS_BYTES))
    except FileNotFoundError as error:
        raise DataFault("file-missing", "the data file does not exist", str(file)) from error
    except OSError as error:
        raise DataFault("file-unreadable", f"cannot be opened: {error.strerror}", str(file)) from error
    return f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0{ends.hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What became of some records: the columns of the good ones, and what was found, by record."""

    columns: dict[str, np.ndarray]
    findings: list[list[Finding]]
    num_records: int


def _build(
    folder: Path,
    data: DataFile,
    processor: ParsitProcessor,
    workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write an index; an interrupted build leaves nothing that looks whole."""
    walk = data.walk()
    counts: dict[Level, Counter[str]] = {"fault": Counter[str](), "note": Counter[str]()}
    try:
        with whole_folder(folder, synced=False) as draft:
            with _ColumnFiles(draft) as columns, (draft / "findings.jsonl").open("w", encoding="utf-8") as listed:
                for chunk in _examine(walk.spans, data, processor, workers):
                    columns.append(chunk.columns)
                    for findings in chunk.findings:
                        _note(findings, listed, counts)
                    on_progress(chunk.num_records, len(walk.spans))
                if walk.fault is not None:
                    _note([walk.fault.finding()], listed, counts)
            # A file that breaks off has lost one record at least.
            lost = walk.fault is not None and walk.fault.code != "file-empty"
            meta = {"version": VERSION, "path": str(data.path), "records": len(walk.spans) + lost}
            meta |= {"faults": counts["fault"], "notes": counts["note"]}
            (draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    except OSError as error:
        # Another process may have built the same index meanwhile; the content is the same.
        if not (folder / "meta.json").is_file():
            reason = f"the index cannot be written: {error.strerror or error}"
            raise ParsitError(f"{folder.parent}: {reason}; name another folder in PARSIT_CACHE") from error


def _note(findings: Sequence[Finding], listed: TextIO, counts: dict[Level, Counter[str]]) -> None:
    """List what was found in one record, and count it: its first fault, or else its notes."""
    for finding in findings:
        listed.write(json.dumps(finding.as_json()) + "\n")
    faults = [finding for finding in findings if finding.level == "fault"]
    for finding in faults[:1] or findings:
        counts[finding.level][finding.code] += 1


class _ColumnFiles:
    """Columns written piece by piece, so that memory does not grow with the file; `.npy` when they are closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0
        self._files = {name: (folder / f"{name}.raw").open("wb") for name in COLUMNS}

    def __enter__(self) -> _ColumnFiles:
        return self

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Append the rows of one more chunk."""
        for name, file in self._files.items():
            file.write(columns[name].astype(COLUMNS[name]).tobytes())
        self.rows += len(columns["offset"])

    def __exit__(self, *_: object) -> None:
        for name, file in self._files.items():
            file.close()
            raw = self.folder / f"{name}.raw"
            np.save(self.folder / f"{name}.npy", np.fromfile(raw, COLUMNS[name]))
            raw.unlink()


def _examine(spans: np.ndarray, data: DataFile, processor: ParsitProcessor, workers: int) -> Iterator[_Chunk]:
    """The records at `spans`, chunk by chunk, in their order whatever the number of processes."""
    chunks = [spans[start : start + _CHUNK] for start in range(0, len(spans), _CHUNK)]
    if workers == 1 or len(spans) <= _ALONE_UP_TO:
        yield from map(_ExamineRows(data, processor), chunks)
        return
    # Each process loads the processor once, from files: sent with each task, it would cost more than the work.
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        with closing(in_order(partial(_work, data, folder), chunks, workers)) as made:
            yield from made


# A good record: its place, its sample, the (width, height) of each of its images.
_Good = tuple[RecordSpan, Sample, list[tuple[int, int]]]


class _ExamineRows:
    """Examines chunks of one file."""

    def __init__(self, data: DataFile, processor: ParsitProcessor) -> None:
        self.checks, self.processor = Checks(data), processor

    def __call__(self, rows: np.ndarray) -> _Chunk:
        kept: list[_Good] = []
        findings: list[list[Finding]] = []
        for span in (RecordSpan(*row) for row in rows.tolist()):
            checked = self.checks(span)
            if checked.findings:
                findings.append(checked.findings)
            if checked.record is not None and checked.first_fault is None:
                kept.append((span, checked.record.sample, checked.sizes))
        return _Chunk(self._columns(kept), findings, len(rows))

    def _columns(self, kept: Sequence[_Good]) -> dict[str, np.ndarray]:
        layout = self.processor.image_processor.layout
        plans = [[layout.plan(*size) for size in sizes] for _, _, sizes in kept]
        lengths = count_chats(
            [sample.turns for _, sample, _ in kept],
            [[plan.num_tokens for plan in plans_of_one] for plans_of_one in plans],
            self.processor.tokenizer,
            self.processor.chat_tokens,
        )
        columns = {
            "number": [span.number for span, _, _ in kept],
            "offset": [span.offset for span, _, _ in kept],
            "size": [span.size for span, _, _ in kept],
            "num_tokens": [length.num_tokens for length in lengths],
            "num_supervised": [length.num_supervised for length in lengths],
            "num_tiles": [sum(plan.num_tiles for plan in plans_of_one) for plans_of_one in plans],
            "num_images": [len(plans_of_one) for plans_of_one in plans],
            "id_hash": [id_hash(sample.id) for _, sample, _ in kept],
        }
        return {name: np.array(values, COLUMNS[name]) for name, values in columns.items()}


@lru_cache(maxsize=1)
def _loaded_job(data: DataFile, processor_folder: str) -> _ExamineRows:
    return _ExamineRows(data, ParsitProcessor.from_pretrained(processor_folder))


def _work(data: DataFile, processor_folder: str, rows: np.ndarray) -> _Chunk:
    return _loaded_job(data, processor_folder)(rows)
