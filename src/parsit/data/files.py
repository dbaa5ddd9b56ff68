"""Whole files to samples, in memory: for evaluation and small tools, where the first fault stops everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from parsit.data.records import DataFile
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
    file = DataFile.of(path, image_folder)
    for span in file.container.scan(path):
        yield file.sample(span)
