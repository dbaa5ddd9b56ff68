"""One run at a time in a run's folder.

The lock is the kernel's (`flock`), not the file's existence: it ends with the process that holds it, however that
ended, so that none is ever stale. NFS takes it to the server (Linux since 2.6.12), and so it holds between hosts. Where
a file system has no locks at all, that is said and the run goes on without. Children that are forked do not keep it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parsit.types import InputError, ParsitError

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# Open files that hold a lock; what is forked closes its copies, or a worker would hold the lock of a dead run.
_held: set[int] = set()


def _forget() -> None:
    for descriptor in list(_held):
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def run_lock(output_dir: Path, say: Callable[[str], None], option: str = "--output_dir") -> Iterator[None]:
    """Hold the run's folder, which is made if need be; where nothing came into it, it is taken away again.

    Args:
        output_dir: the run's folder.
        say: told where the file system has no locks.
        option: the flag that names the folder.

    Raises:
        InputError: another run holds it.
        ParsitError: the folder cannot be written.
    """
    is_new = not output_dir.exists()
    path = output_dir / LOCK_FILE
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path, say, option)
    except OSError as error:
        reason = error.strerror or error
        raise ParsitError(f"{output_dir}: cannot be written: {reason}; name another {option}") from error
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            path.unlink()  # while it is held: whoever opened it meanwhile looks whether it is still there
        os.close(descriptor)
        if is_new:
            with suppress(OSError):
                output_dir.rmdir()


def _locked(path: Path, say: Callable[[str], None], option: str) -> int:
    """An open file that holds the lock. Raises `InputError`, `OSError`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                say(f"warning: {path.parent}: its file system has no locks: nothing keeps a second run out of it")
                return descriptor
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InputError(
                f"{path.parent}: another run is writing into it ({holder or 'it has just begun'}): wait for it or stop "
                f"it, or name another {option}"
            ) from error
        if _is_there(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # the one who held it has just taken it away


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
