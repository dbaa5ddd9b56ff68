"""`parsit data convert`: a data file in one format becomes a data file in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parsit.cli.console import bar
from parsit.cli.parser import Parser

if TYPE_CHECKING:
    from parsit.data.convert import ConvertReport
    from parsit.data.convert_settings import ConvertSettings


def convert(argv: list[str]) -> int:
    """Run `parsit data convert …`; 0: every record was converted, 1: some were set aside.

    Raises:
        UsageError: options that make no sense together.
        InputError: the input cannot be read, or the output exists.
        ParsitError: the output cannot be written.
    """
    settings = parse_convert(argv)
    from parsit.data.convert import convert_file, extent

    settings.check()
    with bar("converting", extent(settings.input)) as advance:
        report = convert_file(settings, advance)
    _show(settings, report)
    return 1 if report.faults else 0


def parse_convert(argv: list[str]) -> ConvertSettings:
    """The options of `parsit data convert`."""
    from parsit.data.convert_settings import FORMAT_NAMES, TARGET_NAMES, ConvertSettings

    parser = Parser(
        "parsit data convert",
        "Write a data file in another format. Records that are wrong are set aside and listed in"
        " OUTPUT.findings.jsonl; the exit code is then 1.",
    )
    option: Callable[..., Any] = parser.add_argument
    option("--input", metavar="FILE", required=True, help=".json, .jsonl, .parquet, .arrow, .tar, or a datasets folder")
    option("--output", metavar="FILE", required=True, help="file to write: .json, .jsonl, .parquet or .tar")
    option("--format", choices=FORMAT_NAMES, default="auto", help="the input's format; auto: each record's own")
    option("--to", choices=TARGET_NAMES, help="the output's format (default: parsit; huggingface for .parquet)")
    option("--image_folder", metavar="DIR", help="where image paths start; without it, image files are not opened")
    option("--embed_images", action="store_true", help="put image files into the output (.parquet, or --to openai)")
    option("--overwrite", action="store_true", help="replace the output if it exists")
    options = parser.parse_args(argv).as_dict()
    return ConvertSettings(
        input=Path(options["input"]),
        output=Path(options["output"]),
        format_name=options["format"],
        to=options["to"],
        image_folder=Path(options["image_folder"]) if options["image_folder"] else None,
        embed_images=options["embed_images"],
        overwrite=options["overwrite"],
    )


def _show(settings: ConvertSettings, report: ConvertReport) -> None:
    """The report on stdout: a table of what was set aside on a terminal, plain lines in a pipe."""
    for line in _summary(settings, report):
        print(line)
    if not report.faults:
        return
    from parsit.data.faults import FAULTS

    print(f"set aside: {report.records - report.converted:,}, listed in {settings.findings}")
    rows = [
        (code, f"{count:,}", FAULTS[code].meaning, FAULTS[code].remedy) for code, count in report.faults.most_common()
    ]
    console = Console()
    if console.is_terminal:
        table = Table("code", "count", "meaning", "what to do")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        for code, count, meaning, remedy in rows:
            print(f"  {code}: {count} ({meaning}; {remedy})")


def _summary(settings: ConvertSettings, report: ConvertReport) -> Iterator[str]:
    formats = ", ".join(f"{name} {count:,}" for name, count in report.formats.most_common())
    yield f"records: {report.records:,}{f' ({formats})' if formats else ''}"
    if report.written:
        yield f"converted: {report.converted:,} to {settings.target.name}: {settings.output}"
    else:
        yield f"converted: 0; {settings.output} was not written"
    if report.lost:
        lost = ", ".join(f"{name} in {count:,}" for name, count in report.lost.most_common())
        yield f"not carried over (records): {lost}"
    if report.images:
        looked_at = report.images - report.images_not_looked_at
        advice = ": name their --image_folder" if report.images_not_looked_at else ""
        yield f"images: {looked_at:,} looked at, {report.images_not_looked_at:,} not{advice}"
    if report.images_written:
        yield f"images written beside the output: {report.images_written:,}"
    if report.image_folder is not None:
        yield f"image paths in the output start from {report.image_folder}: name it as --image_folder"
    if report.stopped:
        yield f"the input was not read to its end: {report.stopped}"
