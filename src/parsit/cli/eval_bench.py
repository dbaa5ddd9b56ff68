"""`parsit eval [MODEL] --bench LAYOUT DIR`: read a benchmark's pages, have its own judge score them, show the table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from parsit.cli.console import bar, say
from parsit.cli.engines import is_address, make_engine
from parsit.files import refuse_inputs, write_whole
from parsit.types import Document, UsageError

if TYPE_CHECKING:
    from parsit.eval.bench import BenchFolder
    from parsit.eval.judge import BenchScores

RESULTS = "bench.json"


def bench(args: Any) -> int:
    """Run it; exit code 1 if a page could not be read."""
    from parsit.eval.bench import LAYOUTS, BenchFolder, Layout
    from parsit.eval.judge import check_judge

    layout, root = args.bench
    if layout not in LAYOUTS:
        raise UsageError(f"--bench {layout}: no such layout; known are {' and '.join(LAYOUTS)}")
    if layout != "olmocr" and (args.judge_python or args.candidates or args.out or not args.model):
        raise UsageError(f"--bench {layout} writes a model's readings, which its own package scores: give MODEL alone")
    folder = BenchFolder.open(Path(root), cast(Layout, layout))
    systems = candidates(folder, args.candidates or [])
    if args.out:
        refuse_inputs(Path(args.out) / RESULTS, [folder.root, *systems.values()])
    if args.judge_python:
        check_judge(args.judge_python)
    failures = read(args, folder) if args.model else ()
    if layout == "olmocr":
        judge(args, folder, systems)
    return 1 if failures else 0


def candidates(folder: BenchFolder, given: list[str]) -> dict[str, Path]:
    """The other systems' folders by their names.

    Raises:
        UsageError: a folder is none, lacks pages, or two would have one name.
    """
    from parsit.eval.bench import NAME, RAW_NAME

    systems: dict[str, Path] = {}
    for path in map(Path, given):
        name = path.resolve().name
        if name in (NAME, RAW_NAME, "pdfs", *systems):
            raise UsageError(f"--candidates {path}: the name {name!r} is taken in the table: rename the folder")
        missing = folder.missing(path)
        if missing:
            example = folder.reading(next(file for file in folder.files if file.name == missing[0]), 1)
            raise UsageError(
                f"--candidates {path} lacks {len(missing)} of {len(folder.files)} files, such as {example}"
            )
        systems[name] = path
    return systems


def read(args: Any, folder: BenchFolder) -> tuple[str, ...]:
    """Read all pages with the model, and say which could not be read."""
    from parsit.eval.bench import write_readings
    from parsit.hub import model_folder
    from parsit.parse.reader import Reader

    folder.check_target()
    model = Path(args.model) if is_address(args.engine) else model_folder(args.model)
    reader = Reader(make_engine(args.engine, args.model, args.device, args.batch_size))

    def parse(file: Path) -> Document:
        return reader.parse(file, max_new_tokens=args.max_new_tokens, on_error="keep")

    about = {"model": args.model, "checkpoint": model.name, "max_new_tokens": args.max_new_tokens}
    with bar("reading", len(folder.files)) as advance:
        done = write_readings(folder, parse, about, lambda: advance(1))
    for failure in done.failures:
        say(failure)
    say(f"read {done.pages} pages of {done.files} files, {len(done.failures)} failed, into {folder.root / 'parsit'}")
    return done.failures


def judge(args: Any, folder: BenchFolder, others: dict[str, Path]) -> None:
    """Have everything judged that is there, and show and write the scores."""
    from parsit.eval.bench import NAME, RAW_NAME
    from parsit.eval.judge import INSTALL, judge_folder

    own = {name: folder.root / name for name in (NAME, RAW_NAME) if (folder.root / name).is_dir()}
    systems = own | others
    if not systems:
        raise UsageError(f"nothing to judge in {folder.root}: give MODEL, --candidates, or both")
    if not args.judge_python:
        say(f"the readings are not scored, as no judge is named: {INSTALL}")
        return
    scores = judge_folder(folder.root, systems, args.judge_python)
    print_table(scores)
    if args.out:
        about = {"bench": folder.layout, "folder": str(folder.root), "model": args.model}
        content = json.dumps({"about": about, **asdict(scores)}, ensure_ascii=False) + "\n"
        say(f"wrote {write_whole(Path(args.out) / RESULTS, content)}")


def print_table(scores: BenchScores) -> None:
    """A row for each system: the score over all categories and of each, in percent, with its interval."""
    from rich.console import Console
    from rich.table import Table

    counts = scores.counts()
    table = Table("system", f"overall\n{sum(counts.values())} tests", *(f"{name}\n{n}" for name, n in counts.items()))
    for system in scores.systems:
        found = [system.overall, *(system.categories[name] for name in counts)]
        table.add_row(system.name, *(f"{100 * s.value:.1f}\n{100 * s.low:.0f}–{100 * s.high:.0f}" for s in found))
    # As wide as it needs to be where it goes into a file: a number that is cut is no number.
    console = Console()
    Console(width=None if console.is_terminal else 40 + 18 * (len(counts) + 2)).print(table)
    print(f"percent of tests passed, with 95 % intervals, by {scores.judge}; overall: the mean of the categories")
