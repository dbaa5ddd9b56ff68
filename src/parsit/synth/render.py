"""Typst source → PDF → pixels and the place of every glyph.

Decides that the PDF's own text layer says where glyphs are, and that its characters must be exactly
the document's, in order: a page whose truth is not what is printed stops the run. One compiler per
process is kept, because loading fonts costs more than setting a page.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image

from parsit.synth.fonts import font_paths
from parsit.synth.to_typst import to_typst
from parsit.synth.tree import PageTree, leaves

if TYPE_CHECKING:
    from typst import Compiler

POINTS_PER_INCH = 72
SHRINK = 0.93
MAX_SHRINKS = 12
# PDFium reports a hyphen at the end of a line as one of these.
HYPHENS = {"\x02": "-", "\ufffe": "-", "\u00ad": "-"}


@dataclass(frozen=True, slots=True)
class Glyph:
    """A printed character (never a space) and its box in pixels, y downwards."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class PlacedLeaf:
    """A leaf's text with its glyphs, one for each character that is not a space."""

    text: str
    glyphs: tuple[Glyph, ...]


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """A clean page: its image (RGB), its resolution, and its text in reading order.

    `document` is what is really on the page: its font may be smaller than the one asked for. `formulas` are the glyphs
    of each formula, whose characters are not those of its source.
    """

    document: PageTree
    image: Image.Image
    dpi: int
    leaves: tuple[PlacedLeaf, ...]
    formulas: tuple[tuple[Glyph, ...], ...]


@cache
def compiler(fonts: tuple[str, ...] = ()) -> Compiler:
    """The process's own Typst compiler, with our fonts only, and those of the folders `fonts`."""
    paths = [*font_paths(), *fonts]
    import typst

    return typst.Compiler(font_paths=paths, ignore_system_fonts=True)


def to_pdf(document: PageTree, fonts: tuple[str, ...] = ()) -> bytes:
    """The document as PDF; the same document gives the same pages, the bytes are not kept anywhere."""
    pdf = compiler(fonts).compile(input=to_typst(document).encode(), format="pdf", pdf_tags=False)
    assert isinstance(pdf, bytes)
    return pdf


def open_on_one_page(document: PageTree, fonts: tuple[str, ...] = ()) -> tuple[PageTree, pypdfium2.PdfDocument]:
    """Set the document; where it needs more than one page, set it smaller until it does not."""
    for _ in range(MAX_SHRINKS):
        pdf = pypdfium2.PdfDocument(to_pdf(document, fonts))
        if len(pdf) == 1:
            return document, pdf
        pdf.close()
        style = replace(document.style, size_pt=document.style.size_pt * SHRINK)
        document = replace(document, style=style)
    raise AssertionError(f"a {document.kind} does not fit on one page at {document.style.size_pt:.1f} pt")


class OtherGlyphsError(ValueError):
    """The page does not show each character of its text: the font draws some of them together, or not at all."""


def render(document: PageTree, dpi: int, fonts: tuple[str, ...] = ()) -> RenderedPage:
    """Set a document and draw its page at `dpi`; `fonts` are folders of fonts besides our own.

    Raises:
        OtherGlyphsError: the document's font draws something else than its text.
    """
    document, pdf = open_on_one_page(document, fonts)
    page = pdf[0]
    try:
        glyphs = page_glyphs(page, dpi)
        bitmap = page.render(scale=dpi / POINTS_PER_INCH, rev_byteorder=True)  # type: ignore[arg-type]  (any number)
        # The picture shares the bitmap's memory, which is freed here.
        image = bitmap.to_pil().copy()
        bitmap.close()
    finally:
        page.close()
        pdf.close()
    return RenderedPage(document, image, dpi, *align(document, glyphs))


def page_glyphs(page: pypdfium2.PdfPage, dpi: int) -> list[Glyph]:
    """The page's printed characters in drawing order, with their loose boxes (advance × ascent to descent)."""
    textpage = page.get_textpage()
    scale, height = dpi / POINTS_PER_INCH, page.get_height()
    box = pdfium_c.FS_RECTF()
    pointer, handle = ctypes.byref(box), textpage.raw
    unicode_of, box_of = pdfium_c.FPDFText_GetUnicode, pdfium_c.FPDFText_GetLooseCharBox
    glyphs = []
    for index in range(textpage.count_chars()):
        text = chr(unicode_of(handle, index))
        text = HYPHENS.get(text, text)
        # White space, drawn or made up by PDFium, is no glyph.
        if text.isspace() or text == "\0":
            continue
        box_of(handle, index, pointer)
        glyphs.append(
            Glyph(text, box.left * scale, (height - box.top) * scale, box.right * scale, (height - box.bottom) * scale)
        )
    textpage.close()
    return glyphs


def align(document: PageTree, glyphs: list[Glyph]) -> tuple[tuple[PlacedLeaf, ...], tuple[tuple[Glyph, ...], ...]]:
    """Give each leaf and each formula its glyphs, and make sure that the page shows the document's text alone.

    Raises:
        OtherGlyphsError: it does not.
    """
    expected = leaves(document)
    printed = "".join(glyph.text for glyph in glyphs)
    assert len(printed) == len(glyphs), "a glyph with several characters"
    placed, formulas, position = [], [], 0
    for index, leaf in enumerate(expected):
        if leaf.opaque:
            following = "".join(next((after.text for after in expected[index + 1 :]), "").split())
            end = printed.index(following, position) if following else len(printed)
            formulas.append(tuple(glyphs[position:end]))
            position = end
            continue
        text = "".join(leaf.text.split())
        found = printed[position : position + len(text)]
        if found != text:
            raise OtherGlyphsError(f"{document.kind}: the page shows {found!r} where the document says {text!r}")
        placed.append(PlacedLeaf(leaf.text, tuple(glyphs[position : position + len(text)])))
        position += len(text)
    if position != len(printed):
        raise OtherGlyphsError(f"{document.kind}: the page shows {printed[position:]!r} after its last text")
    return tuple(placed), tuple(formulas)
