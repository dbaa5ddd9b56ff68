"""A digest of what samples say and show, so that a run does not go on with other texts or images of the same lengths.

Texts are digested whole: in JSON files by their bytes, read at the records' places without being parsed. Images are too
large for that. Of `MOST_IMAGES_OF` samples, spread evenly (all, where there are not more), each image's size and some
pieces of its bytes are digested. So an edited answer is found always, other images are found where many of them
changed, and one single image out of a million is not.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from parsit.data.containers.text import JsonContainer, JsonlContainer
from parsit.data.dataset import SampleStore
from parsit.data.faults import DataFault
from parsit.data.index import FileIndex
from parsit.types import FileSlice, ImageRef, Sample

MOST_IMAGES_OF = 10_000
_PIECE_BYTES = 1024


def content_digest(samples: Sequence[Sample]) -> str:
    """The digest of all samples, in their order; what cannot be read counts as missing, the run itself will name it."""
    digest = hashlib.sha256()
    in_text_files = np.zeros(len(samples), bool)
    if isinstance(samples, SampleStore):
        for number, file in enumerate(samples.files):
            if isinstance(file.data.container, JsonContainer | JsonlContainer):
                mine = samples.file_numbers == number
                in_text_files |= mine
                _add_spans(digest, file, samples.rows[mine])
    step = max(-(-len(samples) // MOST_IMAGES_OF), 1)
    for number in range(len(samples)):
        looked_at = number % step == 0
        if in_text_files[number] and not looked_at:
            continue
        try:
            sample = samples[number]
        except DataFault:
            digest.update(b"missing")
            continue
        if not in_text_files[number]:
            _add_texts(digest, sample)
        if looked_at:
            for image in sample.images:
                digest.update(_image(image))
    return digest.hexdigest()


def _add_spans(digest: hashlib._Hash, file: FileIndex, rows: np.ndarray) -> None:
    """The bytes of some records of a file of text."""
    offsets, sizes = (file.column(name)[rows].astype(np.int64).tolist() for name in ("offset", "size"))
    if not offsets:
        return
    with file.data.path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for offset, size in zip(offsets, sizes, strict=True):
            digest.update(content[offset : offset + size])


def _add_texts(digest: hashlib._Hash, sample: Sample) -> None:
    for turn in sample.turns:
        parts = [part if isinstance(part, str) else "\0image" for part in turn.parts]
        digest.update(repr((turn.role, parts)).encode("utf-8", "surrogatepass"))


def _image(image: ImageRef) -> bytes:
    """What is digested of an image."""
    source = image.source
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return b"".join(_pieces(file, 0, source.stat().st_size))
        if isinstance(source, FileSlice):
            with source.path.open("rb") as file:
                return b"".join(_pieces(file, source.offset, source.size))
    except OSError:
        return b"missing"
    return source if isinstance(source, bytes) else source.tobytes()


def _pieces(file: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
    """The size, and the beginning, the middle and the end of some bytes in a file."""
    yield size.to_bytes(8, "little")
    for start in (0, size // 2, max(size - _PIECE_BYTES, 0)):
        file.seek(offset + start)
        yield file.read(min(_PIECE_BYTES, size - start))
