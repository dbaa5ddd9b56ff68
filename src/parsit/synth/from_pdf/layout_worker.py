"""The process that reads where the characters of PDF pages are: a script, started by `parsit.synth.from_pdf.pdf`.

It is `parsit.parse.worker` with two requests more, `layout` and `background`, and for the same reasons a process of
its own: what PDFium reads is hostile. Numbers go back as 32-bit floats. Pages are drawn without form fields and
annotations, whose text is not in the layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from array import array
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from parsit.parse import worker as base

# code point, flags, tight box and loose box (left, bottom, right, top), origin (x, y), angle; see `pdf`
NUMBERS_PER_CHAR = 13
GENERATED, HYPHEN, UNMAPPED = 1, 2, 4
MAX_CHARS = 100_000
GRID = 32  # cells a side, for how much of the page images cover
MAX_FORM_DEPTH = 5
MAX_TEXT_DEPTH = 30  # forms in forms; PDFium itself follows them no further
UNIT = 1_000_000  # whole numbers are all that PDFium maps points to: the page is this large for it


class LayoutWorker(base.Worker):
    """One open PDF and the answers to requests about it."""

    REQUESTS = (*base.Worker.REQUESTS, "layout", "background")
    without_text = False

    def open(self, path: str) -> tuple[dict[str, Any], bytes]:
        """Open a file; answers its number of pages."""
        self.pdf = base.open_pdf(path)
        return {"pages": len(self.pdf)}, b""

    def bitmap(self, page: pdfium.PdfPage, scale: float) -> pdfium.PdfBitmap:
        """A page as it was written, or what is left of it without its text."""
        if self.without_text:
            for text in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT], max_depth=MAX_TEXT_DEPTH):
                pdfium_c.FPDFTextObj_SetTextRenderMode(text.raw, pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE)
        return page.render(scale=scale, rev_byteorder=True, draw_annots=False)  # type: ignore[arg-type]

    def background(self, page: int, dpi: float, max_pixels: int) -> tuple[dict[str, Any], bytes]:
        """As `render`, without the page's text: where the two differ, text can be seen."""
        self.without_text = True
        try:
            return self.render(page, dpi, max_pixels)
        finally:
            self.without_text = False

    def layout(self, page: int) -> tuple[dict[str, Any], bytes]:
        """The characters of a page (from 0) in drawing order, and how pages map to pictures."""
        assert self.pdf is not None
        with contextlib.closing(self.pdf[page]) as opened, contextlib.closing(opened.get_textpage()) as layer:
            count = layer.count_chars()
            if count > MAX_CHARS:
                return {"error": f"{count:,} characters; more than {MAX_CHARS:,} are not read"}, b""
            to_picture = picture_map(opened)
            header = {"to_picture": to_picture, "image_share": image_share(opened, to_picture)}
            header["right_to_left"] = direction(self.pdf) == "R2L"
            return header, characters(layer.raw, count).tobytes()


def direction(pdf: pdfium.PdfDocument) -> str:
    """The order of reading that the PDF asks viewers for (PDF Reference 1.7, 8.1: `Direction`), or nothing."""
    buffer = ctypes.create_string_buffer(8)
    pdfium_c.FPDF_VIEWERREF_GetName(pdf.raw, b"Direction", buffer, len(buffer))
    return buffer.value.decode("latin-1")


def picture_map(page: pdfium.PdfPage) -> list[float]:
    """(a, b, c, d, e, f): a point (x, y) of the page lies at (a x + c y + e, b x + d y + f) of the picture's sides."""
    x, y = ctypes.c_int(), ctypes.c_int()
    points = []
    reach = 1000.0
    for point in ((0.0, 0.0), (reach, 0.0), (0.0, reach)):
        pdfium_c.FPDF_PageToDevice(page.raw, 0, 0, UNIT, UNIT, 0, *point, ctypes.byref(x), ctypes.byref(y))
        points.append((x.value / UNIT, y.value / UNIT))
    (e, f), right, up = points
    return [(right[0] - e) / reach, (right[1] - f) / reach, (up[0] - e) / reach, (up[1] - f) / reach, e, f]


def characters(layer: Any, count: int) -> array[float]:
    """The numbers of all characters."""
    numbers = array("f")
    left, right, bottom, top, x, y = (ctypes.c_double() for _ in range(6))
    loose = pdfium_c.FS_RECTF()
    tight_of = [ctypes.byref(value) for value in (left, right, bottom, top)]
    origin_of, loose_of = (ctypes.byref(x), ctypes.byref(y)), ctypes.byref(loose)
    for index in range(count):
        pdfium_c.FPDFText_GetCharBox(layer, index, *tight_of)
        pdfium_c.FPDFText_GetLooseCharBox(layer, index, loose_of)
        pdfium_c.FPDFText_GetCharOrigin(layer, index, *origin_of)
        flags = GENERATED if pdfium_c.FPDFText_IsGenerated(layer, index) == 1 else 0
        flags |= HYPHEN if pdfium_c.FPDFText_IsHyphen(layer, index) == 1 else 0
        flags |= UNMAPPED if pdfium_c.FPDFText_HasUnicodeMapError(layer, index) == 1 else 0
        numbers.extend((pdfium_c.FPDFText_GetUnicode(layer, index), flags))
        numbers.extend((left.value, bottom.value, right.value, top.value))
        numbers.extend((loose.left, loose.bottom, loose.right, loose.top))
        numbers.extend((x.value, y.value, pdfium_c.FPDFText_GetCharAngle(layer, index)))
    return numbers


def image_share(page: pdfium.PdfPage, to_picture: list[float]) -> float:
    """The share of the page that images cover, in cells of a grid."""
    a, b, c, d, e, f = to_picture
    covered: set[tuple[int, int]] = set()
    for image in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=MAX_FORM_DEPTH):
        left, bottom, right, top = image.get_bounds()
        form = image.container
        while form is not None:
            left, bottom, right, top = form.get_matrix().on_rect(left, bottom, right, top)
            form = form.container
        corners = [(a * x + c * y + e, b * x + d * y + f) for x in (left, right) for y in (bottom, top)]
        columns = cells(min(u for u, _ in corners), max(u for u, _ in corners))
        rows = cells(min(v for _, v in corners), max(v for _, v in corners))
        covered.update((column, row) for column in columns for row in rows)
    return len(covered) / GRID**2


def cells(low: float, high: float) -> range:
    """The cells of the grid whose middle lies between two positions from 0 to 1."""
    low, high = max(0.0, min(low, 1.0)), max(0.0, min(high, 1.0))
    return range(math.ceil(low * GRID - 0.5), math.floor(high * GRID - 0.5) + 1)


if __name__ == "__main__":
    base.main(LayoutWorker(), int(sys.argv[1]))
