"""PDFs for the tests of this folder: typeset ones, and ones written by hand to be difficult."""

from collections.abc import Callable
from pathlib import Path

import pytest
import typst

from pdf_support import objects_of_pages, pdf_of_objects

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
        path = tmp_path / name
        path.write_bytes(pdf_of_objects(objects, trailer))
        return path

    return write


@pytest.fixture
def pages_pdf(write_pdf) -> Callable[..., Path]:
    """A PDF of pages given as (width, height in points, content stream); `pdf_support.ENDLESS` is one of them."""

    def write(pages: list[tuple[float, float, bytes]], **options) -> Path:
        return write_pdf(objects_of_pages(pages), **options)

    return write
