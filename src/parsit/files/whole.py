"""Files and folders that exist whole or not at all: written beside their place, synced, renamed into it."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from parsit.files.outputs import is_stream, open_stream
from parsit.types import ParsitError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def write_whole(path: Path, content: str | bytes) -> Path:
    r"""Write `content`, text as UTF-8, to `path` and return it; folders are made, an older file is replaced at once.

    A lone surrogate, which UTF-8 cannot hold, is written as its escape, such as `\udc80`: in JSON that means the same
    character. Raises `ParsitError` if the file cannot be written.
    """
    with WholeFile(path) as draft:
        draft.file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        draft.keep()
    return path


class WholeFile:
    """A binary file written beside its place and renamed into it by `keep`; without `keep` nothing is left of it.

        with WholeFile(path) as draft:
            draft.file.write(…)
            draft.keep()

    A symbolic link is followed: the file that it leads to is replaced, and the link stays. A pipe, a device or an open
    file such as /dev/stdout is not replaced: `keep` writes the bytes into it. `beside` is where the file lies until
    then. `synced=False` leaves the moment of writing to the system: for many small files that can be made again.

    Raises:
        ParsitError: it cannot be written; from inside the `with`, any `OSError` about no other file counts as that.
    """

    def __init__(self, path: Path, synced: bool = True) -> None:
        self.path, self._synced = path, synced
        try:
            self._stream = is_stream(path)
            self._place = Path(os.path.realpath(path))
            folder = None if self._stream else self._place.parent
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{self._place.name[:100]}.", dir=folder)
        except (OSError, ValueError) as error:
            raise self._error(error) from error
        self.beside = Path(name)
        self.file = os.fdopen(descriptor, "wb", buffering=2**20)

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.file.close()
        except OSError:
            # The buffer of a file that is given up; what went wrong was told already.
            if error is None:
                raise
        finally:
            self.beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise self._error(error) from error

    def keep(self) -> None:
        """Put the file into its place; what was there is replaced at once."""
        try:
            self.file.flush()
            if self._stream:
                with self.beside.open("rb") as written, open_stream(self.path) as stream:
                    shutil.copyfileobj(written, stream)
                return
            if self._synced:
                os.fsync(self.file.fileno())
            # mkstemp's 0600 would hide the file from everybody else; the umask decides, as for open().
            self.beside.chmod(0o666 & ~_umask())
            self.beside.replace(self._place)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError | ValueError) -> ParsitError:
        reason = getattr(error, "strerror", None) or error
        return ParsitError(f"{self.path}: cannot be written: {reason}; choose another place")


@contextmanager
def whole_folder(out: Path, *, synced: bool = True, replaces: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end of the `with`, or leaves nothing behind.

    Args:
        out: its place.
        synced: force every file onto the disk before it is put there.
        replaces: a folder that is there already gives way to it; else that is an error.

    Raises:
        OSError: it cannot be written, or `out` is there and not empty.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        draft.chmod(0o777 & ~_umask())
        yield draft
        if synced:
            sync_tree(draft)
        put_folder(draft, out, replaces)
        if synced:
            sync(out.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put_folder(draft: Path, out: Path, replaces: bool = False) -> None:
    """Rename a finished folder to its place beside it; with `replaces`, what was there is deleted afterwards.

    Linux exchanges the two at once, so that at no time there is none. Where the file system cannot, the old folder is
    renamed first, and comes back if the new one cannot be put there.

    Raises:
        OSError: it cannot be renamed, or `out` is there, not empty, and not to be replaced.
    """
    if not replaces or not out.is_dir():
        draft.rename(out)
        return
    if not _exchanged(draft, out):
        old = draft.with_name(f"{draft.name}.old")
        out.rename(old)
        try:
            draft.rename(out)
        except OSError:
            old.rename(out)
            raise
        draft = old
    shutil.rmtree(draft)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders could be exchanged in one step."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    return exchange(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def sync_tree(folder: Path) -> None:
    """Force every file and folder below `folder`, and itself, onto the disk; files are readable as the umask has it.

    safetensors writes its files for the own account alone (0600), beside others that everybody may read.

    Raises:
        OSError: a file cannot be read or changed.
    """
    mode = 0o666 & ~_umask()
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() and path.stat().st_mode & mode != mode:
            path.chmod(path.stat().st_mode | mode)
        sync(path)


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, onto the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
