"""A PDF seen through a process that can be killed: page count, pages as images, text layer.

Every request has a time limit, and the worker has a memory limit. A worker that crashes or runs
over its time costs the page that it was working on; the next request starts a fresh one. The price
is a copy of each page's pixels through a pipe, some milliseconds a page.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from parsit.types import InputError

WORKER_SCRIPT = Path(__file__).with_name("worker.py")
MAX_HEADER_BYTES = 10_000

# FPDF_ERR_ in PDFium's fpdfview.h. A file that is well-formed and has no pages is not opened, and no error is set.
NO_ERROR, FORMAT_ERROR, PASSWORD_ERROR = 0, 3, 4


class WorkerError(Exception):
    """A request failed: the worker says why, crashed, or was stopped. `code` is PDFium's, if it gave one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class PdfFile:
    """An open PDF. Use it as a context manager, or call `close`; pages count from 1.

    Args:
        path: The file.
        timeout_s: Seconds that one request (opening, one page, one text layer) may take.
        max_memory_bytes: Address space of the worker, where the platform can limit it.

    Raises:
        InputError: The file is encrypted, is no PDF that can be read, or has no pages.
    """

    worker_script = WORKER_SCRIPT

    def __init__(self, path: Path, *, timeout_s: float, max_memory_bytes: int) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.max_memory_bytes = max_memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.page_count = self._start()
        except WorkerError as error:
            raise self._cannot_open(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the worker. A later request would start another one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # bytes of a request that the dead worker never read
                pipe.close()

    def render(self, number: int, *, dpi: float, max_pixels: int) -> tuple[Image.Image, float]:
        """Page `number` as an RGB image, and the dpi it has: fewer than asked for if it had too many pixels.

        Raises:
            WorkerError: The page cannot be drawn, took too long, or ended the worker.
        """
        return self._drawn("render", number, dpi, max_pixels)

    def _drawn(self, request: str, number: int, dpi: float, max_pixels: int) -> tuple[Image.Image, float]:
        """The picture and the dpi that the worker answers to a request for one."""
        header, pixels = self._ask(do=request, page=number - 1, dpi=dpi, max_pixels=max_pixels)
        width, height = int(header["width"]), int(header["height"])
        if len(pixels) != width * height * 3 or width * height > max_pixels:
            self.close()
            raise WorkerError("the PDF renderer gave a broken answer")
        return Image.frombytes("RGB", (width, height), pixels), float(header["dpi"])

    def undrawn(self, number: int) -> int:
        """How many letters of page `number` were not drawn because their font is neither in the file nor here.

        Raises:
            WorkerError: As `render`.
        """
        header, _ = self._ask(do="undrawn", page=number - 1)
        return int(header["count"])

    def text(self, number: int) -> str:
        """The text layer of page `number` in PDFium's reading order; empty where there is none.

        Lines end with a newline. A hyphen at the end of a line, for which PDFium writes U+0002 or
        U+FFFE and drops the line's end, becomes a hyphen and a newline again.

        Raises:
            WorkerError: As `render`.
        """
        _, text = self._ask(do="text", page=number - 1)
        lines = text.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        return lines.replace("\x02", "-\n").replace("\ufffe", "-\n")

    def _start(self) -> int:
        """Start a worker, open the file in it, and return the number of pages."""
        self._process = subprocess.Popen(
            # -P: the script's folder holds modules of Parsit that must not hide others of their name.
            [sys.executable, "-P", str(self.worker_script), str(self.max_memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # read when the worker is gone; it writes no more there than its last words
        )
        try:
            header, _ = self._ask(do="open", path=str(self.path.absolute()))
        except WorkerError:
            self.close()
            raise
        return int(header["pages"])

    def _ask(self, **request: Any) -> tuple[dict[str, Any], bytes]:
        """Send one request and return the header and the bytes of its answer."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        timed_out = threading.Event()
        timer = threading.Timer(self.timeout_s, lambda: (timed_out.set(), process.kill()))
        timer.start()
        try:
            header, payload = _exchange(process, {**request, "timeout_s": self.timeout_s})
        except (OSError, EOFError) as error:
            raise WorkerError(self._why_it_ended(timed_out.is_set())) from error
        finally:
            timer.cancel()
        if "error" in header:
            raise WorkerError(str(header["error"]), header.get("code"))
        return header, payload

    def _why_it_ended(self, timed_out: bool) -> str:
        """One line on a worker that is gone; cleans up after it."""
        process = self._process
        assert process is not None
        assert process.stderr is not None
        process.kill()
        code = process.wait()
        last_line = (process.stderr.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        self.close()
        if timed_out:
            return f"the PDF renderer took longer than {self.timeout_s:g} s"
        if code < 0:
            return f"the PDF renderer crashed ({signal.Signals(-code).name})"
        return f"the PDF renderer ended with code {code}: {last_line}"

    def _cannot_open(self, error: WorkerError) -> InputError:
        if error.code == PASSWORD_ERROR:
            return InputError(f"{self.path} is encrypted; save a copy without a password and read that")
        if error.code == NO_ERROR:
            return InputError(f"{self.path} is a PDF without pages")
        if error.code == FORMAT_ERROR:
            return InputError(f"{self.path} is a damaged PDF: it is cut off or not well-formed")
        return InputError(f"{self.path} cannot be opened as a PDF: {error}")


def _exchange(process: subprocess.Popen[bytes], request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """One request to a worker and its answer. Raises OSError or EOFError when the worker is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline(MAX_HEADER_BYTES)
    try:
        header = json.loads(line)
        size = int(header["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise EOFError("no answer") from error
    payload = process.stdout.read(size)
    if len(payload) != size:
        raise EOFError("half an answer")
    return header, payload
