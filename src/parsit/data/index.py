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
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np

from parsit.data.containers import Container, Span, container_of
from parsit.data.faults import DataFault, Finding
from parsit.data.formats import Context, format_named, read_record
from parsit.data.images import check_image
from parsit.data.look import id_hash
from parsit.data.parallel import in_order
from parsit.files import whole_folder
from parsit.processing.chat import count_chats
from parsit.processing.processor import ParsitProcessor
from parsit.types import ImageRef, Sample
from parsit.types.sample import FileSlice

# Raised whenever the columns change their meaning.
VERSION = 1
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
_ALONE_UP_TO = 20_000
_ENDS_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Reading:
    """How a data file is read: its image folder and the name of its records' format (`auto`: detect)."""

    path: Path
    root: Path
    format_name: str = "auto"


@dataclass(frozen=True)
class FileIndex:
    """One file's index on disk. Column `NAME`: `array[samples]`, see `COLUMNS`."""

    folder: Path
    reading: Reading

    def column(self, name: str) -> np.ndarray:
        """One column, memory-mapped."""
        return self.columns[name]

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """All columns."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}

    @cached_property
    def container(self) -> Container:
        """What reads the file; looked up once, not for each sample."""
        return container_of(self.reading.path)

    def __len__(self) -> int:
        """Number of good samples."""
        return len(self.columns["offset"])

    def __reduce__(self) -> tuple[type, tuple[Path, Reading]]:
        """Another process maps the files again instead of being sent their content."""
        return FileIndex, (self.folder, self.reading)

    @cached_property
    def fault_counts(self) -> Counter[str]:
        """What was set aside or noted, by code."""
        return Counter(json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))["faults"])

    @property
    def num_records(self) -> int:
        """Records in the file, good and bad."""
        return len(self) + sum(self.fault_counts.values())

    @property
    def findings_file(self) -> Path:
        """A JSON object for each record that was set aside."""
        return self.folder / "findings.jsonl"

    def findings(self) -> Iterator[Finding]:
        """What was set aside, in the file's order."""
        with self.findings_file.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                yield Finding(entry["code"], entry["place"], entry["detail"], entry["id"])

    def span(self, row: int) -> Span:
        """Where the sample of one row lies in the file."""
        columns = self.columns
        return Span(int(columns["number"][row]), int(columns["offset"][row]), int(columns["size"][row]))


def cache_folder() -> Path:
    """Where indexes lie: `$PARSIT_CACHE`, else the user's cache folder."""
    own = os.environ.get("PARSIT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parsit"


def open_index(
    reading: Reading,
    processor: ParsitProcessor,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FileIndex:
    """The index of a data file, built where there is none that fits.

    Args:
        reading: the file and how to read it.
        processor: the model's processor.
        workers: processes for building; None: one for each core.
        on_progress: called with (records done since the last call, records in the file).

    Raises:
        DataFault: the file as a whole cannot be read.
    """
    folder = cache_folder() / "index" / _key(reading, processor)
    if not (folder / "meta.json").is_file():
        _build(folder, reading, processor, workers or os.cpu_count() or 1, on_progress or _silent)
    return FileIndex(folder, reading)


def _silent(_: int, __: int) -> None:
    """No progress bar."""


def _key(reading: Reading, processor: ParsitProcessor) -> str:
    digest = hashlib.sha256()
    parts = [VERSION, reading.path.resolve(), reading.root.resolve(), reading.format_name]
    parts += [processor.image_processor.layout, processor.chat_tokens, _tokenizer_digest(processor)]
    digest.update(repr(parts).encode())
    files = sorted(p for p in reading.path.rglob("*") if p.is_file()) if reading.path.is_dir() else [reading.path]
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
    except OSError as error:
        raise DataFault("file-unreadable", f"cannot be opened: {error.strerror}", str(file)) from error
    return f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0{ends.hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What became of some records: the columns of the good ones, findings for the others."""

    columns: dict[str, np.ndarray]
    findings: list[Finding]
    num_records: int


def _build(
    folder: Path,
    reading: Reading,
    processor: ParsitProcessor,
    workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write an index beside its place, then rename it: an interrupted build leaves nothing that looks whole."""
    container = container_of(reading.path)
    spans, stopped = _scan(container, reading.path)
    try:
        with whole_folder(folder, synced=False) as draft:
            faults: Counter[str] = Counter()
            with _ColumnFiles(draft) as columns, (draft / "findings.jsonl").open("w", encoding="utf-8") as findings:

                def note(finding: Finding) -> None:
                    findings.write(json.dumps(finding.as_json()) + "\n")
                    faults[finding.code] += 1

                for chunk in _examine(spans, container, reading, processor, workers):
                    columns.append(chunk.columns)
                    for finding in chunk.findings:
                        note(finding)
                    on_progress(chunk.num_records, len(spans))
                for finding in stopped:
                    note(finding)
            meta = {"version": VERSION, "path": str(reading.path), "samples": columns.rows, "faults": faults}
            (draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    except OSError:
        # Another process built the same index meanwhile; the content is the same.
        if not (folder / "meta.json").is_file():
            raise


class _ColumnFiles:
    """Columns written piece by piece, so that memory does not grow with the file; `.npy` when they are closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0
        self._files = {name: (folder / f"{name}.raw").open("wb") for name in COLUMNS}

    def __enter__(self) -> _ColumnFiles:
        return self

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Some more rows."""
        for name, file in self._files.items():
            file.write(columns[name].astype(COLUMNS[name]).tobytes())
        self.rows += len(columns["offset"])

    def __exit__(self, *_: object) -> None:
        for name, file in self._files.items():
            file.close()
            raw = self.folder / f"{name}.raw"
            np.save(self.folder / f"{name}.npy", np.fromfile(raw, COLUMNS[name]))
            raw.unlink()


def _scan(container: Container, path: Path) -> tuple[np.ndarray, list[Finding]]:
    """Where all records lie, `uint64[records, 3]`, and what is wrong with the file as a whole."""
    flat = array("Q")
    try:
        for span in container.scan(path):
            flat.extend((span.number, span.offset, span.size))
    except DataFault as fault:
        return np.frombuffer(flat, np.uint64).reshape(-1, 3), [fault.finding()]
    return np.frombuffer(flat, np.uint64).reshape(-1, 3), []


def _examine(
    spans: np.ndarray, container: Container, reading: Reading, processor: ParsitProcessor, workers: int
) -> Iterator[_Chunk]:
    """The records at `spans`, chunk by chunk, in their order whatever the number of processes."""
    chunks = [spans[start : start + _CHUNK] for start in range(0, len(spans), _CHUNK)]
    if workers == 1 or len(spans) <= _ALONE_UP_TO:
        yield from map(_Job(container, reading, processor), chunks)
        return
    # Each process loads the processor once, from files: sent with each task, it would cost more than the work.
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        yield from in_order(partial(_work, container, reading, folder), chunks, workers)


class _Job:
    """Examines chunks of one file."""

    def __init__(self, container: Container, reading: Reading, processor: ParsitProcessor) -> None:
        self.container, self.reading, self.processor = container, reading, processor
        self.format = format_named(reading.format_name)
        # Questions about one page follow each other: its header is read once.
        self.size_of_file = lru_cache(maxsize=4096)(self._size_of_file)

    def _size_of_file(self, path: Path) -> tuple[int, int]:
        return check_image(path, self.reading.root)

    def size_of(self, image: ImageRef) -> tuple[int, int]:
        """Width and height of an image. Raises `DataFault`."""
        source = image.source
        if isinstance(source, Path):
            return self.size_of_file(source)
        assert isinstance(source, (bytes, FileSlice))  # formats make no decoded images
        return check_image(source)

    def __call__(self, rows: np.ndarray) -> _Chunk:
        kept: list[tuple[Span, Sample, list[tuple[int, int]]]] = []
        findings: list[Finding] = []
        for span in (Span(*row) for row in rows.tolist()):
            place = self.container.place(self.reading.path, span)
            name = ""
            try:
                sample = read_record(
                    self.container.read(self.reading.path, span), Context(place, self.reading.root), self.format
                )
                name = sample.id
                kept.append((span, sample, [self.size_of(image) for image in sample.images]))
            except DataFault as fault:
                findings.append(fault.at(place).finding(name))
        return _Chunk(self._columns(kept), findings, len(rows))

    def _columns(self, kept: list[tuple[Span, Sample, list[tuple[int, int]]]]) -> dict[str, np.ndarray]:
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
def _loaded_job(container: Container, reading: Reading, processor_folder: str) -> _Job:
    return _Job(container, reading, ParsitProcessor.from_pretrained(processor_folder))


def _work(container: Container, reading: Reading, processor_folder: str, rows: np.ndarray) -> _Chunk:
    return _loaded_job(container, reading, processor_folder)(rows)
