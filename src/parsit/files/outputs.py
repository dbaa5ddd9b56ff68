"""What an output path may be: never an input, and what is there that is no regular file is written to, not replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from parsit.types import UsageError

_MOST_LINKS = 40  # as Linux itself: more are a loop
_HEAD_BYTES = 65536


def refuse_inputs(output: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """Refuse an output that is one of the inputs, by whatever name, or a folder that holds one.

    Args:
        output: the file or folder to be written.
        inputs: files and folders that are read.
        option: the flag that names the output.

    Raises:
        UsageError: the output is an input, or a folder around it.
    """
    for path in inputs:
        if _same(output, path):
            raise UsageError(f"{option} {output} would overwrite the input {path}: choose another {option}")
        if output.is_dir() and _real(output) in _real(path).parents:
            raise UsageError(f"{option} {output} is a folder that holds the input {path}: choose another {option}")


def refuse_other_content(output: Path, is_ours: Callable[[bytes], bool], what: str, option: str = "--out") -> None:
    """Refuse to replace a file that holds anything else than an older output of the same kind, or nothing.

    Args:
        output: the file to be written.
        is_ours: whether a file that begins with these bytes (at most 64 KiB) is such an output.
        what: what such a file is called, such as `findings`.
        option: the flag that names the output.

    Raises:
        UsageError: the file holds something else, such as the data.
    """
    try:
        if not output.exists() or is_stream(output):
            return
        with output.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        head = b"?"  # whatever cannot be read is nothing that was written here
    if head.strip() and not is_ours(head):
        raise UsageError(f"{option} {output} exists and holds no {what}: choose another name")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there yet, or is no name that a file can have
        return _real(one) == _real(other)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def is_stream(path: Path) -> bool:
    """Whether a path names something to be written to as it is: a pipe, a device, an open file as /dev/stdout.

    Raises:
        OSError: the path leads in a circle, or through a folder that may not be entered.
    """
    if _own_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def open_stream(path: Path) -> BinaryIO:
    """Open what `is_stream`; a pipe waits for its reader. Raises `OSError`."""
    descriptor = _own_descriptor(path)
    # The same open file, not a second one: what was printed before stays, and what is printed after comes behind.
    return path.open("wb") if descriptor is None else os.fdopen(os.dup(descriptor), "wb")


def _own_descriptor(path: Path) -> int | None:
    """The number of this process's open file that a path such as /dev/stdout or /dev/fd/3 names; None: none."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if folder == f"/proc/{os.getpid()}/fd" and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None
