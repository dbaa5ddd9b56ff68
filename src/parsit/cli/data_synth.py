"""`parsit data synth`: make documents from scratch, with exact ground truth."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.cli.console import bar
from parsit.cli.parser import Parser
from parsit.types import UsageError

if TYPE_CHECKING:
    from parsit.synth import SynthSettings


def synth(argv: list[str]) -> int:
    """`parsit data synth`: make documents with their ground truth."""
    settings = parse_synth(argv)
    from parsit.synth import check_run, synthesise
    from parsit.synth.fonts import families_in

    check_run(settings)
    if settings.fonts:
        print(f"{len(families_in(settings.fonts))} font families besides our own")
    started = time.monotonic()
    with bar("pages", settings.pages) as advance:
        counts = synthesise(settings, lambda _: advance(1))
    seconds = time.monotonic() - started
    records = ", ".join(f"{name} {count}" for name, count in counts.records_by_split.items())
    print(
        f"{counts.pages} pages, {counts.records} records ({records}) in {seconds:.1f} s"
        f" ({counts.pages / seconds:.1f} pages/s, {counts.records / seconds:.0f} records/s): {settings.out}"
    )
    return 0


def parse_synth(argv: list[str]) -> SynthSettings:
    """The options of `parsit data synth`."""
    from parsit.synth.content import DEFAULT_KINDS, KINDS
    from parsit.synth.crops import CUTS
    from parsit.synth.settings import SynthSettings

    parser = Parser("parsit data synth", "Make documents from scratch, with exact ground truth, as a data set in DIR.")
    option: Callable[..., Any] = parser.add_argument
    option("--out", metavar="DIR", required=True, help="folder to make; must not exist")
    option("--pages", type=int, required=True, metavar="N", help="number of pages to typeset")
    option("--seed", type=int, default=0, metavar="S", help="the same seed gives the same bytes")
    option("--kinds", default=",".join(DEFAULT_KINDS), metavar="LIST", help=f"kinds of documents ({', '.join(KINDS)})")
    option("--unit", choices=("page", "line"), default="page", help="whole pages, or short crops of their lines")
    option("--tasks", default="read,fields,qa", metavar="LIST", help="records per page (unit page): read,fields,qa")
    option("--dpi", default="96-200", metavar="LOW-HIGH", help="range of resolutions")
    option("--degrade", choices=("none", "light", "full"), default="full", help="scanner damage")
    option("--cut", choices=CUTS, default="words", help="cut lines at words, or as parsit parse cuts them (unit line)")
    option("--max_chars", type=int, default=24, metavar="N", help="longest crop in characters (cut words)")
    option("--glyphs", action="store_true", help="record every character's box (unit line always does)")
    option("--fonts", nargs="+", default=[], metavar="DIR", help="folders of more fonts (.ttf, .otf), drawn as often")
    option("--omnidocbench", action="store_true", help="also the pages' truth as OmniDocBench's judge reads it")
    option("--validation_fraction", type=float, default=0.05, metavar="F", help="share of validation")
    option("--test_fraction", type=float, default=0.05, metavar="F", help="share of test")
    option("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    option("--overwrite", action="store_true", help="replace DIR if it is such a data set")
    options = parser.parse_args(argv).as_dict()
    return SynthSettings(
        **options
        | {
            "out": Path(options["out"]).resolve(),
            "kinds": tuple(options["kinds"].split(",")),
            "tasks": tuple(options["tasks"].split(",")),
            "dpi": parse_range(options["dpi"]),
            "fonts": tuple(str(Path(folder).resolve()) for folder in options["fonts"]),
        }
    )


def parse_range(text: str) -> tuple[int, int]:
    """`96-200` or `150` as lowest and highest.

    Raises:
        UsageError: it is neither.
    """
    low, dash, high = text.partition("-")
    if not low.isdecimal() or not (high if dash else low).isdecimal():
        raise UsageError(f"--dpi must be LOW-HIGH, for example 96-200, not {text!r}")
    return int(low), int(high or low)
