"""The process that opens PDFs: a script of its own, started by `parsit.parse.pdf` and never imported.

PDFium reads hostile files in C++, so it may hang, run out of memory or crash; here that ends this
process and not the caller's. Requests come in as JSON lines on stdin; each is answered by one JSON
line and as many bytes as its `size` says. Plain numbers and bytes, no pickle: a worker that a file
has taken over must not be able to run code in its parent. Only the standard library, pypdfium2 and
Pillow are imported, so a restart takes about a tenth of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

POINTS_PER_INCH = 72
MAX_LETTERS = 100_000  # of a page are looked at for letters that cannot be drawn
NO_SHAPE = 0.05  # points: PDFium's box around nothing is 0.014 high, the thinnest stroke of small print 0.2
MAX_MENDED_BYTES = 256 << 20  # larger files are not looked through for pages
PAGE_OBJECT = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
PAGE_COUNT = re.compile(rb"(/Count\s+)(\d+)")


class Worker:
    """One open PDF and the answers to requests about it: the methods that `REQUESTS` names."""

    REQUESTS: tuple[str, ...] = ("open", "render", "text", "undrawn")

    def __init__(self) -> None:
        self.pdf: pdfium.PdfDocument | None = None

    def open(self, path: str) -> tuple[dict[str, Any], bytes]:
        """Open a file; answers its number of pages."""
        self.pdf = open_pdf(path)
        self.pdf.init_forms()  # so that what was typed into form fields is drawn
        return {"pages": len(self.pdf)}, b""

    def render(self, page: int, dpi: float, max_pixels: int) -> tuple[dict[str, Any], bytes]:
        """Draw a page (from 0) as RGB bytes, at fewer dpi than asked for if it had too many pixels."""
        assert self.pdf is not None
        with contextlib.closing(self.pdf[page]) as opened:
            width, height = opened.get_size()
            if not (width > 0 and height > 0):
                return {"error": "the page has no size: its CropBox lies outside its MediaBox"}, b""
            scale = min(dpi / POINTS_PER_INCH, math.sqrt(max_pixels / (width * height)))
            scale *= 1 - 1e-9  # sizes are rounded up, and 11 inches at 150 dpi are not 1651 pixels
            while math.ceil(width * scale) * math.ceil(height * scale) > max_pixels:
                scale *= 0.99
            with contextlib.closing(self.bitmap(opened, scale)) as bitmap:
                image = bitmap.to_pil().convert("RGB")
        return {"width": image.width, "height": image.height, "dpi": scale * POINTS_PER_INCH}, image.tobytes()

    def bitmap(self, page: pdfium.PdfPage, scale: float) -> pdfium.PdfBitmap:
        """A page as it is seen on a screen, filled in and annotated."""
        return page.render(scale=scale, rev_byteorder=True)  # type: ignore[arg-type]  (any number will do)

    def text(self, page: int) -> tuple[dict[str, Any], bytes]:
        """The text layer of a page (from 0), as UTF-8."""
        assert self.pdf is not None
        with contextlib.closing(self.pdf[page]) as opened, contextlib.closing(opened.get_textpage()) as layer:
            return {}, layer.get_text_range().encode("utf-8", errors="replace")

    def undrawn(self, page: int) -> tuple[dict[str, Any], bytes]:
        """How many letters and digits of a page (from 0) have no shape, because a font is missing here and in the file.

        PDFium draws nothing for them; their boxes have no height.
        """
        assert self.pdf is not None
        with contextlib.closing(self.pdf[page]) as opened, contextlib.closing(opened.get_textpage()) as layer:
            is_foreign: dict[int, bool] = {}
            count = 0
            for index in range(min(layer.count_chars(), MAX_LETTERS)):
                drawn = pdfium_c.FPDFText_GetTextObject(layer.raw, index)
                key = ctypes.addressof(drawn.contents) if drawn else 0
                if key not in is_foreign:
                    is_foreign[key] = bool(drawn) and has_foreign_font(drawn)
                count += is_foreign[key] and has_no_shape(layer.raw, index)
            return {"count": count}, b""


def has_foreign_font(text: Any) -> bool:
    """Whether a piece of text that is to be drawn has a font that is not in the file."""
    if pdfium_c.FPDFTextObj_GetTextRenderMode(text) == pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE:
        return False
    return pdfium_c.FPDFFont_GetIsEmbedded(pdfium_c.FPDFTextObj_GetFont(text)) == 0


def has_no_shape(layer: Any, index: int) -> bool:
    """Whether a character of a text layer is a letter or a digit without a shape."""
    code = pdfium_c.FPDFText_GetUnicode(layer, index)
    if not chr(code if code < 0x110000 else 0).isalnum():
        return False
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    pdfium_c.FPDFText_GetCharBox(layer, index, *map(ctypes.byref, (left, right, bottom, top)))
    return min(right.value - left.value, top.value - bottom.value) < NO_SHAPE


def open_pdf(path: str) -> pdfium.PdfDocument:
    """A PDF with all its pages.

    PDFium believes the number of pages that the root of the page tree gives (`Count`) and loses those beyond. Where
    the file holds more page objects, the numbers are made 0, upon which PDFium counts for itself.
    """
    pdf = pdfium.PdfDocument(path)
    file = Path(path)
    if file.stat().st_size > MAX_MENDED_BYTES:
        return pdf
    data = file.read_bytes()
    if len(PAGE_OBJECT.findall(data)) <= len(pdf):
        return pdf
    mended = pdfium.PdfDocument(PAGE_COUNT.sub(lambda match: match[1] + b"0" * len(match[2]), data))
    chosen, other = (mended, pdf) if len(mended) > len(pdf) else (pdf, mended)
    other.close()
    return chosen


def answer(worker: Worker, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Do one request; what goes wrong becomes an answer with `error` and, from PDFium, its `code`."""
    name = request.pop("do")
    assert name in worker.REQUESTS
    try:
        return getattr(worker, name)(**request)
    except MemoryError:
        return {"error": "not enough memory"}, b""
    except pdfium.PdfiumError as error:
        return {"error": str(error), "code": error.err_code}, b""
    except OSError as error:
        return {"error": error.strerror or str(error)}, b""


def limit_memory(max_bytes: int) -> None:
    """Cap this process's address space, where the platform can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError) as error:  # Windows has no such module, macOS no such limit
        print(f"no memory limit: {error}", file=sys.stderr)


def private_output() -> BinaryIO:
    """The pipe to the parent, out of reach of a library that prints on stdout."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return output


def main(worker: Worker, max_memory_bytes: int) -> None:
    """Let a worker answer requests until stdin ends."""
    output = private_output()
    limit_memory(max_memory_bytes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    for line in sys.stdin.buffer:
        request = json.loads(line)
        deadline_s = math.ceil(request.pop("timeout_s")) + 5
        if hasattr(signal, "alarm"):
            signal.alarm(deadline_s)  # the default action ends a process whose parent died while it hung
        header, payload = answer(worker, request)
        output.write(json.dumps({**header, "size": len(payload)}).encode() + b"\n")
        output.write(payload)
        output.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


if __name__ == "__main__":
    main(Worker(), int(sys.argv[1]))
