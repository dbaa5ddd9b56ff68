"""Containers: files that hold records, read in order or by place.

A container knows where each record lies (`scan`), and reads one by its place alone (`read`), so that an index can be
built in parallel and a training run can read in any order without holding the data in memory. What a record means
is the formats' business (`parsit.data.formats`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from parsit.data.faults import DataFault
from parsit.types import FileSlice

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True, slots=True)
class RecordSpan:
    """Where one record lies: its number (what `place` shows) and two numbers that only its container understands.

    Text files: line number from 1 (JSONL) or index from 0 (JSON), offset and size in bytes. Tar files: index from 0,
    offset and size of the record's members. Arrow and Parquet: row from 0, number of its batch or row group, row in it.
    """

    number: int
    offset: int
    size: int


class RecordWithFiles(dict[str, Any]):
    """A record whose images travel with it. `files`: them by every name that the record may call them by.

    `others`: the endings of files beside it that nothing here reads.
    """

    def __init__(self, fields: Mapping[str, Any], files: Mapping[str, FileSlice], others: tuple[str, ...] = ()) -> None:
        super().__init__(fields)
        self.files, self.others = files, others

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any], Mapping[str, FileSlice], tuple[str, ...]]]:
        """Records travel between processes; a dictionary's own way would not call `__init__`."""
        return RecordWithFiles, (dict(self), self.files, self.others)


class Container(Protocol):
    """Reads one kind of file. Objects hold no state but caches, and travel between processes."""

    def scan(self, path: Path) -> Iterator[RecordSpan]:
        """Where the records lie, in order, in bounded memory.

        Raises:
            DataFault: the file as a whole cannot be read (further); what was yielded before stands.
        """
        ...

    def read(self, path: Path, span: RecordSpan) -> Any:
        """One record's value: what JSON decodes to; images may be `bytes` or `FileSlice`.

        Raises:
            DataFault: this record cannot be decoded (without its place).
        """
        ...

    def place(self, path: Path, span: RecordSpan) -> str:
        """What messages call a record, such as `train.jsonl:12`."""
        ...


def container_of(path: Path) -> Container:
    """The container for a file or folder.

    Raises:
        DataFault: there is no such file, or its name says nothing about its kind.
    """
    from parsit.data.containers import text

    if not path.exists():
        raise DataFault("file-missing", "no such data file", str(path))
    if not path.is_dir() and not path.is_file():
        raise DataFault("file-unreadable", "not a regular file", str(path))
    if path.is_dir() or path.suffix in (".parquet", ".arrow"):
        from parsit.data.containers.arrow import ArrowContainer

        return ArrowContainer()
    if path.suffix == ".tar":
        from parsit.data.containers.tar import TarContainer

        return TarContainer()
    if path.suffix == ".json":
        return text.JsonContainer()
    if path.suffix in (".jsonl", ".ndjson"):
        return text.JsonlContainer()
    if path.suffix in _COMPRESSED:
        raise DataFault("file-compressed", "a compressed data file cannot be read by place", str(path))
    raise DataFault("file-type-unknown", f"a data file whose name ends in {path.suffix or 'nothing'!r}", str(path))


def records(path: Path) -> Iterator[tuple[RecordSpan, str, Any]]:
    """(span, place, value) of every record in order; the value is a `DataFault` where it cannot be decoded.

    Raises:
        DataFault: the file as a whole cannot be read (further).
    """
    container = container_of(path)
    for span in container.scan(path):
        place = container.place(path, span)
        try:
            yield span, place, container.read(path, span)
        except DataFault as fault:
            yield span, place, fault.at(place)
