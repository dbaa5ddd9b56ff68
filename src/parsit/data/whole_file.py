"""A binary file that exists whole or not at all, written piece by piece."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

from parsit.types import ParsitError


class WholeFile:
    """A file written beside its place and renamed into it by `keep`; without `keep` nothing is left of it.

        with WholeFile(path) as draft:
            draft.file.write(…)
            draft.keep()

    `beside` is where it lies until then. `synced=False` leaves the moment of writing to the system: for many small
    files that can be made again.

    Raises:
        ParsitError: it cannot be written; from inside the `with`, any `OSError` about no other file counts as that.
    """

    def __init__(self, path: Path, synced: bool = True) -> None:
        self.path, self._synced = path, synced
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
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
        """Rename the file into its place; what was there is replaced at once."""
        self.file.flush()
        if self._synced:
            os.fsync(self.file.fileno())
        # mkstemp's 0600 would hide the file from everybody else; the umask decides, as for open().
        umask = os.umask(0)
        os.umask(umask)
        self.beside.chmod(0o666 & ~umask)
        self.beside.replace(self.path)

    def _error(self, error: OSError) -> ParsitError:
        return ParsitError(f"{self.path}: cannot be written: {error.strerror or error}; choose another place")
