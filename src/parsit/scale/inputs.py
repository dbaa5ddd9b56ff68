"""What a pile is made of: folders, globs, lists of names and tar archives become single files, each with a name.

A tar's members are read where they lie; each is copied out only while its pages are drawn. Names are those that were
typed, and what lies below: they say where a result goes. Given up: compressed archives, whose members have no place.
"""

from __future__ import annotations

import glob
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from parsit.data.containers.tar import IMAGE_ENDINGS
from parsit.types import InputError

# What is looked for in folders and archives; a file that is named, or matches a glob, is taken whatever it is called.
PAGE_SUFFIXES = frozenset(f".{ending}" for ending in ("pdf", *IMAGE_ENDINGS))
MEMBER_MARK = "::"  # between an archive and its member, as olmOCR writes it
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be read, or a member of a tar: `size` bytes from `offset` on. `name` says which, and is unique."""

    name: str
    path: str
    offset: int = 0
    size: int | None = None

    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal. Raises `OSError`."""
        with Path(self.path).open("rb") as file:
            if self.size is None:
                return hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(self.offset)
            return hashlib.sha256(file.read(self.size)).hexdigest()

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """A file of its own with the content; of a member, one that is gone at the end. Raises `OSError`."""
        if self.size is None:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="parsit-") as folder, Path(self.path).open("rb") as archive:
            copy = Path(folder) / "member"
            archive.seek(self.offset)
            with copy.open("wb") as out:
                left = self.size
                while left and (part := archive.read(min(left, _CHUNK))):
                    out.write(part)
                    left -= len(part)
            yield copy


def is_pile(words: Sequence[str]) -> bool:
    """Whether any of the words names more than one file: a folder, a glob, `@LIST` or a tar."""
    return any(_kind(word) != "file" for word in words)


def sources_of(words: Sequence[str]) -> list[Source]:
    """The files that words name, in their order, folders by name; what is named twice is one.

    Args:
        words: files, folders (with all below), globs (`**` goes into folders), tar archives, and `@LIST`: a file that
            names one of these a line.

    Raises:
        InputError: a word that names nothing, or a list or archive that cannot be read.
    """
    found = {source.name: source for word in words for source in _sources(word)}
    if not found:
        raise InputError(f"{', '.join(words)}: no PDF or image there")
    return list(found.values())


def _kind(word: str) -> str:
    if word.startswith("@") and not os.path.lexists(word):
        return "list"
    if Path(word).is_dir():
        return "folder"
    if not os.path.lexists(word) and glob.has_magic(word):
        return "glob"
    return "tar" if _is_tar(Path(word)) else "file"


def _is_tar(path: Path) -> bool:
    """Whether a file is called a tar; one that is called so and is none is refused when it is opened."""
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst"))


def _sources(word: str) -> Iterator[Source]:
    kind = _kind(word)
    if kind == "list":
        yield from _of_list(Path(word[1:]))
    elif kind == "folder":
        yield from _of_folder(Path(word))
    elif kind == "glob":
        yield from _of_glob(word)
    elif kind == "tar":
        yield from _of_tar(Path(word))
    else:
        yield Source(word, word)


def _of_list(path: Path) -> Iterator[Source]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"@{path}: the list cannot be read: {error.strerror}") from error
    for line in lines:
        if line.strip() and not line.startswith("@"):
            yield from _sources(line)
        elif line.startswith("@"):
            raise InputError(f"@{path}: {line} is a list inside a list; name it on the command line")


def _of_folder(folder: Path) -> Iterator[Source]:
    """All pages' files below a folder by name, hidden ones left out, and members of tars that lie there."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place) / name
            if path.suffix.lower() in PAGE_SUFFIXES:
                yield Source(str(path), str(path))
            elif _is_tar(path):
                yield from _of_tar(path)


def _of_glob(pattern: str) -> Iterator[Source]:
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (absolute patterns, too)
    if not names:
        raise InputError(f"{pattern}: no file matches")
    for name in names:
        if Path(name).is_dir():
            continue
        yield from _sources(name)


def _of_tar(path: Path) -> Iterator[Source]:
    """The members that are called like pages, each where it lies."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps all of them, and an archive has millions
                is_hidden = any(part.startswith(".") for part in Path(member.name).parts)
                if member.isreg() and not is_hidden and Path(member.name).suffix.lower() in PAGE_SUFFIXES:
                    yield Source(f"{path}{MEMBER_MARK}{member.name}", str(path), member.offset_data, member.size)
    except (tarfile.TarError, ValueError) as error:
        raise InputError(f"{path}: no tar archive that can be read in place ({error}); unpack it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
