"""Processes that end at a chosen file operation: forked, so that each costs milliseconds.

What counts as one is every call of the system's functions for files, of a file's own methods, and of the libraries that
write by themselves (safetensors, tokenizers). A process ends before the operation or right after it. Writes into one
file that follow each other count once, before the first of them: JSON goes out in hundreds of pieces.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import BuiltinFunctionType, FrameType

_OF_SYSTEM = {"open", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove", "chmod", "sendfile", "link"}
_OF_FILES = {"write", "flush", "close", "truncate"}
_OF_LIBRARIES = {"serialize_file", "save"}


def _is_operation(function: BuiltinFunctionType) -> bool:
    name, owner = function.__name__, getattr(function, "__self__", None)
    if name in _OF_SYSTEM:
        return getattr(function, "__module__", None) in ("posix", "io", "_io")
    return name in _OF_LIBRARIES or (name in _OF_FILES and isinstance(owner, io.IOBase))


def on_operations(work: Callable[[], object], happens: Callable[[str], None]) -> None:
    """Do `work`; `happens` is called before and after each of its file operations, in its threads as well."""

    written = None

    def look(frame: FrameType, event: str, function: BuiltinFunctionType) -> None:
        nonlocal written
        if event not in ("c_call", "c_return", "c_exception"):
            return
        if function.__name__ == "write" and isinstance(function.__self__, io.IOBase):
            if function.__self__ is written:
                return
            written = function.__self__
        elif _is_operation(function):
            written = None
        if _is_operation(function):
            sys.setprofile(None)
            happens(f"{'before' if event == 'c_call' else 'after'} {function.__name__}")
            sys.setprofile(look)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def forked(work: Callable[[], object]) -> int:
    """The exit status of a process that does `work`: 0, 1 where it raised, or the negative number of a signal."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:  # whatever happens, such as a stderr that is closed: the tests are not gone on with here
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def operations_of(work: Callable[[], object]) -> list[str]:
    """What happens in `work`, which a process of its own does."""
    reader, writer = os.pipe()

    def tell() -> None:
        seen: list[str] = []
        on_operations(work, seen.append)
        os.write(writer, "\n".join(seen).encode())

    assert forked(tell) == 0
    os.close(writer)
    with os.fdopen(reader) as told:
        return told.read().splitlines()


def killed_at(number: int, work: Callable[[], object]) -> None:
    """Do `work` in a process that is killed (SIGKILL) where its file operation happens, counted from 0."""
    left = number

    def count(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(lambda: on_operations(work, count)) == -signal.SIGKILL
