"""The synthetic pages of the bench set: a document tree, its PDF of one page, its tests and its true Markdown."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from bench_tests import PageTests, add_table_tests, formulas, pick, printed, sentences
from PIL import Image

from parsit.synth.content import make_document
from parsit.synth.degrade import cut, draw_damage, encode, wear
from parsit.synth.render import compiler, open_on_one_page, render
from parsit.synth.split import Fractions, Texts
from parsit.synth.to_typst import literal, preamble, to_typst
from parsit.synth.tree import PageTree, Table, flat_blocks
from parsit.synth.truth import to_markdown

# The texts of the test split of `parsit data synth` with its own fractions: no model was trained on their sentences.
TEXTS = Texts(Fractions(0.05, 0.05), "test")
SCAN_DPI = 150
EPOCH = time.gmtime(0)


@dataclass(frozen=True, slots=True)
class BenchPage:
    """One page of the set: the name of its PDF below pdfs/, the file, its tests and what a perfect reader writes."""

    pdf: str
    data: bytes
    tests: tuple[dict[str, object], ...]
    markdown: str


def document(rng: Random, kinds: tuple[str, ...], fits: Callable[[PageTree], bool] = lambda _: True) -> PageTree:
    """The first document drawn that fits, in the size in which it stands on one page."""
    while True:
        drawn = make_document(rng.choice(kinds), rng, TEXTS)
        if fits(drawn):
            placed, pdf = open_on_one_page(drawn)
            pdf.close()
            return placed


def typeset(page: PageTree, header: str = "", footer: str = "") -> bytes:
    """The page's PDF, without a date, with lines above and below the text where they are given."""
    source = to_typst(page)
    extra = "#set document(date: none)\n#set page("
    extra += f"header: align(right, text(size: 8pt, {literal(header)})), " if header else ""
    extra += f"footer: align(center, text(size: 8pt, {literal(footer)}))" if footer else ""
    start = preamble(page.style)
    pdf = compiler().compile(
        input=source.replace(start, f"{start}\n{extra})", 1).encode(), format="pdf", pdf_tags=False
    )
    assert isinstance(pdf, bytes)
    return pdf


def scanned(page: PageTree, rng: Random, seed: int) -> bytes:
    """A PDF that holds one picture: the page as a worn scan."""
    image = render(page, SCAN_DPI).image
    damage = draw_damage(rng, "full", SCAN_DPI)
    turned, _ = cut(image, (0, 0, image.width, image.height), damage.skew_deg)
    return picture_pdf(Image.open(io.BytesIO(encode(wear(turned, damage, np.random.default_rng(seed)), damage))))


def picture_pdf(image: Image.Image) -> bytes:
    """A PDF of one picture, without today's date."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PDF", resolution=SCAN_DPI, quality=85, creationDate=EPOCH, modDate=EPOCH)
    return buffer.getvalue()


def tables(rng: Random, name: str) -> BenchPage:
    """A page with a data table: cells and their neighbours."""
    page, tests = document(rng, ("table",)), PageTests(name)
    for table in (block for block in flat_blocks(page) if isinstance(block, Table)):
        add_table_tests(tests, rng, table, 5)
    return BenchPage(name, typeset(page), tuple(tests.found), to_markdown(page))


def math(rng: Random, name: str) -> BenchPage:
    """A report with formulas."""
    page = document(rng, ("report",), lambda drawn: any(True for _ in formulas(drawn)))
    tests = PageTests(name)
    for latex in formulas(page):
        tests.add("math", math=latex)
    return BenchPage(name, typeset(page), tuple(tests.found), to_markdown(page))


def multi_column(rng: Random, name: str) -> BenchPage:
    """A report in two columns: the order of its sentences."""
    page = document(rng, ("report",), lambda drawn: drawn.style.columns == 2)
    tests = PageTests(name)
    tests.order(pick(rng, sentences(page), 6))
    return BenchPage(name, typeset(page), tuple(tests.found), to_markdown(page))


def headers_footers(rng: Random, name: str) -> BenchPage:
    """A letter or report with lines above and below that are no part of its text, and sentences that are."""
    page = document(rng, ("letter", "report"), lambda drawn: len(sentences(drawn)) >= 2)
    number = rng.randint(2, 98)
    header = (
        f"{rng.choice(('Internal', 'Draft', 'Volume', 'Copy'))} {rng.randint(100, 999)} · {rng.randint(1990, 2024)}"
    )
    footer = f"Sheet {number} of {number + rng.randint(1, 60)}"
    tests = PageTests(name)
    for text in (header, footer):
        tests.add("absent", text=text, max_diffs=0)
    tests.present(pick(rng, sentences(page), 2))
    return BenchPage(name, typeset(page, header, footer), tuple(tests.found), to_markdown(page))


def forms(rng: Random, name: str) -> BenchPage:
    """An invoice, a form or a receipt: what is written into it, and the cells of its table."""
    page, tests = document(rng, ("invoice", "form", "receipt")), PageTests(name)
    tests.present(pick(rng, printed(page), 4))
    return BenchPage(name, typeset(page), tuple(tests.found), to_markdown(page))


def scans(rng: Random, name: str) -> BenchPage:
    """A worn scan of a letter or a report in one column: text and order."""
    page = document(rng, ("letter", "report"), lambda drawn: drawn.style.columns == 1 and len(sentences(drawn)) >= 3)
    tests = PageTests(name)
    chosen = pick(rng, sentences(page), 3)
    tests.present(chosen)
    tests.order(chosen)
    return BenchPage(name, scanned(page, rng, rng.randrange(2**31)), tuple(tests.found), to_markdown(page))


def blank(rng: Random, name: str) -> BenchPage:
    """An empty page, as a scan shows it: nothing is to be read."""
    damage = draw_damage(rng, "full", SCAN_DPI)
    paper = wear(Image.new("RGB", (1240, 1754), "white"), damage, np.random.default_rng(rng.randrange(2**31)))
    tests = PageTests(name)
    tests.add("baseline", max_length=0)
    return BenchPage(name, picture_pdf(paper), tuple(tests.found), "")


# Categories: how one page is made, and its share of all synthetic pages.
CATEGORIES: dict[str, tuple[Callable[[Random, str], BenchPage], float]] = {
    "tables": (tables, 0.2),
    "math": (math, 0.2),
    "multi_column": (multi_column, 0.15),
    "headers_footers": (headers_footers, 0.15),
    "forms": (forms, 0.15),
    "scans": (scans, 0.12),
    "blank": (blank, 0.03),
}


def synthetic_pages(seed: int, count: int) -> Iterator[tuple[str, BenchPage]]:
    """About `count` pages as (category, page), at least one of each; a page depends on the seed and its name alone."""
    for category, (make, share) in CATEGORIES.items():
        for number in range(max(1, round(share * count))):
            name = f"{category}/{number:03}.pdf"
            yield category, make(Random(f"{seed}/{name}"), name)
