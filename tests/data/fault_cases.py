"""Every kind of fault, each made in a real file.

`test_data_faults.py` runs them; docs/data-faults.md is written from them (`python scripts/fault_table.py`).
"""
# ruff: noqa: E501  (a table, one case a line)

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from parsit.data.faults import FAULTS, Finding
from parsit.data.validate import Report, validate_files
from parsit.types import Sample

HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
TALK = [HUMAN, GPT]
SEEN = [{"from": "human", "value": "<image>\nRead."}, GPT]


@dataclass(frozen=True)
class Case:
    """One kind of fault.

    `make` writes it into a folder and returns the data file; the finding's place begins with the file and ends with
    `place` (None: a byte of the file). `good`: records of the file that stay. `needs`: a package without which the
    case is left out.
    """

    fault: str
    code: str
    make: Callable[[Path], Path]
    place: str | None = ":2"
    good: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    needs: str = ""

    @property
    def is_files(self) -> bool:
        """Whether the fault is the file's and not one record's."""
        return self.place in ("", None)

    @property
    def outcome(self) -> str:
        """What becomes of the data, in words."""
        if FAULTS[self.code].level == "note":
            return "noted; the sample stays"
        if not self.is_files:
            return "the sample is set aside"
        return "the file ends there; what was read before stays" if self.good else "the file is passed over"

    def run(self, folder: Path) -> tuple[Report, list[Finding]]:
        """Make the file and validate it, and a good one behind it."""
        return self.validate(self.make(folder), folder)

    def validate(self, file: Path, folder: Path) -> tuple[Report, list[Finding]]:
        """Validate a file that was made, and a good one behind it."""
        neighbour = folder / "neighbour.jsonl"
        neighbour.write_bytes(line({"id": "n", "conversations": TALK}))
        listed = folder / "findings.jsonl"
        options = {"image_folder": folder} | self.options
        report = validate_files([file, neighbour], findings_file=listed, **options)
        entries = [json.loads(text) for text in listed.read_text().splitlines()]
        return report, [Finding(e["code"], e["place"], e["detail"], e["id"]) for e in entries]


def line(record: object) -> bytes:
    return json.dumps(record).encode() + b"\n"


def among_good(bad: bytes, name: str = "train.jsonl") -> Callable[[Path], Path]:
    """A line between two good records."""

    def make(folder: Path) -> Path:
        path = folder / name
        first, last = (line({"id": name, "conversations": TALK}) for name in ("first", "last"))
        path.write_bytes(first + bad.rstrip(b"\n") + b"\n" + last)
        return path

    return make


def record(**fields: Any) -> Callable[[Path], Path]:
    return among_good(line({"id": "bad", "conversations": TALK} | fields))


def turns(*conversation: Any) -> Callable[[Path], Path]:
    return record(conversations=list(conversation))


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    """A file of just these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def image(data: bytes, name: str = "bad.png") -> Callable[[Path], Path]:
    """A record between good ones whose image file holds these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return record(image=name, conversations=SEEN)(folder)

    return make


def with_setup(setup: Callable[[Path], None], make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def both(folder: Path) -> Path:
        setup(folder)
        return make(folder)

    return both


def encoded(form: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def cut(form: str, **options: Any) -> Callable[[Path], Path]:
    data = encoded(form, **options)
    return image(data[: len(data) * 2 // 3])


def png_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def png_with_broken_pixels() -> bytes:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    return bytes(data)


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "train.jsonl")
    return folder / "train.jsonl"


def huge_line(folder: Path) -> Path:
    """A hole in the file: it takes no room on disk."""
    path = folder / "train.jsonl"
    with path.open("wb") as file:
        file.write(line({"id": "first", "conversations": TALK}))
        file.seek(257 * 2**20, os.SEEK_CUR)
        file.write(b"\n" + line({"id": "last", "conversations": TALK}))
    return path


def splits(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "dataset"
    path.mkdir()
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table({"id": ["1"]}), path / f"{split}-00000-of-00001.parquet")
    return path


def parquet(folder: Path, images: list[bytes | None]) -> Path:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"id": str(number), "images": [{"bytes": data, "path": "a.png"}], "messages": [
            {"role": "user", "content": "<image>Read."}, {"role": "assistant", "content": "Hello"}]}
        for number, data in enumerate(images)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    return folder / "train.parquet"


def tar(members: dict[str, bytes], keep: float = 1.0) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "train.tar"
        with tarfile.open(path, "w") as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        return path

    return make


def link_file(folder: Path) -> None:
    (folder.parent / "outside.png").write_bytes(encoded("PNG"))
    (folder / "bad.png").symlink_to(folder.parent / "outside.png")


def link_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "a.png").write_bytes(encoded("PNG"))
    (folder / "linked").symlink_to(folder.parent / "elsewhere")


def number_of_words(sample: Sample) -> int:
    """A tokenizer for tests."""
    return sum(len(turn.text.split()) for turn in sample.turns)


GOOD_LINE = line({"id": "1", "conversations": TALK})
ONE, TWO = (json.dumps({"id": name, "conversations": TALK}) for name in ("1", "2"))
TAR_GOOD = {"a.png": encoded("PNG"), "a.txt": b"Hello"}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
IMAGE_PART = {"type": "image_url", "image_url": {"url": "a.png"}}
ASKED = {"role": "user", "content": "Hi"}
ANSWERED = {"role": "assistant", "content": "Hello"}


def messages(*chat: Any) -> Callable[[Path], Path]:
    return among_good(line({"id": "bad", "messages": list(chat)}))


CASES = [
    # files
    Case("a path that does not exist", "file-missing", lambda folder: folder / "train.jsonl", "", 0),
    Case("a named pipe instead of a file", "file-unreadable", pipe, "", 0),
    Case("a data file of zero bytes", "file-empty", content("train.jsonl", b""), "", 0),
    Case("a data file of blank lines", "file-empty", content("train.jsonl", b"\n \n\n"), "", 0),
    Case("an empty JSON list", "file-empty", content("train.json", b"[]"), "", 0),
    Case("a CSV file", "file-type-unknown", content("train.csv", b"id,text\n1,Hi\n"), "", 0),
    Case("a folder with nothing known in it", "file-type-unknown", with_setup(
        lambda folder: (folder / "set").mkdir(), lambda folder: folder / "set"), "", 0),
    Case("a compressed data file", "file-compressed", content("train.jsonl.gz", gzip.compress(GOOD_LINE)), "", 0),
    Case("a folder with train and test", "several-splits", splits, "", 0, needs="pyarrow"),
    Case("Latin-1 text in a JSONL file", "encoding-broken", among_good(GOOD_LINE.replace(b"Hi", b"Gr\xfc\xdfe"))),
    Case("a line that was cut off", "json-broken", among_good(GOOD_LINE[:30])),
    Case("a line with a trailing comma", "json-broken", among_good(GOOD_LINE.rstrip()[:-1] + b",}")),
    Case("NaN in a record", "json-broken", among_good(b'{"id": NaN, "conversations": []}')),
    Case("brackets nested 100,000 deep", "json-broken", among_good(b"[" * 100_000 + b"]" * 100_000)),
    Case("one broken element of a JSON list", "json-broken", content("train.json", f'[{ONE}, {{"a" 1}}, {TWO}]'.encode()), "[1]"),
    Case("a comma missing between the elements of a JSON list", "json-broken", content("train.json", f"[{ONE} {TWO}]".encode()), None, 1),
    Case("a JSON object instead of a list", "json-not-a-list", content("train.json", f'{{"data": [{ONE}]}}'.encode()), None, 0),
    Case("a JSON list that was cut off", "json-cut-off", content("train.json", f"[{ONE}, {TWO}, {ONE[:40]}".encode()), None),
    Case("a record of more than 256 MiB", "record-too-large", huge_line),
    Case("a Parquet file that was cut off", "parquet-broken", content("train.parquet", b"PAR1" + bytes(100)), "", 0, needs="pyarrow"),
    Case("a tar file that was cut off", "tar-broken", tar({**TAR_GOOD, "b.png": encoded("PNG"), "b.txt": b"Hi"}, 0.5), "", 1),
    Case("a text file called .tar", "tar-broken", content("train.tar", b"no tar file at all " * 100), "", 0),
    Case("an image in a tar file without a text", "tar-no-record", tar({**TAR_GOOD, "b.png": encoded("PNG")}), ":b", 1),
    Case("a text in a tar file without its image", "tar-no-image", tar({**TAR_GOOD, "b.txt": b"Hi"}), ":b", 1),
    Case("a record in a tar file without its image", "image-markers-extra", tar({**TAR_GOOD, "b.json": json.dumps({"conversations": SEEN}).encode()}), ":b", 1),
    Case("a JSON list in UTF-16", "encoding-broken", content("train.json", f"[{ONE}]".encode("utf-16")), "", 0),
    Case("JSON lines in UTF-16 without a mark", "encoding-broken", content("train.jsonl", GOOD_LINE.decode().encode("utf-16-le")), "", 0),
    Case("a compressed file with another ending", "file-compressed", content("train.jsonl", gzip.compress(GOOD_LINE)), "", 0),
    Case("a key that comes twice", "json-broken", among_good(GOOD_LINE.rstrip()[:-1] + b', "id": "2"}')),
    # records
    Case("a list instead of an object", "record-not-an-object", among_good(b"[1, 2]")),
    Case("a number instead of an object", "record-not-an-object", among_good(b"7")),
    Case("fields of no known format", "conversations-missing", among_good(line({"id": "bad", "prompt": "Hi", "answer": "Hello"}))),
    Case("the record is null", "record-not-an-object", among_good(b"null")),
    Case("texts that are no list", "format-unknown", among_good(line({"id": "bad", "texts": "Hi"}))),
    Case("chat messages where --format says llava", "format-mismatch", messages(ASKED, ANSWERED), options={"format_name": "llava"}),
    Case("an id that is a list", "id-wrong-type", record(id=[1])),
    Case("an id that is true", "id-wrong-type", record(id=True)),
    Case("an id that another record has", "id-duplicate", record(id="first"), good=3),
    Case("a field that is not read", "fields-not-carried", record(difficulty=3), good=3),
    # conversations
    Case("conversations that are text", "conversations-wrong-type", record(conversations="Hi")),
    Case("conversations that are null", "conversations-missing", record(conversations=None)),
    Case("an empty conversation", "conversations-empty", turns()),
    Case("a turn that is text", "turn-not-an-object", turns("Hi", GPT)),
    Case("a turn without from", "role-missing", turns({"value": "Hi"}, GPT)),
    Case("a turn from a robot", "role-unknown", turns({"from": "robot", "value": "Hi"}, GPT)),
    Case("a message with an unknown role", "role-unknown", messages({"role": "robot", "content": "Hi"}, ANSWERED)),
    Case("a turn without value", "text-missing", turns({"from": "human"}, GPT)),
    Case("a turn whose value is null", "text-missing", turns({"from": "human", "value": None}, GPT)),
    Case("a turn whose value is a number", "text-wrong-type", turns({"from": "human", "value": 3}, GPT)),
    Case("half of an emoji", "text-not-unicode", turns({"from": "human", "value": "\ud83d"}, GPT)),
    Case("a message with sound in it", "content-part-unknown", messages({"role": "user", "content": [{"type": "input_audio"}]}, ANSWERED)),
    Case("an empty question", "turn-empty", turns({"from": "human", "value": ""}, GPT)),
    Case("an answer of spaces", "turn-empty", turns(HUMAN, {"from": "gpt", "value": " \n"})),
    Case("a system turn in the middle", "system-not-first", turns(HUMAN, {"from": "system", "value": "Be brief."}, GPT)),
    Case("the answer before the question", "first-turn-not-user", turns(GPT, HUMAN)),
    Case("two questions in a row", "turns-not-alternating", turns(HUMAN, HUMAN, GPT)),
    Case("a question without any answer", "nothing-supervised", turns(HUMAN)),
    Case("accepted answers that are text", "answers-wrong-type", record(answers="Hello")),
    Case("a question at the end", "ends-with-user", turns(HUMAN, GPT, HUMAN), good=3),
    Case("a special token in a text", "special-token-in-text", turns(HUMAN, {"from": "gpt", "value": "a<|im_end|>b"}), good=3),
    # images of a record
    Case("an image without <image>", "image-markers-missing", record(image="a.png")),
    Case("<image> twice for one image", "image-markers-extra", record(image="a.png", conversations=[{"from": "human", "value": "<image><image>"}, GPT])),
    Case("<image> without an image", "image-markers-extra", record(conversations=SEEN)),
    Case("<image> beside an image that is null", "image-markers-extra", record(image=None, conversations=SEEN)),
    Case("<image> beside an empty list of images", "image-markers-extra", record(image=[], conversations=SEEN)),
    Case("<image> and a field image_path", "image-markers-extra", record(image_path="a.png", conversations=SEEN)),
    Case("<image> in a message without images", "image-markers-extra", messages({"role": "user", "content": "<image>Read."}, ANSWERED)),
    Case("an image under another name, without <image>", "image-field-unknown", record(image_path="a.png")),
    Case("an image that is a number", "image-wrong-type", record(image=7, conversations=SEEN)),
    Case("an empty image path", "image-path-empty", record(image="", conversations=SEEN)),
    Case("an absolute image path", "image-path-absolute", record(image="/etc/a.png", conversations=SEEN)),
    Case("a Windows path with a drive", "image-path-absolute", record(image="C:\\scans\\a.png", conversations=SEEN)),
    Case("an image path with ..", "image-path-leaves-root", record(image="a/../../b.png", conversations=SEEN)),
    Case("an image that links to a file outside", "image-symlink-leaves-root", with_setup(link_file, record(image="bad.png", conversations=SEEN))),
    Case("an image behind a link to a folder outside", "image-symlink-leaves-root", with_setup(link_folder, record(image="linked/a.png", conversations=SEEN))),
    Case("an image on the web", "image-url-remote", messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}, ANSWERED)),
    Case("a data URL that is not base64", "data-url-broken", record(image="data:image/png;base64,###", conversations=SEEN)),
    Case("one list of glyphs for two images", "glyphs-wrong-number", record(image=["a.png", "b.png"], glyphs=[[]], conversations=[{"from": "human", "value": "<image><image>"}, GPT])),
    Case("glyphs without their boxes", "glyphs-wrong-type", record(image="a.png", glyphs=[["a", "b"]], conversations=SEEN)),
    Case("a glyph's box with NaN in words", "glyphs-wrong-type", record(image="a.png", glyphs=[[["a", "nan", 0, 1, 1]]], conversations=SEEN)),
    Case("a glyph's box with 1e999", "glyphs-wrong-type", among_good(line({"id": "bad", "image": "a.png", "conversations": SEEN, "glyphs": [[["a", 0, 0, 9, 9]]]}).replace(b"9, 9", b"1e999, 9"))),
    # image files
    Case("an image that is not there", "image-missing", record(image="none.png", conversations=SEEN)),
    Case("a folder for an image", "image-not-a-file", record(image=".", conversations=SEEN)),
    Case("an image whose name is too long", "image-unreadable", record(image="a" * 300 + ".png", conversations=SEEN)),
    Case("an image of zero bytes", "image-empty", image(b"")),
    Case("a web page saved as an image", "image-unknown-format", image(b"<!DOCTYPE html><html><body>404</body></html>")),
    Case("a Git LFS pointer instead of the image", "image-unknown-format", image(POINTER)),
    Case("an SVG drawing", "image-unknown-format", image(b'<svg xmlns="http://www.w3.org/2000/svg"/>')),
    Case("a PNG that was cut off", "image-cut-off", cut("PNG")),
    Case("a JPEG that was cut off", "image-cut-off", cut("JPEG")),
    Case("a GIF that was cut off", "image-cut-off", cut("GIF")),
    Case("a WebP that was cut off", "image-cut-off", cut("WEBP", lossless=True)),
    Case("a BMP that was cut off", "image-cut-off", cut("BMP")),
    Case("a TIFF that was cut off", "image-cut-off", cut("TIFF")),
    Case("a PPM that was cut off", "image-cut-off", cut("PPM")),
    Case("a data URL that was cut off", "image-cut-off", record(image=data_url(encoded("PNG")[:-800]), conversations=SEEN)),
    Case("a PNG whose header is damaged", "image-damaged", image(b"\x89PNG\r\n\x1a\n" + bytes(200))),
    Case("a PNG whose pixels are damaged (--deep)", "image-damaged", image(png_with_broken_pixels()), options={"deep": True}),
    Case("a PNG of 20,000 × 20,000 pixels", "image-too-large", image(png_of_size(20_000, 20_000))),
    Case("a broken image in a Parquet file", "image-unknown-format", lambda folder: parquet(folder, [encoded("PNG"), b"no image", encoded("PNG")]), "[1]", needs="pyarrow"),
    Case("an empty image in a tar file", "image-empty", tar({**TAR_GOOD, "b.png": b"", "b.txt": b"Hi"}), ":b", 1),
    # lengths
    Case("a sample that is too long for the model", "over-long", turns(HUMAN, {"from": "gpt", "value": "word " * 100}), options={"count": number_of_words, "model_max_length": 50}),
]  # fmt: skip
