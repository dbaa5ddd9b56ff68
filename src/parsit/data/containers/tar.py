r"""WebDataset's tar shards: consecutive members with one key are a record and its images.

The key is a member's path up to the first dot of its name. A `.json` member is the record, in any format; without it,
a `.txt` member is the text on the one image, and the question to it is `READ_PROMPT`: such shards hold captions or
transcripts alone. A record calls an image by the member's name, by its name without folders, or by its ending (`jpg`,
`0.png`); a record that names no image has all of its members' images, in their order. Images stay where they are
(`FileSlice`). Layout: "The WebDataset Format" by T. Breuel; keys are cut as the webdataset package cuts them.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parsit.data.containers import RecordSpan, RecordWithFiles
from parsit.data.containers.text import COMPRESSED, MAX_RECORD_BYTES, decode, refuse_other_encoding
from parsit.data.faults import DataFault
from parsit.types import FileSlice

READ_PROMPT = "Read this page."
_IMAGE_ENDINGS = "png jpg jpeg jpe jfif mpo tif tiff webp bmp gif ppm pgm pbm pnm"
IMAGE_ENDINGS = frozenset(_IMAGE_ENDINGS.split())

# As webdataset cuts names: folders and the name up to its first dot, then the rest.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")
_BLOCK = tarfile.BLOCKSIZE
# What may follow an archive's end: zeros up to a multiple of tar's record size, or a little more.
_PADDING_LOOKED_AT = 2**20


class TarContainer:
    """`.tar` shards, uncompressed: a place in a compressed one could not be read alone."""

    def scan(self, path: Path) -> Iterator[RecordSpan]:
        """Where each record's members lie."""
        number, key, start, end = 0, None, 0, 0
        for member, next_header in _members(path, 0, None):
            found = _split(member)
            if found is None:
                continue
            if key is not None and found[0] != key:
                yield RecordSpan(number, start, end - start)
                number += 1
            if found[0] != key:
                key, start = found[0], member.offset
            end = next_header
        if key is not None:
            yield RecordSpan(number, start, end - start)

    def read(self, path: Path, span: RecordSpan) -> Any:
        """The `.json` member's value, or the conversation that a `.txt` member stands for, with its images' slices."""
        members: dict[str, FileSlice] = {}
        names: dict[str, str] = {}
        for member, _ in _members(path, span.offset, span.offset + span.size):
            if (found := _split(member)) is not None:
                ending = found[1].lower()
                if ending in members:
                    raise DataFault("tar-broken", f"two members of a record end in .{ending}")
                members[ending] = FileSlice(path, member.offset_data, member.size)
                names[ending] = member.name
        images = [ending for ending in members if ending.rpartition(".")[2] in IMAGE_ENDINGS]
        others = tuple(f".{ending}" for ending in members if ending not in (*images, "json", "txt"))
        if "json" in members:
            value = decode(_bytes(members["json"]))
        elif "txt" in members and not images:
            raise DataFault("tar-no-image", f"no image of the same name beside {names['txt'][:100]}")
        elif "txt" in members:
            value = _caption(_bytes(members["txt"]))
        else:
            listed = ", ".join(names.values())
            raise DataFault("tar-no-record", f"neither a .json nor a .txt member beside {listed[:100]}")
        if not isinstance(value, dict):
            return value
        if images and not _names_images(value):
            value["image" if value.get("messages") is None else "images"] = [names[ending] for ending in images]
        return RecordWithFiles(value, {n: members[e] for e in images for n in _called(names[e], e)}, others)

    def place(self, path: Path, span: RecordSpan) -> str:
        """`file.tar:key`."""
        try:
            member, _ = next(_members(path, span.offset, span.offset + span.size))
        except (DataFault, StopIteration):
            return f"{path}[{span.number}]"
        found = _split(member)
        return f"{path}:{found[0]}" if found else f"{path}[{span.number}]"


def _split(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """A member's key and ending; None for what belongs to no record: folders, links, meta files and hidden ones.

    Hidden are .DS_Store and the ._a.png that tar on a Mac puts before each a.png, which is no image.
    """
    if not member.isreg() or _META.match(member.name) or member.name.rpartition("/")[2].startswith("."):
        return None
    match = _NAME.fullmatch(member.name)
    return (match.group(1), match.group(2)) if match else None


def _called(name: str, ending: str) -> tuple[str, ...]:
    """What a record may call an image."""
    return name, name.rpartition("/")[2], ending, f".{ending}"


def _names_images(record: dict[str, Any]) -> bool:
    """Whether the record says itself which images it has."""
    if record.get("image") not in (None, []) or record.get("images") not in (None, []):
        return True
    messages = record.get("messages")
    return isinstance(messages, list) and any(
        isinstance(part, dict) and part.get("type") not in ("text", "image")
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
    )


def _caption(data: bytes) -> dict[str, Any]:
    refuse_other_encoding(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFault("encoding-broken", f"byte {error.start} of the .txt member is not UTF-8") from error
    question = {"from": "human", "value": f"<image>\n{READ_PROMPT}"}
    return {"conversations": [question, {"from": "gpt", "value": text}]}


def _bytes(member: FileSlice) -> bytes:
    if member.size > MAX_RECORD_BYTES:
        raise DataFault("record-too-large", f"a record of {member.size:,} bytes")
    try:
        data = member.read()
    except OSError as error:
        raise DataFault("file-unreadable", f"{member.path} cannot be read: {error.strerror}") from error
    if len(data) != member.size:
        raise DataFault("changed-since-indexed", f"{member.path} ends before byte {member.offset + member.size}")
    return data


def _members(path: Path, start: int, end: int | None) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The members between two places, each with the place of the next header; without `end`, to the archive's end.

    Raises:
        DataFault: no tar file, or one that is cut off or broken.
    """
    with _opened(path, start) as archive:
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, ValueError) as error:
                raise DataFault("tar-broken", f"cut off or damaged: {error}", str(path)) from error
            if member is None:
                break
            # tarfile remembers every member, and a shard has millions; webdataset forgets them in the same way.
            archive.members.clear()  # type: ignore[attr-defined]
            next_header: int = archive.offset  # type: ignore[attr-defined]
            yield member, next_header
            if end is not None and next_header >= end:
                return
        if end is None:
            _check_end(path, archive.offset)  # type: ignore[attr-defined]


@contextmanager
def _opened(path: Path, start: int) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as file:
            if start == 0 and file.read(6).startswith(COMPRESSED):
                raise DataFault("file-compressed", "a compressed tar file cannot be read by place", str(path))
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                yield archive
    except (tarfile.TarError, ValueError) as error:
        raise DataFault("tar-broken", f"not a tar file: {error}", str(path)) from error
    except OSError as error:
        raise DataFault("file-unreadable", f"cannot be opened: {error.strerror}", str(path)) from error


def _check_end(path: Path, offset: int) -> None:
    """That the archive ends where it says so: tarfile takes a damaged header in its middle for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        mark = file.read(_BLOCK)
        rest = file.read(_PADDING_LOOKED_AT)
    if len(mark) < _BLOCK:
        raise DataFault("tar-broken", "cut off: the file has no end mark", str(path))
    if mark.strip(b"\0"):
        raise DataFault("tar-broken", f"no header at byte {offset}; nothing after it can be read", str(path))
    if rest.strip(b"\0"):
        raise DataFault("tar-broken", "something stands behind the end mark; unpack joined tar files", str(path))
