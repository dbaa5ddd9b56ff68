"""Reading one PDF as `data from-pdf` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pytest
import typst

from parsit.synth.from_pdf import FromPdfSettings, make_from_pdfs


@pytest.fixture
def read(tmp_path) -> Callable[..., tuple[list[str], list[str]]]:
    """A function that reads one PDF (a file, its bytes, or Typst): its pages' texts, and codes of refusals."""

    def read(pdf: Path | bytes | str, change: Callable[[pypdfium2.PdfDocument], None] | None = None, **more):
        target = tmp_path / "pdfs" / "a.pdf"
        target.parent.mkdir(exist_ok=True)
        if isinstance(pdf, Path):
            shutil.copy(pdf, target)
        else:
            target.write_bytes(typst.compile(pdf.encode()) if isinstance(pdf, str) else pdf)
        if change is not None:
            document = pypdfium2.PdfDocument(target.read_bytes())
            change(document)
            document.save(target)
            document.close()
        shares = {"validation_fraction": 0.0, "test_fraction": 0.0}
        make_from_pdfs(FromPdfSettings(target.parent, tmp_path / "out", dpi=(90, 90), overwrite=True, **shares, **more))
        records, found = (
            [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
            for name in ("train", "findings")
        )
        return [one["conversations"][1]["value"] for one in records], [one["code"] for one in found]

    return read
