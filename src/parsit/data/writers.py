"""Output files: JSON and JSONL, Parquet as `datasets` shows it, WebDataset's tar.

Each takes record after record, in bounded memory, and is there whole once `finish` was called, or not at all. An output
also names a record's images, since where images go is its business: `begin`, then `name_of` for each image, then `add`.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Protocol

from parsit.data.containers.arrow import pyarrow_package
from parsit.data.faults import DataFault
from parsit.data.formats import ImageNames
from parsit.data.formats.common import IMAGE_MARKER
from parsit.data.image_output import PathNames, bytes_of, kind_of
from parsit.files import WholeFile
from parsit.types import ImageRef

# A row group is written when it has this many rows, or texts and images of this many characters and bytes. While it is
# written it is in memory several times.
_GROUP_ROWS = 1000
_GROUP_BYTES = 16 * 2**20

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class Output(Protocol):
    """One output file being written."""

    def begin(self, num_images: int) -> None:
        """A record with so many images follows; what the last one left without `add` is forgotten."""
        ...

    def name_of(self, image: ImageRef, /) -> str:
        """What the record calls an image. Raises `DataFault`."""
        ...

    def add(self, record: dict[str, Any]) -> None:
        """Write the record. Raises `DataFault` where its values cannot be written."""
        ...

    def finish(self) -> None:
        """Write what is left and put the file into its place."""
        ...


def json_bytes(record: dict[str, Any]) -> bytes:
    r"""A record as JSON in UTF-8; a lone surrogate becomes its escape, such as `\udc80`.

    Raises:
        DataFault: a value that JSON does not have, such as bytes or NaN.
    """
    try:
        return _ENCODER.encode(record).encode("utf-8", "backslashreplace")
    except (TypeError, ValueError) as error:
        raise DataFault("cannot-say", f"a field has no form in JSON ({error})") from error


class JsonLines:
    """A record a line."""

    before, between, after = b"", b"\n", b"\n"

    def __init__(self, draft: WholeFile, name_of: ImageNames) -> None:
        self._draft, self.name_of = draft, name_of
        self._separator = self.before

    def begin(self, num_images: int) -> None:
        """Nothing is kept between records."""

    def add(self, record: dict[str, Any]) -> None:
        """Write one record."""
        data = json_bytes(record)
        self._draft.file.write(self._separator + data)
        self._separator = self.between

    def finish(self) -> None:
        """End the file."""
        self._draft.file.write(self.after)
        self._draft.keep()


class JsonList(JsonLines):
    """A list of records, one a line."""

    before, between, after = b"[\n", b",\n", b"\n]\n"


class Parquet:
    """Records of the `huggingface` format; `images` carries the mark of `datasets`' feature `Image`.

    Args:
        draft: the file.
        path_name: gives a file's name; None: its bytes go into the Parquet file.
    """

    def __init__(self, draft: WholeFile, path_name: PathNames | None) -> None:
        arrow = pyarrow_package()
        self._draft, self._path_name = draft, path_name
        part = arrow.struct([("type", arrow.string()), ("text", arrow.string())])
        message = arrow.struct([("role", arrow.string()), ("content", arrow.list_(part))])
        image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        fields = [("id", arrow.string()), ("images", arrow.list_(image)), ("messages", arrow.list_(message))]
        self._schema = arrow.schema(fields, {"huggingface": json.dumps({"info": {"features": _FEATURES}})})
        # By its path: a writer that is given up closes its file later than `draft` does.
        self._writer = arrow.parquet.ParquetWriter(draft.beside, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._num_bytes = 0

    def begin(self, num_images: int) -> None:
        """Forget the images of the record before."""
        self._images = []

    def name_of(self, image: ImageRef) -> str:
        """Take the image; its name in the record is not looked at."""
        if isinstance(image.source, Path) and self._path_name is not None:
            self._images.append({"bytes": None, "path": self._path_name(image.source)})
        else:
            name = image.source.name if isinstance(image.source, Path) else None
            self._images.append({"bytes": bytes_of(image), "path": name})
        return ""

    def add(self, record: dict[str, Any]) -> None:
        """Take a record with the images that were named for it."""
        images: list[dict[str, Any]] | None = self._images
        if not images and any(IMAGE_MARKER in text for text in _texts(record)):
            images = None  # an empty list beside <image> would say that its image was lost
        self._rows.append({"id": record["id"], "images": images, "messages": record["messages"]})
        self._num_bytes += sum(len(image["bytes"] or b"") for image in self._images)
        self._num_bytes += sum(map(len, _texts(record)))
        if len(self._rows) >= _GROUP_ROWS or self._num_bytes >= _GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        self._write_group()
        self._writer.close()
        self._draft.keep()

    def _write_group(self) -> None:
        if self._rows:
            self._writer.write_table(pyarrow_package().Table.from_pylist(self._rows, self._schema))
        self._rows, self._num_bytes = [], 0


def _texts(record: dict[str, Any]) -> list[str]:
    """The texts of a record of the `huggingface` format."""
    return [part.get("text", "") for turn in record["messages"] for part in turn["content"]]


_TEXT = {"dtype": "string", "_type": "Value"}
# Lists written as lists: `datasets` 2 to 5 read these; their own names for lists differ.
_FEATURES = {
    "id": _TEXT,
    "images": [{"_type": "Image"}],
    "messages": [{"role": _TEXT, "content": [{"type": _TEXT, "text": _TEXT}]}],
}


class WebDatasetTar:
    """A shard of WebDataset: `000000007.json` and `000000007.png`, or `.0.png`, `.1.png` where there are several."""

    def __init__(self, draft: WholeFile) -> None:
        self._draft = draft
        self._tar = tarfile.open(fileobj=draft.file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (see finish)
        self._number = 0
        self._num_images = 0
        self._images: list[tuple[str, bytes]] = []

    def begin(self, num_images: int) -> None:
        """Forget the images of the record before."""
        self._images, self._num_images = [], num_images

    def name_of(self, image: ImageRef) -> str:
        """Take the image's bytes; its name is its member's."""
        data = bytes_of(image)
        number = f".{len(self._images)}" if self._num_images > 1 else ""
        name = f"{self._number:09d}{number}{kind_of(data)[0]}"
        self._images.append((name, data))
        return name

    def add(self, record: dict[str, Any]) -> None:
        """Write the record and then its images."""
        members = [(f"{self._number:09d}.json", json_bytes(record)), *self._images]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]  (it would remember every member)
        self._number += 1

    def finish(self) -> None:
        """Write the end mark."""
        self._tar.close()
        self._draft.keep()


def output_for(draft: WholeFile, json_names: ImageNames, path_name: PathNames | None) -> Output:
    """The output for a file, by its ending.

    Args:
        draft: the file.
        json_names: names images in JSON files.
        path_name: names files in Parquet; None: put their bytes in.
    """
    suffix = draft.path.suffix
    if suffix == ".parquet":
        return Parquet(draft, path_name)
    if suffix == ".tar":
        return WebDatasetTar(draft)
    return (JsonList if suffix == ".json" else JsonLines)(draft, json_names)
