"""Files that exist whole or not at all: written beside, synced, renamed into place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from parsit.types import ParsitError


def write_whole(path: Path, text: str) -> Path:
    r"""Write `text` as UTF-8 to `path` and return it; folders are made, an older file is replaced at once.

    A lone surrogate, which UTF-8 cannot hold, is written as its escape, such as `\udc80`: in JSON that
    means the same character. Raises `ParsitError` if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        beside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
            # mkstemp's 0600 would hide a report from everybody else; the umask decides, as for open().
            umask = os.umask(0)
            os.umask(umask)
            beside.chmod(0o666 & ~umask)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ParsitError(f"{path}: cannot be written: {error.strerror or error}; choose another place") from error
    return path
