"""Look at every record of some data files and say what is wrong, without stopping at the first fault.

Files are walked once for their records' places; then several processes look at the records, and the results come in
the files' order whatever their number. Only places (24 bytes a record), hashes of ids (8 bytes) and counts stay in
memory; findings go to a file as they come. An image's file is opened where an image folder was named: without one the
paths may be meant from anywhere, and the report says how many were not looked at. Images inside the data are looked
at in any case.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from parsit.data.containers import Container, Span, container_of
from parsit.data.faults import FAULTS, DataFault, Finding, Level
from parsit.data.files import image_root
from parsit.data.formats import format_named
from parsit.data.look import Look, Rules, Task, look_at, sample_at
from parsit.data.parallel import in_order
from parsit.data.selection import Source
from parsit.files import WholeFile
from parsit.types import Sample

EXAMPLES_PER_CODE = 3
_RECORDS_PER_TASK = 128


@dataclass(slots=True)
class Report:
    """What was found. `counts`: findings by code; `formats`: good records by format.

    `examples`: the first findings of each code. `images_not_looked_at`: paths, without an image folder to find them.
    """

    files: int = 0
    samples: int = 0
    good: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Finding]] = field(default_factory=dict)
    images: int = 0
    images_not_looked_at: int = 0

    @property
    def set_aside(self) -> int:
        """Samples that would not be trained on."""
        return self.samples - self.good

    def number(self, level: Level) -> int:
        """How many findings there are of a level; those of the level `fault` include files that cannot be read."""
        return sum(count for code, count in self.counts.items() if FAULTS[code].level == level)

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        self.counts[finding.code] += 1
        examples = self.examples.setdefault(finding.code, [])
        if len(examples) < EXAMPLES_PER_CODE:
            examples.append(finding)


@dataclass(frozen=True, slots=True)
class _File:
    """One data file: `spans` `uint64[records, 3]`, its container (None: there is none), and what stopped the walk."""

    source: Source
    container: Container | None
    spans: np.ndarray
    stopped: DataFault | None


def validate_files(
    paths: Sequence[str | Path],
    image_folder: str | Path | None = None,
    format_name: str = "auto",
    deep: bool = False,
    check_images: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    workers: int = 1,
    findings_file: Path | None = None,
    count: Callable[[Sample], int] | None = None,
    model_max_length: int = 0,
) -> Report:
    """Validate data files; see `validate_sources` for what it does, takes and raises."""
    sources = [Source(Path(path), Path(image_folder) if image_folder is not None else None) for path in paths]
    rules = Rules(format_name, deep, check_images, count, model_max_length)
    return validate_sources(sources, rules, on_progress, workers=workers, findings_file=findings_file)


def validate_sources(
    sources: Sequence[Source],
    rules: Rules,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    workers: int = 1,
    findings_file: Path | None = None,
) -> Report:
    """Validate all records of some sources, whatever their strategies and weights; the same file only once.

    Args:
        sources: data files with their image folders.
        rules: what is asked of a record.
        on_progress: called with (records looked at since the last call, records in all).
        workers: processes. More than one needs `rules` that can be pickled.
        findings_file: a JSONL file for all findings, in the files' order; duplicate ids, which are known only at the
            end, come last.

    Raises:
        InputError: an image folder that does not exist.
        DataFault: `format-unknown`: there is no format of that name.
        ParsitError: the findings cannot be written, or a worker process was killed.
    """
    format_named(rules.format_name)
    once = {(source.path, source.image_folder): source for source in sources}
    for source in once.values():
        if source.image_folder is not None:
            image_root(source.path, source.image_folder)
    files = [_walk(source) for source in once.values()]
    report = Report(files=len(files))
    with ExitStack() as stack:
        output = stack.enter_context(WholeFile(findings_file)) if findings_file is not None else None
        hashes: list[np.ndarray] = []
        for finding in _findings(files, rules, workers, report, hashes, on_progress):
            _note(finding, report, output)
        every_hash = np.concatenate([np.zeros(0, np.uint64), *hashes])
        for finding in _duplicates(files, every_hash, rules.format_name):
            _note(finding, report, output)
        if output is not None:
            output.keep()
    return report


def _note(finding: Finding, report: Report, output: WholeFile | None) -> None:
    report.add(finding)
    if output is not None:
        output.file.write(json.dumps(finding.as_json()).encode() + b"\n")


def _walk(source: Source) -> _File:
    """Where the records of a file lie."""
    flat = array("Q")
    container = stopped = None
    try:
        container = container_of(source.path)
        if not (source.path.is_file() or source.path.is_dir()):  # a pipe would be waited for, for ever
            raise DataFault("file-unreadable", "not a regular file", str(source.path))
        for span in container.scan(source.path):
            flat.extend((span.number, span.offset, span.size))
        if not flat:
            stopped = DataFault("file-empty", "no record in it", str(source.path))
    except DataFault as fault:
        stopped = fault if fault.place else fault.at(str(source.path))
    return _File(source, container, np.frombuffer(flat, np.uint64).reshape(-1, 3), stopped)


def _findings(
    files: Sequence[_File],
    rules: Rules,
    workers: int,
    report: Report,
    hashes: list[np.ndarray],
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Finding]:
    """All findings but duplicate ids, in order; counts go into `report`, hashes of ids into `hashes`."""
    total = sum(len(file.spans) for file in files)
    workers = max(1, min(workers, -(-total // _RECORDS_PER_TASK)))
    looks = in_order(partial(look_at, rules=rules), (task for file in files for task in _tasks(file)), workers)
    for file in files:
        for _ in range(0, len(file.spans), _RECORDS_PER_TASK):
            look: Look = next(looks)
            report.samples += look.samples
            report.good += look.good
            report.formats += look.formats
            report.images += look.images
            report.images_not_looked_at += look.images_not_looked_at
            hashes.append(look.id_hashes)
            yield from look.findings
            if on_progress is not None:
                on_progress(look.samples, total)
        if file.stopped is not None:
            yield file.stopped.finding()


def _tasks(file: _File) -> Iterator[Task]:
    for start in range(0, len(file.spans), _RECORDS_PER_TASK):
        assert file.container is not None, "what has records has a container"
        yield file.source, file.container, file.spans[start : start + _RECORDS_PER_TASK]


def _duplicates(files: Sequence[_File], hashes: np.ndarray, format_name: str) -> Iterator[Finding]:
    """A note for each sample whose id another one before it has, in order.

    Two different ids of a million share 64 bits by chance once in forty million data sets.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    again = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)) + 1
    rows, firsts = order[again], order[np.searchsorted(ordered, ordered[again])]
    starts = np.cumsum([0, *(len(file.spans) for file in files)])
    for row, first_row in sorted(zip(rows.tolist(), firsts.tolist(), strict=True)):
        place, sample_id = _whose(files, starts, row, format_name)
        first, _ = _whose(files, starts, first_row, format_name)
        yield Finding("id-duplicate", place, f"{first} has the same id", sample_id)


def _whose(files: Sequence[_File], starts: np.ndarray, row: int, format_name: str) -> tuple[str, str]:
    """Place and id of a record by its number in all files."""
    number = int(np.searchsorted(starts, row, side="right")) - 1
    file = files[number]
    assert file.container is not None, "what has records has a container"
    span = Span(*file.spans[row - starts[number]].tolist())
    place = file.container.place(file.source.path, span)
    return place, sample_at(file.source, file.container, span, place, format_name)[0].id
