"""`parsit data validate`: what is wrong with data files, before anything is trained on them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parsit.cli.console import bar, quiet_libraries
from parsit.cli.data_model import add_model_options, max_length_of, processor_of
from parsit.cli.parser import Parser
from parsit.files import refuse_inputs, refuse_other_content
from parsit.types import Sample, UsageError

if TYPE_CHECKING:
    from parsit.data.faults import Finding
    from parsit.data.validate import Report, Rules

_EXAMPLE_CHARS = 160
_COLUMNS = ("code", "count", "level", "meaning", "for example", "what to do")


def validate(argv: list[str]) -> int:
    """Run `parsit data validate …`; 0: nothing but notes, 1: faults.

    Raises:
        UsageError: options that make no sense together, or `--findings` that is an input or holds something else.
        InputError: a mixture that cannot be read, an image folder that does not exist.
    """
    options = _parse(argv)
    from parsit.data.sources import files_read, read_sources
    from parsit.data.validate import validate_sources

    named = [*options["files"], *([options["input"]] if options["input"] else [])]
    sources = read_sources(named, options["image_folder"])
    findings_file = Path(options["findings"]) if options["findings"] else None
    if findings_file is not None:
        refuse_other_content(findings_file, _is_findings, "findings", "--findings")
        refuse_inputs(findings_file, files_read(named, sources), "--findings")
    rules = _rules(options)
    with _progress() as on_progress:
        report = validate_sources(sources, rules, on_progress, workers=options["workers"], findings_file=findings_file)
    _show(report)
    return 1 if report.number("fault") else 0


def _parse(argv: list[str]) -> dict[str, Any]:
    from parsit.data.formats import FORMATS

    parser = Parser(
        "parsit data validate",
        "Look at every record and image of data files, and say what is wrong. Exit code 1 where there is a fault, 0"
        " with notes alone.",
    )
    option: Callable[..., Any] = parser.add_argument
    option("files", nargs="*", metavar="FILE", help="data files, {a,b}.json, or mixtures (.yaml)")
    option("--input", metavar="FILE", help="one more data file")
    option("--image_folder", metavar="DIR", help="where image paths start; by default each file's own folder")
    option("--format", choices=("auto", *FORMATS), default="auto", help="the records' format; auto: each record's own")
    option("--deep", action="store_true", help="decode every image, instead of its header and its end alone")
    add_model_options(option, default=None)
    option("--findings", metavar="FILE", help="write every finding as a line of JSON")
    option("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    options = parser.parse_args(argv).as_dict()
    if not options["files"] and not options["input"]:
        raise UsageError("data validate: name at least one data file (`parsit data validate --help`)")
    if options["workers"] < 1:
        raise UsageError(f"--workers must be 1 or more, not {options['workers']}")
    if options["model"] is None and options["model_max_length"] is not None:
        raise UsageError("--model_max_length counts a model's tokens: name the --model as well")
    return options


def _is_findings(head: bytes) -> bool:
    """Whether a file that begins so holds findings."""
    try:
        first = json.loads(head.partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and {"code", "level"} <= first.keys()


def _rules(options: dict[str, Any]) -> Rules:
    from parsit.data.validate import Rules

    rules = Rules(options["format"], options["deep"])
    if options["model"] is None:
        return rules
    limit = max_length_of(options["model"], options["model_max_length"])
    if limit is None:
        raise UsageError(f"--model {options['model']} does not say how it was trained: give --model_max_length too")
    quiet_libraries()
    processor_of(options["model"])  # what is wrong with the model is said now
    return replace(rules, count=TokenCount(options["model"]), model_max_length=limit)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A sample's length in tokens for a model; light to send to a process, which loads the processor once."""

    model: str

    def __call__(self, sample: Sample) -> int:
        """Tokens, those of its images included. Raises `InputError`."""
        return processor_of(self.model).count(sample.turns)[0]


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar that opens when the number of records is known, which is after the files were walked."""
    with ExitStack() as stack:
        bars: list[Callable[[int], None]] = []

        def on_progress(count: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(bar("records", total)))
            bars[0](count)

        yield on_progress


def _show(report: Report) -> None:
    """The report on stdout: a table on a terminal, aligned lines in a pipe."""
    print(_summary(report))
    rows = _rows(report)
    console = Console()
    if rows and console.is_terminal:
        table = Table(*_COLUMNS)
        for row in rows:
            table.add_row(*map(Text, row))  # as they are: a place such as a.json[3] is no markup
        console.print(table)
    elif rows:
        widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(len(_COLUMNS))]
        for row in (_COLUMNS, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{report.good:,} of {report.samples:,} samples would be trained on")


def _summary(report: Report) -> str:
    formats = ", ".join(f"{name} {count:,}" for name, count in report.formats.most_common())
    return (
        f"files: {report.files:,}; samples: {report.samples:,}{f' ({formats})' if formats else ''};"
        f" images looked at: {report.images:,}; faults: {report.number('fault'):,}; notes: {report.number('note'):,}"
    )


def _rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each code: faults first, the most frequent first."""
    from parsit.data.faults import FAULTS

    codes = sorted(report.counts, key=lambda code: (FAULTS[code].level, -report.counts[code], code))
    return [
        (
            code,
            f"{report.counts[code]:,}",
            FAULTS[code].level,
            FAULTS[code].meaning,
            _shortened(report.examples[code][0]),
            FAULTS[code].remedy,
        )
        for code in codes
    ]


def _shortened(finding: Finding) -> str:
    """Place and detail on one line and without control characters: names in data sets are strangers' words."""
    text = f"{finding.place}: {finding.detail}"
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:_EXAMPLE_CHARS]}…"
