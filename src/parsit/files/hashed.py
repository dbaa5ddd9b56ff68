"""Files whose size and checksum are known once they are written: a manifest need not read them back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What is hashed and written at a time: enough that neither holds Python's lock for long, and little to wait for.
CHUNK_BYTES = 2**23
_SMALL_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file's size in bytes and its SHA-256 sum."""

    size: int
    sha256: str


def write_hashed(path: Path, pieces: Iterable[bytes | memoryview], go_on: Callable[[], None]) -> FileEntry:
    """Write a new file and force it onto the disk; each byte is hashed as it is handed over.

    The file has no buffer of Python's: a process that is forked meanwhile has nothing of it to write.

    Args:
        path: the file; it is not there yet.
        pieces: its content, in any pieces; views are of bytes.
        go_on: called before each chunk; what it raises ends the writing.

    Raises:
        OSError: it cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as file:
        for chunk in _chunks(pieces):
            go_on()
            digest.update(chunk)
            size += len(chunk)
            left = memoryview(chunk)
            while left:
                left = left[file.write(left) :]
        os.fsync(file.fileno())
    return FileEntry(size, digest.hexdigest())


def _chunks(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces that are neither many and tiny nor longer than `CHUNK_BYTES`."""
    held = bytearray()
    for piece in pieces:
        if len(piece) < _SMALL_BYTES:
            held += piece
            if len(held) >= CHUNK_BYTES:
                yield bytes(held)
                held.clear()
            continue
        if held:
            yield bytes(held)
            held.clear()
        for start in range(0, len(piece), CHUNK_BYTES):
            yield piece[start : start + CHUNK_BYTES]
    if held:
        yield bytes(held)
