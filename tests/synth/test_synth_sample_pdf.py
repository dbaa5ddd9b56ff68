"""The sample PDF: real pages with a text layer, and no sentence that a training page could have."""

from __future__ import annotations

import pypdfium2

from parsit.synth.sample_pdf import write_sample_pdf
from parsit.synth.settings import SynthSettings


def test_a_page_for_each_kind_with_a_text_layer_and_the_same_text_for_the_same_seed(tmp_path):
    settings = SynthSettings(out=tmp_path, pages=1)
    texts = []
    for name, seed in (("a.pdf", 1), ("b.pdf", 1), ("c.pdf", 2)):
        write_sample_pdf(tmp_path / name, ["letter", "receipt"], settings, seed)
        with pypdfium2.PdfDocument(tmp_path / name) as pdf:
            assert len(pdf) == 2
            texts.append([page.get_textpage().get_text_range() for page in pdf])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert all(len(text) > 100 for text in texts[0])
