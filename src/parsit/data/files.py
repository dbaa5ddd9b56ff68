"""Whole files to samples, in memory: for evaluation and small tools, where the first fault stops everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from parsit.data.containers import records
from parsit.data.faults import DataFault
from parsit.data.formats import Context, read_record
from parsit.types import InputError, Sample


def read_files(paths: Sequence[str | Path], image_folder: str | Path | None = None) -> list[Sample]:
    """All samples of some files, in order, whatever their format.

    Args:
        paths: data files of any known kind.
        image_folder: where the records' image paths start; None: each file's own folder.

    Raises:
        InputError: a file or a record that cannot be used, with its place.
    """
    samples = [sample for path in paths for sample in read_file(Path(path), image_folder)]
    if not samples:
        raise InputError(f"no samples in {', '.join(str(path) for path in paths)}: nothing to work on")
    return samples


def read_file(path: Path, image_folder: str | Path | None = None) -> Iterator[Sample]:
    """One file's samples. Raises as `read_files`."""
    root = image_root(path, image_folder)
    for _, place, value in records(path):
        if isinstance(value, DataFault):
            raise value
        yield read_record(value, Context(place, root))


def image_root(path: Path, image_folder: str | Path | None) -> Path:
    """The folder that image paths of a data file start from.

    Raises:
        InputError: it does not exist.
    """
    root = Path(image_folder) if image_folder is not None else path.parent
    if not root.is_dir():
        raise InputError(f"{root}: no such image folder")
    return root
