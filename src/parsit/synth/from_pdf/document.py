"""One PDF to its records: pages judged, drawn, read, and written one by one."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from parsit.data.faults import DataFault, Finding
from parsit.data.importers.layout import words_in
from parsit.parse.pages import ReadingLimits
from parsit.parse.pdf import WorkerError
from parsit.synth.crops import Word, reader_crops
from parsit.synth.from_pdf.accents import join_accents
from parsit.synth.from_pdf.gate import (
    JUDGED_DPI,
    SCANNED_IMAGE_SHARE,
    Judged,
    judge_order,
    judge_picture,
    judge_scan,
    judge_text,
    judge_words,
)
from parsit.synth.from_pdf.order import jumps, reading_order
from parsit.synth.from_pdf.pdf import Chars, Flags, LayoutPdf, PageLayout, turn_picture, upright
from parsit.synth.from_pdf.settings import FromPdfSettings
from parsit.synth.from_pdf.text import SOFT_HYPHEN, Paragraph, lines_of, paragraphs_of, written
from parsit.synth.from_pdf.words import TextRun, pieces_of, words_and_chars
from parsit.synth.records import LINE_PROMPT, record, write_image
from parsit.synth.render import Glyph
from parsit.synth.split import SplitName
from parsit.types import InputError

READ_TEXT_PROMPTS = (
    "Read the text of this page in reading order.",
    "Write down all text on this page.",
    "What does this page say? Give its whole text.",
)
MAX_FAILED_PAGES = 3


@dataclass(frozen=True, slots=True)
class PdfSource:
    """A PDF: its file, its name in the data set, a hash of its bytes, and its split."""

    path: Path
    name: str
    digest: str
    split: SplitName


@dataclass(slots=True)
class PdfResult:
    """What one PDF gave: records as lines of JSON, and what was refused."""

    split: SplitName
    lines: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    quality: float = 0.0  # the sum over its records


@dataclass(frozen=True, slots=True)
class _Read:
    """A page that was taken; its text waits for the vocabulary of the whole PDF, the `crops` of its lines for nothing.

    With `unit` line a page is its crops' records, and has neither image nor text of its own.
    """

    number: int
    image: str
    paragraphs: list[Paragraph]
    glyphs: list[Glyph] | None
    prompt: str
    crops: tuple[str, ...] | None = None


def read_pdf(settings: FromPdfSettings, folder: Path, source: PdfSource) -> PdfResult:
    """Read one PDF: write its images below `folder`, return its records. Depends on nothing but the arguments."""
    result = PdfResult(source.split)
    limits = ReadingLimits(timeout_s=settings.timeout_s)
    try:
        with LayoutPdf(source.path, timeout_s=settings.timeout_s, max_memory_bytes=limits.max_memory_bytes) as pdf:
            pages = list(_pages(settings, folder, source, pdf, limits, result))
    except InputError as error:
        detail = str(error).removeprefix(str(source.path)).lstrip(" :")
        result.findings.append(Finding("pdf-unreadable", source.name, detail))
        return result
    known = words_in(line for page in pages for line in lines_of(page.paragraphs))
    for page in pages:
        if page.crops is not None:
            result.lines += page.crops
            continue
        identifier = f"{source.name}#{page.number}"
        result.lines.append(record(identifier, page.image, page.prompt, written(page.paragraphs, known), page.glyphs))
    return result


def chosen_pages(settings: FromPdfSettings, digest: str, count: int) -> list[int]:
    """The pages to be read, by the seed and the PDF's content."""
    numbers = range(1, count + 1)
    if settings.pages_per_pdf is None or settings.pages_per_pdf >= count:
        return list(numbers)
    return sorted(Random(f"{settings.seed}/{digest}/pages").sample(numbers, settings.pages_per_pdf))


def _pages(
    settings: FromPdfSettings, folder: Path, source: PdfSource, pdf: LayoutPdf, limits: ReadingLimits, result: PdfResult
) -> Iterator[_Read]:
    """The pages that are taken; the others become findings."""
    failed = 0
    for number in chosen_pages(settings, source.digest, pdf.page_count):
        place = f"{source.name}#{number}"
        try:
            page, quality = _page(settings, folder, source, pdf, limits, number)
        except DataFault as fault:
            result.findings.append(fault.at(place).finding())
        except WorkerError as error:
            failed += 1
            result.findings.append(Finding("pdf-page-failed", place, str(error)))
            if failed == MAX_FAILED_PAGES:
                detail = f"{failed} pages failed, the last of them page {number} of {pdf.page_count}"
                result.findings.append(Finding("pdf-given-up", source.name, detail))
                return
        else:
            result.quality += quality * (1 if page.crops is None else len(page.crops))
            yield page


def _page(
    settings: FromPdfSettings, folder: Path, source: PdfSource, pdf: LayoutPdf, limits: ReadingLimits, number: int
) -> tuple[_Read, float]:
    """One page with its quality. Raises `DataFault` with the reason for refusing it, `WorkerError` if it fails."""
    rng = Random(f"{settings.seed}/{source.digest}/{number}")
    dpi, prompt = rng.randint(*settings.dpi), rng.choice(READ_TEXT_PROMPTS)
    page = judged_page(pdf, number, dpi, limits, settings.allow_scanned)
    if page.quality < settings.min_quality:
        raise DataFault("page-low-quality", f"a quality of {page.quality:.3f}, less than {settings.min_quality:g}")
    if settings.unit == "line":
        crops = tuple(_crops(settings, folder, source, number, page, dpi, rng))
        return _Read(number, "", [], None, prompt, crops), page.quality
    path = f"images/{source.split}/{source.digest[:2]}/{source.digest[:16]}-{number:05}.png"
    write_image(folder, path, _png(page.image))
    glyphs = list(_glyphs(page.chars, page.chars.printed, page.image.size)) if settings.glyphs else None
    return _Read(number, path, page.paragraphs, glyphs, prompt), page.quality


@dataclass(frozen=True, slots=True)
class JudgedPage:
    """A page whose text layer says what the picture shows: the upright picture, characters, paragraphs and quality.

    `spelt` has the words, each with the places of its characters among `chars`.
    """

    image: Image.Image
    chars: Chars
    spelt: list[tuple[TextRun, list[int]]]
    paragraphs: list[Paragraph]
    quality: float


def judged_page(pdf: LayoutPdf, number: int, dpi: float, limits: ReadingLimits, allow_scanned: bool) -> JudgedPage:
    """One page that passes every check. Raises `DataFault` with the reason for refusing it, `WorkerError`."""
    layout, quarters = upright(pdf.layout(number))
    layout = replace(layout, chars=join_accents(layout.chars))
    judged = judge_text(layout, allow_scanned)
    quality, seen = _look(layout, quarters, judged, pdf, limits, number)
    chars = layout.chars.only(seen | ~layout.chars.printed)
    is_turned = judged.turned[seen | ~layout.chars.printed]
    drawn, _ = pdf.render(number, dpi=dpi, max_pixels=limits.max_page_pixels)
    image = turn_picture(drawn, quarters)
    spelt = words_and_chars(chars, chars.printed & ~is_turned, image.size)
    words = [word for word, _ in spelt]
    blocks = reading_order(pieces_of(words), image.height)
    quality *= judged.quality * judge_words([word.text for word in words])
    if not quarters:  # PDFium tells of lines that run upwards in an order of its own
        quality *= judge_order(jumps(blocks), len(words))
    paragraphs = paragraphs_of(blocks)
    paragraphs += [[[text]] for text in _turned_texts(chars, is_turned)]
    return JudgedPage(image, chars, spelt, paragraphs, quality)


def _with_glyphs(chars: Chars, spelt: Sequence[tuple[TextRun, list[int]]], size: tuple[int, int]) -> list[Word]:
    """The words with the boxes of their characters."""
    every = list(_glyphs(chars, np.ones(len(chars), bool), size))
    return [Word(word.text, tuple(every[index] for index in indexes)) for word, indexes in spelt]


def _crops(
    settings: FromPdfSettings,
    folder: Path,
    source: PdfSource,
    number: int,
    page: JudgedPage,
    dpi: int,
    rng: Random,
) -> Iterator[str]:
    """The crops of a page's lines, each an image and a record."""
    words = _with_glyphs(page.chars, page.spelt, page.image.size)
    noise_rng = np.random.default_rng([settings.seed, int(source.digest[:8], 16), number])
    crops = reader_crops(page.image, words, dpi, lambda text: True, settings.degrade, rng, noise_rng)
    for index, crop in enumerate(crops):
        name = f"{source.digest[:16]}-{number:05}-{index:02}.{crop.suffix}"
        path = f"images/{source.split}/{source.digest[:2]}/{name}"
        write_image(folder, path, crop.data)
        yield record(f"{source.name}#{number}-{index:02}", path, LINE_PROMPT, crop.text, crop.glyphs)


def _look(
    layout: PageLayout, quarters: int, judged: Judged, pdf: LayoutPdf, limits: ReadingLimits, number: int
) -> tuple[float, Flags]:
    """The quality of what is seen on the page, and which characters are. Raises as `_page`."""
    chosen = judged.upright | judged.turned
    how = {"dpi": JUDGED_DPI, "max_pixels": limits.max_page_pixels}
    drawn = turn_picture(pdf.render(number, **how)[0], quarters)
    if layout.image_share >= SCANNED_IMAGE_SHARE:
        return judge_scan(layout.chars, chosen, drawn), chosen
    return judge_picture(layout.chars, chosen, drawn, turn_picture(pdf.background(number, **how), quarters))


def _turned_texts(chars: Chars, turned: Flags) -> Iterator[str]:
    """What stands at an angle (a stamp in the margin, a watermark), in drawing order."""
    text = ""
    for char, is_turned, is_printed in zip(chars.text, turned.tolist(), chars.printed.tolist(), strict=True):
        if is_turned:
            text += char
        elif not is_printed and text and not text.endswith(" "):
            text += " "
        elif is_printed and text:
            yield text.strip()
            text = ""
    if text:
        yield text.strip()


def _glyphs(chars: Chars, chosen: Flags, size: tuple[int, int]) -> Iterable[Glyph]:
    width, height = size
    boxes = (chars.loose[chosen] * [width, height, width, height]).tolist()
    for index, box in zip(np.flatnonzero(chosen).tolist(), boxes, strict=True):
        yield Glyph(chars.text[index].replace(SOFT_HYPHEN, "-"), *box)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
