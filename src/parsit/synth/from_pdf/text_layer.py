"""The text of pages whose text layer passes the gate, for who would otherwise read the picture.

A page's text depends on nothing but the page: the vocabulary that decides about hyphens at line ends is that of the
page alone, where `data from-pdf` has that of the whole PDF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from parsit.data.importers.layout import words_in
from parsit.parse.pages import ReadingLimits
from parsit.synth.from_pdf.document import judged_page
from parsit.synth.from_pdf.gate import JUDGED_DPI
from parsit.synth.from_pdf.pdf import LayoutPdf
from parsit.synth.from_pdf.text import lines_of, written


@contextmanager
def text_layer(path: Path, limits: ReadingLimits) -> Iterator[Callable[[int], tuple[str, float]]]:
    """Opens a PDF; yields what gives a page's text and its quality (0 to 1), from the number of the page.

    It raises `DataFault` with the reason where the page does not pass, and `WorkerError` where it cannot be looked at.

    Raises:
        InputError: the file is no PDF that can be opened.
    """
    with LayoutPdf(path, timeout_s=limits.timeout_s, max_memory_bytes=limits.max_memory_bytes) as pdf:

        def text_of(number: int) -> tuple[str, float]:
            page = judged_page(pdf, number, JUDGED_DPI, limits, allow_scanned=False)
            return written(page.paragraphs, words_in(lines_of(page.paragraphs))), page.quality

        yield text_of
