"""Check every record of some data files and say what is wrong, without stopping at the first fault.

Files are walked once for their records' places; then several processes check the records, and the results come in the
files' order whatever their number. Only places (24 bytes a record), hashes of ids (8 bytes) and counts stay in memory;
findings go to a file as they come. The checks are those of the index (`parsit.data.records`), so that what is good
here is what a run trains on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from parsit.data.containers import RecordSpan
from parsit.data.faults import FAULTS, Finding, Level
from parsit.data.formats import format_named
from parsit.data.parallel import in_order
from parsit.data.records import Checked, Checks, DataFile, Walk, duplicate_ids, id_hash
from parsit.data.selection import Source
from parsit.files import WholeFile
from parsit.types import InputError, Sample

EXAMPLES_PER_CODE = 3
_RECORDS_PER_TASK = 128


@dataclass(slots=True)
class Report:
    """What was found. `counts`: findings by code; `formats`: good records by format.

    `examples`: the first findings of each code. `images`: how many were looked at.
    """

    files: int = 0
    samples: int = 0
    good: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Finding]] = field(default_factory=dict)
    images: int = 0

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
class Rules:
    """What is asked of a record.

    Args:
        format_name: the records' format; `auto`: each record's own.
        deep: decode every image, instead of its header and its end alone.
        check_images: look at images.
        count: a sample's length in tokens; None: lengths are not asked for.
        model_max_length: the longest sample that `count` may give.
    """

    format_name: str = "auto"
    deep: bool = False
    check_images: bool = True
    count: Callable[[Sample], int] | None = None
    model_max_length: int = 0


@dataclass(slots=True)
class _Tally:
    """What was found in some records. `id_hashes`: `uint64[records]`, 0 for a record that is no sample."""

    id_hashes: np.ndarray
    good: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    images: int = 0


_Task = tuple[DataFile, np.ndarray]


def validate_files(
    paths: Sequence[str | Path],
    image_folder: str | Path | None = None,
    format_name: str = "auto",
    deep: bool = False,
    check_images: bool = True,
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
    files = list(dict.fromkeys(DataFile.of(source.path, source.image_folder, rules.format_name) for source in sources))
    walks = [file.walk() for file in files]
    report = Report(files=len(files))
    with ExitStack() as stack:
        output = stack.enter_context(WholeFile(findings_file)) if findings_file is not None else None
        hashes: list[np.ndarray] = []
        for finding in _findings(files, walks, rules, workers, report, hashes, on_progress):
            _note(finding, report, output)
        for finding in _duplicates(files, walks, np.concatenate([np.zeros(0, np.uint64), *hashes])):
            _note(finding, report, output)
        if output is not None:
            output.keep()
    return report


def _note(finding: Finding, report: Report, output: WholeFile | None) -> None:
    report.add(finding)
    if output is not None:
        output.file.write(json.dumps(finding.as_json()).encode() + b"\n")


def _findings(
    files: Sequence[DataFile],
    walks: Sequence[Walk],
    rules: Rules,
    workers: int,
    report: Report,
    hashes: list[np.ndarray],
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Finding]:
    """All findings but duplicate ids, in order; counts go into `report`, hashes of ids into `hashes`."""
    total = sum(len(walk.spans) for walk in walks)
    workers = max(1, min(workers, -(-total // _RECORDS_PER_TASK)))
    tasks = (task for file, walk in zip(files, walks, strict=True) for task in _tasks(file, walk))
    with closing(in_order(partial(_check, rules=rules), tasks, workers)) as tallies:
        for walk in walks:
            for _ in range(0, len(walk.spans), _RECORDS_PER_TASK):
                tally = next(tallies)
                report.samples += len(tally.id_hashes)
                report.good += tally.good
                report.formats += tally.formats
                report.images += tally.images
                hashes.append(tally.id_hashes)
                yield from tally.findings
                if on_progress is not None:
                    on_progress(len(tally.id_hashes), total)
            if walk.fault is not None:
                yield walk.fault.finding()


def _tasks(file: DataFile, walk: Walk) -> Iterator[_Task]:
    for start in range(0, len(walk.spans), _RECORDS_PER_TASK):
        yield file, walk.spans[start : start + _RECORDS_PER_TASK]


def _check(task: _Task, rules: Rules) -> _Tally:
    """Check the records of one file whose places are `uint64[records, 3]`."""
    file, spans = task
    checks = Checks(file, rules.deep, rules.check_images)
    tally = _Tally(np.zeros(len(spans), np.uint64))
    for row, numbers in enumerate(spans.tolist()):
        checked = checks(RecordSpan(*numbers))
        if checked.record is not None:
            tally.id_hashes[row] = id_hash(checked.record.sample.id)
            tally.formats[checked.record.format.name] += 1
            if rules.count is not None and checked.first_fault is None:
                checked.findings += _too_long(checked, checked.record.sample, rules.count, rules.model_max_length)
        tally.good += checked.first_fault is None
        tally.findings += checked.findings
        tally.images += checked.num_looked_at
    return tally


def _too_long(checked: Checked, sample: Sample, count: Callable[[Sample], int], limit: int) -> list[Finding]:
    try:
        length = count(sample)
    except InputError as error:
        return [Finding("image-unreadable", checked.place, str(error), sample.id)]
    if length <= limit:
        return []
    return [Finding("over-long", checked.place, f"{length:,} tokens, the limit is {limit:,}", sample.id)]


def _duplicates(files: Sequence[DataFile], walks: Sequence[Walk], hashes: np.ndarray) -> Iterator[Finding]:
    """A note for each sample whose id an earlier sample has."""
    starts = np.cumsum([0, *(len(walk.spans) for walk in walks)])

    def whose(row: int) -> tuple[str, str]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        sample = files[number].sample(RecordSpan(*walks[number].spans[row - starts[number]].tolist()))
        return sample.place, sample.id

    return duplicate_ids(hashes, whose)
