"""JSONL and JSON files, in bounded memory, each record found again by its bytes.

A JSON list is walked by its brackets in a window of the file. ijson streams as well, but does not say where an element
lies, and stops at the first broken one. NaN and Infinity, which Python's decoder would take, are refused: no other
reader takes them.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from parsit.data.containers import RecordSpan
from parsit.data.faults import DataFault

MAX_RECORD_BYTES = 256 * 2**20
_WINDOW_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
# The first bytes of gzip, bzip2, xz and zstd.
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different; Python's decoder would keep the last value and drop the others."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"the key {twice[:60]!r} is given twice in one object")
    return made


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)


def decode(data: bytes) -> Any:
    """One JSON value; a byte-order mark before it is passed over.

    Raises:
        DataFault: `encoding-broken` or `json-broken`.
    """
    refuse_other_encoding(data)
    try:
        text = data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataFault("encoding-broken", f"byte {error.start} is not UTF-8") from error
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise DataFault("json-broken", "nested too deeply") from error
    except ValueError as error:
        raise DataFault("json-broken", f"not valid JSON: {' '.join(str(error).split())}") from error


def refuse_other_encoding(head: bytes) -> None:
    """Refuse text in UTF-16 or UTF-32, by its byte-order mark or the zeros that each letter of ASCII has there.

    Args:
        head: the first bytes, four at least where there are so many.

    Raises:
        DataFault: `encoding-broken`, with the name of the encoding, without a place.
    """
    if b"\0" not in head[:2] and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    wide = head.startswith((b"\xff\xfe\0\0", b"\0\0")) or head[1:4] == b"\0\0\0"
    raise DataFault("encoding-broken", f"the text is {'UTF-32' if wide else 'UTF-16'}, not UTF-8")


@lru_cache(maxsize=64)
def _descriptor(path: str, inode: int, process: int) -> io.FileIO:
    """An open file; the keys make a forked process, or a file that was replaced, open it again."""
    return open(path, "rb", buffering=0)  # noqa: PTH123


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    """Some bytes of a file, at any place, without a shared position.

    Raises:
        DataFault: the file is gone or shorter than it was.
    """
    try:
        # os.stat and a string as the key, as Path's own are slower, and this is done a million times.
        name = str(path)
        file = _descriptor(name, os.stat(name).st_ino, os.getpid())  # noqa: PTH116
        data = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise DataFault("file-unreadable", f"{path} cannot be read: {error.strerror}") from error
    if len(data) != size:
        raise DataFault("changed-since-indexed", f"{path} ends before byte {offset + size}")
    return data


class _TextContainer:
    def read(self, path: Path, span: RecordSpan) -> Any:
        """One record's value. Raises `DataFault`."""
        if span.size > MAX_RECORD_BYTES:
            raise DataFault("record-too-large", f"a record of {span.size:,} bytes")
        return decode(read_bytes(path, span.offset, span.size))


class JsonlContainer(_TextContainer):
    """One record a line; empty lines are passed over."""

    def scan(self, path: Path) -> Iterator[RecordSpan]:
        """Where the lines lie."""
        with _open(path) as file:
            offset = 0
            number = 0
            # A line that is longer than any record may be comes in pieces, of which only the size is kept.
            while line := file.readline(_WINDOW_BYTES):
                number += 1
                start = offset + (len(_BOM) if number == 1 and line.startswith(_BOM) else 0)
                offset += len(line)
                blank = line.isspace()
                while not line.endswith(b"\n") and (line := file.readline(_WINDOW_BYTES)):
                    offset += len(line)
                    blank = blank and line.isspace()
                if not blank and offset > start:
                    yield RecordSpan(number, start, offset - start)

    def place(self, path: Path, span: RecordSpan) -> str:
        """`file.jsonl:line`."""
        return f"{path}:{span.number}"


class JsonContainer(_TextContainer):
    """A list of records in one JSON value."""

    def scan(self, path: Path) -> Iterator[RecordSpan]:
        """Where the list's elements lie."""
        with _open(path) as file:
            yield from _Elements(path, file)

    def place(self, path: Path, span: RecordSpan) -> str:
        """`file.json[index]`."""
        return f"{path}[{span.number}]"


# A string, an unfinished string, a bracket. Possessive, so that a long string costs linear time.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|"|[\[\]{}]', re.DOTALL)
_SCALAR = re.compile(rb"[^ \t\r\n,\]\[{}\"]+")
_SPACE = re.compile(rb"[ \t\r\n]*")


class _Elements:
    """Walks over the elements of a JSON list by its brackets, so that one broken record does not hide the next.

    `window[at:]` is what has been read and not yet passed; the window moves on only when more is read.
    """

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self.path, self.file = path, file
        self.window = file.read(_WINDOW_BYTES)
        self.window_offset = 0
        self.at = len(_BOM) if self.window.startswith(_BOM) else 0

    def __iter__(self) -> Iterator[RecordSpan]:
        if self._next_byte() != b"[":
            raise self._fault("json-not-a-list", "a JSON file must hold a list of records")
        self.at += 1
        number = 0
        while (byte := self._next_byte()) != b"]" or number:
            if number:
                if byte == b"]":
                    break
                if byte != b",":
                    raise self._broken(number, "a comma or ] is missing before it")
                self.at += 1
                byte = self._next_byte()
            if byte in (b"", b"]", b",", b"}"):
                raise self._broken(number, "it is missing")
            size = self._element_size(number)
            yield RecordSpan(number, self.window_offset + self.at, size)
            self.at += size
            number += 1
        self.at += 1
        if self._next_byte():
            raise self._broken(number, "something stands behind the end of the list")

    def _read_more(self) -> bool:
        """Enlarge the window, at least to twice what is left of it, so that a large element costs linear time."""
        left = len(self.window) - self.at
        piece = self.file.read(max(_WINDOW_BYTES, left))
        self.window = self.window[self.at :] + piece
        self.window_offset += self.at
        self.at = 0
        return bool(piece)

    def _next_byte(self) -> bytes:
        """The next byte that is not white space, without passing it; empty at the end of the file."""
        while True:
            self.at = _SPACE.match(self.window, self.at).end()  # type: ignore[union-attr]  (matches anywhere)
            if self.at < len(self.window) or not self._read_more():
                return self.window[self.at : self.at + 1]

    def _element_size(self, number: int) -> int:
        while not (size := self._complete_size()):
            if len(self.window) - self.at > MAX_RECORD_BYTES:
                raise self._fault("record-too-large", f"record {number} is larger than {MAX_RECORD_BYTES:,} bytes")
            if not self._read_more():
                raise self._fault("json-cut-off", f"record {number} has no end; nothing after it can be read")
        return size

    def _complete_size(self) -> int:
        """The size of the element at `at`; 0: it is not whole in the window."""
        if self.window[self.at : self.at + 1] not in (b"[", b"{", b'"'):
            end = _SCALAR.match(self.window, self.at).end()  # type: ignore[union-attr]  (the byte was looked at)
            return end - self.at if end < len(self.window) else 0
        depth = 0
        for token in _TOKEN.finditer(self.window, self.at):
            text = token.group()
            if text in (b"{", b"["):
                depth += 1
            elif text in (b"}", b"]"):
                depth -= 1
            elif text == b'"':
                return 0
            if depth == 0:
                return token.end() - self.at
        return 0

    def _broken(self, number: int, detail: str) -> DataFault:
        code = "json-broken" if self.window[self.at :] else "json-cut-off"
        return self._fault(code, f"record {number}: {detail}; nothing after it can be read")

    def _fault(self, code: str, detail: str) -> DataFault:
        return DataFault(code, detail, f"{self.path} at byte {self.window_offset + self.at}")


def _open(path: Path) -> io.BufferedReader:
    """Open a text file whose first bytes are looked at.

    Raises:
        DataFault: it cannot be opened, is compressed, or is in UTF-16.
    """
    try:
        file = path.open("rb")
        head = file.read(8)
        file.seek(0)
    except OSError as error:
        raise DataFault("file-unreadable", f"cannot be opened: {error.strerror}", str(path)) from error
    try:
        if head.startswith(COMPRESSED):
            raise DataFault("file-compressed", "a compressed data file cannot be read by place", str(path))
        refuse_other_encoding(head)
    except DataFault as fault:
        file.close()
        raise fault.at(str(path)) from None
    return file
