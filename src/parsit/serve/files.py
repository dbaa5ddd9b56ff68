"""Uploaded files, kept in memory for a while, and the pages that a request's images and PDFs have."""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from parsit.parse.pages import PageFile
from parsit.serve.errors import ServeError
from parsit.serve.limits import ServeLimits
from parsit.types import InputError


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that was uploaded."""

    id: str
    name: str
    data: bytes
    created: int
    expires: float


class FileStore:
    """Uploaded files. Only the event loop's thread calls it.

    Args:
        limits: how much is kept, and how long.
    """

    def __init__(self, limits: ServeLimits) -> None:
        self._limits = limits
        self._files: dict[str, StoredFile] = {}

    def add(self, name: str, data: bytes) -> StoredFile:
        """Keep a file. Raises `ServeError` where there is no room."""
        self._forget()
        if sum(len(file.data) for file in self._files.values()) + len(data) > self._limits.max_kept_bytes:
            raise ServeError(429, "no room for another file: delete one, or come again later", retry_after=60)
        expires = time.monotonic() + self._limits.kept_seconds
        file = StoredFile(f"file-{secrets.token_hex(12)}", name, data, int(time.time()), expires)
        self._files[file.id] = file
        return file

    def get(self, id: str) -> StoredFile:
        """A file by its id. Raises `ServeError` where there is none."""
        self._forget()
        if id not in self._files:
            raise ServeError(404, f"there is no file {id[:60]!r}: it was never uploaded, or its time is over")
        return self._files[id]

    def delete(self, id: str) -> None:
        """Forget a file. Raises as `get`."""
        file = self.get(id)
        del self._files[file.id]

    def _forget(self) -> None:
        now = time.monotonic()
        self._files = {id: file for id, file in self._files.items() if file.expires > now}


class TemporaryFile:
    """Bytes as a file on disk for as long as a `with` lasts, and messages about it under its own name.

    Args:
        name: what whoever sent it calls it.
        data: its bytes.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = clean_name(name)
        self._data = data

    def __enter__(self) -> TemporaryFile:
        self._folder = tempfile.TemporaryDirectory(prefix="parsit-")
        self.path = Path(self._folder.name) / "file"
        self.path.write_bytes(self._data)
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def renamed(self, text: str) -> str:
        """A message with the file's own name in the place of its path here."""
        return text.replace(str(self.path), self.name)


def clean_name(name: str | None) -> str:
    """A file's name without folders and control characters, and not too long."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[-120:] or "file"


def pages_of(name: str, data: bytes, limits: ServeLimits) -> list[Image.Image]:
    """The pages of a PDF or an image, drawn.

    Raises:
        InputError: it is neither, is damaged, or is larger than the limits allow.
    """
    with TemporaryFile(name, data) as file:
        try:
            with PageFile(file.path, limits=limits.reading) as pages:
                if pages.page_count > limits.max_images:
                    raise InputError(
                        f"{file.name} has {pages.page_count} pages; a conversation shows at most {limits.max_images}"
                    )
                return [pages.page(number).image for number in pages.numbers()]
        except InputError as error:
            raise InputError(file.renamed(str(error))) from error
