"""A whole data set: pages made by several processes, written in the order of their numbers, all or nothing.

Decides that worker processes write images and return their records, and that this process alone writes
the JSONL files in page order: the bytes do not depend on the number of workers. Everything goes into
a hidden folder beside the target, which is renamed at the end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from parsit.data.parallel import in_order
from parsit.files import whole_folder
from parsit.synth.fonts import check_fonts, families_in
from parsit.synth.omnidocbench import TRUTH_FILE, truth_file
from parsit.synth.records import PageResult, make_page
from parsit.synth.settings import SynthSettings
from parsit.synth.split import SPLITS
from parsit.types import InputError, ParsitError

SUMMARY_FILE = "synth.json"
PAGES_PER_TASK = 4
VERSIONED = ("parsit", "typst", "pypdfium2", "pillow", "numpy")


@dataclass(frozen=True, slots=True)
class SynthCounts:
    """How many pages and records a run made, in all, by kind and by split."""

    pages: int
    records: int
    pages_by_kind: dict[str, int]
    pages_by_split: dict[str, int]
    records_by_split: dict[str, int]


def synthesise(settings: SynthSettings, on_page: Callable[[PageResult], None] = lambda _: None) -> SynthCounts:
    """Make a data set in `settings.out`; `on_page` hears of each page, in order.

    Raises:
        UsageError, InputError: what `check_run` refuses.
        ParsitError: the data cannot be written, or a worker process was killed.
    """
    check_run(settings)
    try:
        return make_data_set(settings, on_page)
    except OSError as error:
        raise ParsitError(f"cannot write {settings.out}: {error}") from error


def check_run(settings: SynthSettings) -> None:
    """All that can be refused before the first page.

    Raises:
        UsageError: a setting makes no sense.
        InputError: the target exists, the `synth` extra is missing, or a folder of fonts has none.
    """
    settings.check()
    check_fonts()
    if settings.fonts:
        families_in(settings.fonts)
    check_target(settings.out, settings.overwrite)


def make_data_set(settings: SynthSettings, on_page: Callable[[PageResult], None]) -> SynthCounts:
    """Write everything into a hidden folder beside the target and rename it; leave nothing else behind."""
    with whole_folder(settings.out, synced=False, replaces=True) as folder:
        counts = write_pages(settings, folder, on_page)
        write_summary(settings, counts, folder / SUMMARY_FILE)
    return counts


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a target that exists; with `overwrite`, one that is not a data set made here.

    Raises:
        InputError: as above.
    """
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} exists: choose another --out, or add --overwrite to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / SUMMARY_FILE).is_file()):
        raise InputError(
            f"{out} has no {SUMMARY_FILE}, so it is not replaced: remove it yourself or choose another --out"
        )


def write_pages(settings: SynthSettings, folder: Path, on_page: Callable[[PageResult], None]) -> SynthCounts:
    """Make all pages and write their records to one file per split, and their truth for OmniDocBench to another."""
    kinds, pages, records = Counter[str](), Counter[str](), Counter[str]()
    with ExitStack() as stack:
        files = {
            split: stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for split in SPLITS
        }
        truths = {
            split: stack.enter_context(truth_file(folder / TRUTH_FILE.format(split=split)))
            for split in SPLITS
            if settings.omnidocbench
        }
        # Closed before the folder is removed: a process that still wrote into it would leave something behind.
        for result in stack.enter_context(closing(page_results(settings, folder))):
            files[result.split].writelines(f"{line}\n" for line in result.lines)
            if settings.omnidocbench:
                truths[result.split](result.truth)
            kinds[result.kind] += 1
            pages[result.split] += 1
            records[result.split] += len(result.lines)
            on_page(result)
    by_kind = {kind: kinds[kind] for kind in settings.kinds}
    by_split = [{split: counter[split] for split in SPLITS} for counter in (pages, records)]
    return SynthCounts(pages.total(), records.total(), by_kind, *by_split)


def page_results(settings: SynthSettings, folder: Path) -> Generator[PageResult, None, None]:
    """The pages' results in order, made here (one worker) or by worker processes, which end when this is closed."""
    if settings.workers == 1:
        yield from map(partial(make_page, settings, folder), range(settings.pages))
        return
    starts = range(0, settings.pages, PAGES_PER_TASK)
    tasks = (range(start, min(start + PAGES_PER_TASK, settings.pages)) for start in starts)
    with closing(in_order(partial(make_pages, settings, folder), tasks, settings.workers)) as groups:
        for group in groups:
            yield from group


def make_pages(settings: SynthSettings, folder: Path, numbers: range) -> list[PageResult]:
    """One worker's task."""
    return [make_page(settings, folder, number) for number in numbers]


def write_summary(settings: SynthSettings, counts: SynthCounts, path: Path) -> None:
    """`synth.json`: the settings that shape the data, the versions that made it, and what it holds."""
    shaping = asdict(settings) | {"fonts": [one.name for one in families_in(settings.fonts)] if settings.fonts else []}
    for place_or_speed in ("out", "workers", "overwrite"):
        del shaping[place_or_speed]
    summary = {"settings": shaping, "versions": {name: version(name) for name in VERSIONED}, "counts": asdict(counts)}
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
