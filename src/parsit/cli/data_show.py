"""`parsit data show` and `parsit data stats`: data as a model will see it, and in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from parsit.cli.console import bar, bars, quiet_libraries, say
from parsit.cli.data_model import add_model_options, max_length_of, processor_of
from parsit.cli.parser import Parser
from parsit.files import refuse_inputs, refuse_other_content, write_whole
from parsit.types import InputError, UsageError

if TYPE_CHECKING:
    from parsit.data.containers import RecordSpan
    from parsit.data.dataset import DataSet
    from parsit.data.records import DataFile
    from parsit.eval.data_show import Shown
    from parsit.eval.data_stats import SetStats
    from parsit.processing.processor import ParsitProcessor


# Tokens of a pack for a model's folder that does not say how it was trained.
_LENGTH_OF_OTHERS = 4096


def show(argv: list[str]) -> int:
    """Run `parsit data show …`."""
    parser = Parser("parsit data show", "Write a page of samples as a model gets them: tiles, tokens, what is learnt.")
    option: Callable[..., Any] = parser.add_argument
    _common_options(option)
    option("--n", type=int, default=20, metavar="N", help="samples on the page")
    option("--random", type=int, metavar="SEED", help="choose them at random, instead of the first")
    option("--out", metavar="FILE", required=True, help="the page, .html")
    options = parser.parse_args(argv)
    if options.n < 1:
        raise UsageError(f"--n is {options.n}: it must be at least 1")
    _require_page_place(options)
    quiet_libraries()
    processor, limit = processor_of(options.model), max_length_of(options.model, options.model_max_length)
    from parsit.eval.data_show import page

    shown: list[Shown] = []
    with bar("samples", options.n) as advance:
        for one in _chosen(options, processor, limit):
            shown.append(one)
            advance(1)
    if not shown:
        raise InputError(f"{', '.join(options.files)}: no records to show")
    bad = sum(bool(one.error) for one in shown)
    how = "the first" if options.random is None else f"chosen at random (seed {options.random})"
    notes = [f"{len(shown)} samples of {', '.join(options.files)}, {how}, as {options.model} sees them."]
    notes += [f"The longest sample may have {limit:,} tokens."] if limit else []
    notes += [f"{bad} of them would not be trained on."] if bad else []
    path = write_whole(Path(options.out), page("Samples", shown, notes))
    print(f"{len(shown)} samples, {bad} with a fault: {path}")
    return 0


def _chosen(options: Any, processor: ParsitProcessor, limit: int | None) -> Iterator[Shown]:
    from parsit.data.faults import DataFault
    from parsit.data.records import DataFile
    from parsit.data.sources import read_sources
    from parsit.eval.data_show import show, show_fault

    sources = read_sources(options.files, options.image_folder)
    files = [DataFile.of(source.path, source.image_folder, options.format) for source in sources]
    for file, span in _spans(files, options):
        try:
            sample = file.sample(span)
        except DataFault as fault:
            yield show_fault(fault)
        else:
            yield show(sample, processor, limit)


def _spans(files: list[DataFile], options: Any) -> Iterator[tuple[DataFile, RecordSpan]]:
    """Where the chosen records lie: the first of all files, or some at random in the files' order."""
    import random
    from itertools import islice

    every = ((file, span) for file in files for span in file.container.scan(file.path))
    if options.random is None:
        yield from islice(every, options.n)
        return
    places = list(every)
    chosen = random.Random(options.random).sample(range(len(places)), min(options.n, len(places)))
    yield from (places[number] for number in sorted(chosen))


def stats(argv: list[str]) -> int:
    """Run `parsit data stats …`."""
    parser = Parser("parsit data stats", "Lengths, tiles, and how full packs and batches would be, for each set.")
    option: Callable[..., Any] = parser.add_argument
    _common_options(option)
    option("--batch_size", type=int, default=8, metavar="N", help="samples of a padded batch")
    option("--out", metavar="FILE", help="a page with plots, .html")
    option("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        raise UsageError(f"--batch_size is {options.batch_size}: it must be at least 1")
    if options.out:
        _require_page_place(options)
    quiet_libraries()
    processor = processor_of(options.model)
    limit = max_length_of(options.model, options.model_max_length) or _LENGTH_OF_OTHERS
    from parsit.eval.data_stats import page

    sets = _sets(options, processor, limit)
    numbers = [made for made, _ in sets]
    if options.json:
        print(json.dumps([one.as_json() for one in numbers], indent=2))
    else:
        _print(numbers)
    empty = [f"{made.name}: {data.why_empty}" for made, data in sets if data.why_empty]
    for line in empty:
        say(line)
    if options.out:
        notes = [
            *empty,
            f"As {options.model} counts them: packs and samples of at most {limit:,} tokens, batches of "
            f"{options.batch_size} samples of like length.",
        ]
        say(f"page: {write_whole(Path(options.out), page('The data in numbers', sets, notes))}")
    return 0


def _sets(options: Any, processor: ParsitProcessor, max_length: int) -> list[tuple[SetStats, DataSet]]:
    from parsit.data.dataset import DataLimits, open_data
    from parsit.data.sources import read_sources
    from parsit.eval.data_stats import stats_of

    # Nothing is trained here: whatever is bad is counted, and the rest described.
    limits = DataLimits(max_length, max_bad_fraction=1.0, may_leave_nothing=True)
    sets = []
    with bars("counting") if not options.json else nullcontext() as advance:
        for source in read_sources(options.files, options.image_folder):
            data = open_data([source], processor, limits, format_name=options.format, on_progress=advance)
            sets.append((stats_of(source.name, data, max_length, options.batch_size), data))
    return sets


def _print(sets: list[SetStats]) -> None:
    columns = ("set", "records", "samples", "images", "tokens", "mean", "50 %", "90 %", "99 %", "longest", "learnt",
               sets[0].unit, "packs full", "batches full")  # fmt: skip
    rows = [
        (
            *(one.name, f"{one.records:,}", f"{one.samples:,}", f"{one.images:,}", f"{one.tokens.total:,}"),
            *(f"{one.tokens.mean:.1f}", *(f"{value:,}" for value in one.tokens.percentiles), f"{one.tokens.largest:,}"),
            *(f"{one.learnt.total:,}", f"{one.tiles.total:,}", f"{one.fill_packed:.1%}", f"{one.fill_padded:.1%}"),
        )
        for one in sets
    ]
    console = Console()
    if console.is_terminal:
        table = Table(*columns)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
        for row in (columns, *rows):
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    for one in sets:
        if one.set_aside:
            print(f"{one.name}: set aside: " + ", ".join(f"{code} {count:,}" for code, count in one.set_aside.items()))


def _common_options(option: Callable[..., Any]) -> None:
    option("files", nargs="+", metavar="FILE", help="data files, {a,b}.json, or a mixture (.yaml)")
    add_model_options(option, default="tiny")
    option("--image_folder", metavar="DIR", help="where image paths start; by default each file's own folder")
    option("--format", default="auto", metavar="NAME", help="the records' format; auto: each record's own")


def _require_page_place(options: Any) -> None:
    """Refuse an `--out` that holds data, images or anything else but an older page. Raises `UsageError`."""
    from parsit.data.sources import files_read, read_sources

    out = Path(options.out)
    refuse_inputs(out, files_read(options.files, read_sources(options.files, options.image_folder)))
    refuse_other_content(out, _is_page, "page")


def _is_page(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a page of HTML."""
    return head.lstrip().lower().startswith((b"<!doctype html", b"<html"))
