"""Disks of a test's own: a forked process in a mount namespace of its own, where file systems can be mounted."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_support import forked

_NEWUSER, _NEWNS = 0x10000000, 0x00020000  # linux/sched.h
_READ_ONLY, _REMOUNT, _BIND, _PRIVATE, _RECURSIVE = 0x1, 0x20, 0x1000, 1 << 18, 0x4000  # linux/mount.h
_libc = ctypes.CDLL(None, use_errno=True)


def _require(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """The system call. Raises `OSError`."""
    words = (source.encode(), os.fsencode(target), kind.encode())
    _require(_libc.mount(*words, ctypes.c_ulong(flags), options.encode()))


def mount_memory(folder: Path, size: str) -> None:
    """A file system in memory of so many bytes (`64k`, `40M`) over a folder."""
    mount("tmpfs", folder, "tmpfs", 0, f"size={size}")


def make_read_only(folder: Path) -> None:
    """Let nothing be written into a folder any more, by root neither."""
    mount(str(folder), folder, "", _BIND)
    mount("", folder, "", _BIND | _REMOUNT | _READ_ONLY)


def make_writable(folder: Path) -> None:
    """Undo `make_read_only`."""
    _require(_libc.umount2(os.fsencode(folder), 2))  # MNT_DETACH: files may be open


def with_own_disks(work: Callable[[], object], errors: Path) -> int:
    """The exit status of a forked process that does `work` and may mount; its stderr goes into a file.

    Skips the test where the system does not let us have a namespace.
    """

    def enter() -> None:
        if os.getuid() == 0:
            _require(_libc.unshare(_NEWNS))
        else:
            user, group = os.getuid(), os.getgid()
            _require(_libc.unshare(_NEWUSER | _NEWNS))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        mount("none", Path("/"), "", _RECURSIVE | _PRIVATE)

    def inside() -> None:
        enter()
        sys.stderr = errors.open("w", buffering=1)
        work()

    if forked(enter):
        pytest.skip("no mount namespaces of our own here")
    return forked(inside)
