"""PDFs for the tests of this folder: typeset ones, and ones written by hand to be difficult."""

from collections.abc import Callable
from pathlib import Path

import pytest
import typst

from pdf_support import shading_objects

TEXT = (
    "The quick surveyor measured the old bridge before winter, and wrote every figure into a small"
    " grey book that he kept for exactly this purpose. "
)

# 1: headings, running text, two columns; 2: table, fields, list; 3: nothing; 4: a page number alone.
REPORT = f"""
#set page(paper: "a4", margin: 2cm)
#set text(size: 10pt, font: "Libertinus Serif")
#set par(justify: true)
= A report on bridges
{TEXT * 6}
== Second heading
#columns(2)[{TEXT * 25}]
#pagebreak()
== Invoice 4711
#table(columns: (2fr, 1fr, 1fr), [Item], [Quantity], [Price], [Screws, zinc-plated], [12], [3.40],
  [Washers], [100], [1.20], [Hinges with long arms], [2], [14.00])
#grid(columns: (1fr, 1fr), row-gutter: 8pt, [Name:], [Ada Lovelace], [Date:], [12 March 2021], [Total:], [18.60 EUR])
- first point
- second point
{TEXT * 4}
#pagebreak()
#pagebreak()
#align(center + bottom)[4]
"""


@pytest.fixture(scope="session")
def typeset(tmp_path_factory) -> Callable[[str], Path]:
    """Typst source to a PDF file."""

    def write(source: str) -> Path:
        folder = tmp_path_factory.mktemp("typeset")
        (folder / "source.typ").write_text(source)
        typst.compile(folder / "source.typ", output=folder / "typeset.pdf")
        return folder / "typeset.pdf"

    return write


@pytest.fixture(scope="session")
def report(typeset) -> Path:
    return typeset(REPORT)


@pytest.fixture
def write_pdf(tmp_path) -> Callable[..., Path]:
    """A PDF from its objects: object 1 must be the catalog. The cross-reference table is right."""

    def write(objects: list[bytes], *, trailer: bytes = b"", name: str = "written.pdf") -> Path:
        parts, offsets, position = [b"%PDF-1.4\n"], [], 9
        for number, body in enumerate(objects, start=1):
            offsets.append(position)
            parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
            position += len(parts[-1])
        count = len(objects) + 1
        parts.append(b"xref\n0 %d\n0000000000 65535 f \n" % count)
        parts += [b"%010d 00000 n \n" % offset for offset in offsets]
        parts.append(b"trailer\n<</Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (count, trailer, position))
        path = tmp_path / name
        path.write_bytes(b"".join(parts))
        return path

    return write


@pytest.fixture
def pages_pdf(write_pdf) -> Callable[..., Path]:
    """A PDF of pages given as (width, height in points, content stream); `pdf_support.ENDLESS` is one of them."""

    def write(pages: list[tuple[float, float, bytes]], **options) -> Path:
        shading = 3
        first_page = shading + 2
        resources = b"<</Shading <</S %d 0 R>>>>" % shading
        kids = b" ".join(b"%d 0 R" % (first_page + 2 * i) for i in range(len(pages)))
        objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count %d /Kids [%s]>>" % (len(pages), kids)]
        objects += shading_objects(shading)
        for i, (width, height, content) in enumerate(pages):
            box = b"[0 0 %s %s]" % (str(width).encode(), str(height).encode())
            page = b"<</Type /Page /Parent 2 0 R /MediaBox %s /Resources %s /Contents %d 0 R>>"
            objects.append(page % (box, resources, first_page + 2 * i + 1))
            objects.append(b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content))
        return write_pdf(objects, **options)

    return write
