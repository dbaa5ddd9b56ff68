"""Where a scored sample's images lie, written into its record so that a page made later can draw them again.

An image is a file (`path`), a part of one (`path`, `offset`, `size`: a member of a tar), or inside a record of a data
file (`path`, `record`, `number`: data URLs and bytes in Parquet, by the record's number and the image's in it). Paths
are absolute. Nothing is copied: what is moved, changed or deleted since cannot be drawn, and whoever asks is told why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from parsit.data.containers import RecordSpan
from parsit.data.records import DataFile
from parsit.types import FileSlice, ImageRef, InputError, Sample

ImagePlace = Mapping[str, str | int]
"""One of the three forms above; empty for an image that was never in a file."""

_FORMS = ({"path": str}, {"path": str, "offset": int, "size": int}, {"path": str, "record": int, "number": int}, {})
# How containers of text and of tables call a record: `file.jsonl:12`, `file.parquet[11]`.
_RECORD = re.compile(r"(?P<path>.+)(?::(?P<line>\d+)|\[(?P<row>\d+)\])", re.DOTALL)
_FILES_REMEMBERED = 4


def image_places(sample: Sample) -> tuple[ImagePlace, ...]:
    """Where each of a sample's images lies, in their order."""
    return tuple(_place(image, sample.place, number) for number, image in enumerate(sample.images))


def _place(image: ImageRef, place: str, number: int) -> ImagePlace:
    source = image.source
    if isinstance(source, Path):
        return {"path": str(source.absolute())}
    if isinstance(source, FileSlice):
        return {"path": str(source.path.absolute()), "offset": source.offset, "size": source.size}
    found = _RECORD.fullmatch(place)
    # A tar's records are called by their keys, which may look like numbers.
    if found is None or not isinstance(source, bytes) or found["path"].endswith(".tar"):
        return {}
    record = int(found["line"] or found["row"])
    return {"path": str(Path(found["path"]).absolute()), "record": record, "number": number}


def check_places(value: object) -> tuple[ImagePlace, ...]:
    """What a record says of its images. Raises `InputError` where that is nothing `image_places` writes."""
    if not isinstance(value, list) or not all(isinstance(one, dict) and _is_place(one) for one in value):
        raise InputError("'images' is no list of places of images")
    return tuple(value)


def _is_place(value: dict[str, object]) -> bool:
    kinds = {name: type(part) for name, part in value.items()}
    return kinds in _FORMS and all(part >= 0 for part in value.values() if isinstance(part, int))


def image_at(place: ImagePlace, true_text: str) -> ImageRef:
    """The image that a place names.

    Args:
        place: as `image_places` gives it.
        true_text: the sample's; a record that has another one by now is not the sample's any more.

    Raises:
        InputError: it was never in a file, or its record is not there any more. Files are not looked at.
    """
    if not place:
        raise InputError("it was in memory alone when it was read")
    path = Path(str(place["path"]))
    if "offset" in place:
        return ImageRef(FileSlice(path, int(place["offset"]), int(place["size"])))
    if "record" in place:
        return _image_in_record(path, int(place["record"]), int(place["number"]), true_text)
    return ImageRef(path)


def _image_in_record(path: Path, record: int, number: int, true_text: str) -> ImageRef:
    file, spans_N3 = _data_file(path)
    rows = spans_N3[spans_N3[:, 0] == record]
    sample = file.sample(RecordSpan(*map(int, rows[0]))) if len(rows) else None
    if sample is None or sample.turns[-1].text != true_text or number >= len(sample.images):
        raise InputError(f"record {record} of {path} is another one by now")
    return sample.images[number]


@lru_cache(maxsize=_FILES_REMEMBERED)
def _data_file(path: Path) -> tuple[DataFile, np.ndarray]:
    """A data file and where its records lie; looked up once for all of a page's pictures. Raises `DataFault`."""
    file = DataFile.of(path)
    walk = file.walk()
    if walk.fault is not None and not len(walk.spans):
        raise walk.fault
    return file, walk.spans
