"""Parquet and Arrow files, and the folders that `datasets` makes of them, row by row.

A row is found again by its row group (Parquet) or record batch (Arrow) and its row in it. The last row group is kept
decoded, since Parquet cannot decode less; Arrow files are memory-mapped and cost nothing. A folder is one data set:
Parquet shards in the order of their names, or what `Dataset.save_to_disk` writes (shards named in `state.json`; the
streaming format of Arrow). A folder with several splits is refused, for training on a test split would go unnoticed.
Images come as Hugging Face's `Image` feature stores them: `{"bytes", "path"}`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from parsit.data.containers import RecordSpan
from parsit.data.faults import DataFault
from parsit.types import InputError

if TYPE_CHECKING:
    import pyarrow

# How many row groups stay decoded: one for reading in order, one more for a neighbour.
_DECODED = 2
_ARROW_FILE_MAGIC = b"ARROW1"
# The names that `datasets` and the Hub give to the shards of a split.
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")


def pyarrow_package() -> ModuleType:
    """The package pyarrow, with its readers.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("Parquet and Arrow files need pyarrow: pip install parsit[parquet]") from error
    return pyarrow


class ArrowContainer:
    """`.parquet`, `.arrow`, and folders of them."""

    def scan(self, path: Path) -> Iterator[RecordSpan]:
        """Every row, by its group."""
        row = 0
        for group, piece in enumerate(_pieces(path, _state(path))):
            for in_group in range(piece.num_rows):
                yield RecordSpan(row, group, in_group)
                row += 1

    def num_rows(self, path: Path) -> int:
        """Number of records. Raises as `scan`."""
        return sum(piece.num_rows for piece in _pieces(path, _state(path)))

    def read(self, path: Path, span: RecordSpan) -> Any:
        """One row as Python values; a column that is null is there as None."""
        pieces = _pieces(path, _state(path))
        if span.offset >= len(pieces) or span.size >= pieces[span.offset].num_rows:
            raise DataFault("changed-since-indexed", f"{path} has no row {span.number} any more")
        piece = pieces[span.offset]
        table = _row_group(piece, os.getpid()) if piece.file.suffix == ".parquet" else _batch(piece, os.getpid())
        try:
            return table.slice(span.size, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise DataFault("encoding-broken", f"byte {error.start} of a text is not UTF-8") from error

    def place(self, path: Path, span: RecordSpan) -> str:
        """`file.parquet[row]`."""
        return f"{path}[{span.number}]"


@dataclass(frozen=True, slots=True)
class _Piece:
    """A row group or record batch: its file, its number in it, its rows; `state` tells a file that was replaced."""

    file: Path
    number: int
    num_rows: int
    state: int


def _state(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise DataFault("file-unreadable", f"cannot be opened: {error.strerror}", str(path)) from error


@lru_cache(maxsize=16)
def _pieces(path: Path, state: int) -> tuple[_Piece, ...]:
    """All row groups or batches of a file or folder, in order."""
    arrow = pyarrow_package()
    pieces: list[_Piece] = []
    for file in _files(path):
        try:
            if file.suffix == ".parquet":
                metadata = arrow.parquet.read_metadata(file)
                rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            else:
                rows = [batch.num_rows for batch in _batches(file, _state(file), os.getpid())]
        except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataFault("parquet-broken", f"cannot be read: {_line(error)}", str(file)) from error
        pieces += [_Piece(file, number, count, _state(file)) for number, count in enumerate(rows)]
    return tuple(pieces)


@lru_cache(maxsize=_DECODED)
def _row_group(piece: _Piece, process: int) -> pyarrow.Table:
    arrow = pyarrow_package()
    try:
        # One thread: several workers read at once already.
        return arrow.parquet.ParquetFile(piece.file).read_row_group(piece.number, use_threads=False)
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        detail = f"row group {piece.number} of {piece.file} cannot be read: {_line(error)}"
        raise DataFault("parquet-broken", detail) from error


def _batch(piece: _Piece, process: int) -> pyarrow.RecordBatch:
    return _batches(piece.file, piece.state, process)[piece.number]


@lru_cache(maxsize=64)
def _batches(file: Path, state: int, process: int) -> tuple[pyarrow.RecordBatch, ...]:
    """An Arrow file's batches, which lie in the mapped file, not in memory."""
    arrow = pyarrow_package()
    source = arrow.memory_map(str(file))
    if source.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC:
        reader = arrow.ipc.open_file(source)
        return tuple(reader.get_batch(number) for number in range(reader.num_record_batches))
    source.seek(0)
    return tuple(arrow.ipc.open_stream(source))


def _files(path: Path) -> list[Path]:
    """The shards of a data set.

    Raises:
        DataFault: a folder with several splits, or with none.
    """
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        folders = sorted(part.parent for part in path.glob("*/state.json"))
        if len(folders) != 1:
            splits = ", ".join(folder.name for folder in folders)
            raise DataFault("several-splits", f"a DatasetDict with the splits {splits or 'missing'}", str(path))
        return _saved_shards(folders[0])
    if (path / "state.json").is_file():
        return _saved_shards(path)
    shards = sorted(shard for shard in path.glob("*.parquet") if not shard.name.startswith("."))  # ._a of a Mac
    if not shards:
        raise DataFault("file-type-unknown", "a folder without .parquet files and no saved data set", str(path))
    splits = {match.group(1) for shard in shards if (match := _SHARD.fullmatch(shard.name))}
    if len(splits) > 1:
        raise DataFault("several-splits", f"a folder with the splits {', '.join(sorted(splits))}", str(path))
    return shards


def _saved_shards(path: Path) -> list[Path]:
    """The files that `Dataset.save_to_disk` lists in `state.json`."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        files = [path / Path(name).name for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFault("parquet-broken", f"state.json does not list the shards ({_line(error)})", str(path)) from error
    for file in files:
        if not file.is_file():
            raise DataFault("file-missing", "a shard that state.json names does not exist", str(file))
    return files


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
