"""`parsit data from-pdf`: page images with their text, from any PDFs that have a text layer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.cli.console import bar
from parsit.cli.parser import Parser

if TYPE_CHECKING:
    from parsit.synth.from_pdf import FromPdfSettings


def from_pdf(argv: list[str]) -> int:
    """Run `parsit data from-pdf …` (without the first three words). Refused pages are its work: the exit code is 0."""
    settings = parse(argv)
    from parsit.synth.from_pdf import make_from_pdfs, pdfs_in

    settings.check()
    started = time.monotonic()
    with bar("PDFs", len(pdfs_in(settings.folder))) as advance:
        counts = make_from_pdfs(settings, lambda _: advance(1))
    seconds = time.monotonic() - started
    splits = ", ".join(f"{name} {count}" for name, count in counts.pages_by_split.items())
    print(
        f"{counts.pages} {settings.unit}s ({splits}) from {counts.pdfs} PDFs in {seconds:.1f} s"
        f" ({counts.pages / seconds:.1f} pages/s), mean quality {counts.mean_quality:.3f}: {settings.out}"
    )
    if counts.findings:
        told = ", ".join(f"{code} {count}" for code, count in counts.findings.items())
        print(f"not taken ({told}): {settings.out / 'findings.jsonl'}")
    return 0 if counts.pages else 1


def parse(argv: list[str]) -> FromPdfSettings:
    """The options of `parsit data from-pdf`."""
    from parsit.cli.data_synth import parse_range
    from parsit.synth.degrade import LEVELS
    from parsit.synth.from_pdf import FromPdfSettings

    parser = Parser("parsit data from-pdf", "Make page images with their text from the PDFs below DIR.")
    option: Callable[..., Any] = parser.add_argument
    option("folder", metavar="DIR", help="folder of PDFs, at any depth")
    option("--out", metavar="DIR", required=True, help="folder to make; must not exist")
    option("--dpi", default="96-200", metavar="LOW-HIGH", help="range of resolutions, or one")
    option("--pages_per_pdf", type=int, metavar="N", help="at most N pages of one PDF, chosen by the seed")
    option("--unit", choices=("page", "line"), default="page", help="pages, or their lines as parsit parse cuts them")
    option("--degrade", choices=LEVELS, default="none", help="scanner damage of each line (unit line)")
    option("--glyphs", action="store_true", help="record every character's box (unit line always does)")
    option("--validation_fraction", type=float, default=0.05, metavar="F", help="share of the PDFs for validation")
    option("--test_fraction", type=float, default=0.05, metavar="F", help="share of the PDFs for test")
    option("--seed", type=int, default=0, metavar="S", help="the same seed and PDFs give the same bytes")
    option("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="PDFs read at a time")
    option("--min_quality", type=float, default=0.0, metavar="Q", help="refuse pages of less quality, 0 to 1")
    option("--allow_scanned", action="store_true", help="take scans that have a text layer, too")
    option("--overwrite", action="store_true", help="replace DIR if it is such a data set")
    options = parser.parse_args(argv).as_dict()
    return FromPdfSettings(
        **options
        | {
            "folder": Path(options["folder"]),
            "out": Path(options["out"]).resolve(),
            "dpi": parse_range(options["dpi"]),
        }
    )
