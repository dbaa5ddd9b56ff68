"""A small PDF of synthetic pages with text that no training set has, for demos and tests of reading."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pypdfium2

from parsit.synth.content import make_document
from parsit.synth.render import open_on_one_page
from parsit.synth.settings import SynthSettings
from parsit.synth.split import Texts


def write_sample_pdf(path: Path, kinds: Sequence[str], settings: SynthSettings, seed: int) -> None:
    """Write one page of each kind, with texts of the test split of `settings`.

    Args:
        path: the PDF.
        kinds: kinds of documents, one page each.
        settings: whose `test_fraction` and `validation_fraction` decide what is test text.
        seed: decides the pages; another seed than the data set's gives other pages.
    """
    texts = Texts(settings.fractions, "test")
    merged = pypdfium2.PdfDocument.new()
    for number, kind in enumerate(kinds):
        _, page = open_on_one_page(make_document(kind, Random(f"{seed}/{number}"), texts))
        merged.import_pages(page)
        page.close()
    buffer = io.BytesIO()
    merged.save(buffer)
    merged.close()
    path.write_bytes(buffer.getvalue())
