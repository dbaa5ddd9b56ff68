"""What a run reads: the good samples of some data sources, with their lengths, and what was set aside.

Samples are read by their place when they are needed; only lengths are held in memory. Over-long samples are decided
upon here, because that depends on the run's limits and not on the files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from parsit.data.faults import FAULTS, DataFault, Finding
from parsit.data.index import FileIndex, open_index
from parsit.data.records import DataFile, duplicate_ids
from parsit.data.selection import Source, select
from parsit.files import write_whole
from parsit.processing.processor import ParsitProcessor
from parsit.types import InputError, Sample

OverLong = Literal["error", "skip", "truncate"]
# Codes that set something aside without a broken record.
_NO_BAD_RECORD = ("over-long", "too-many-tiles", "file-empty")


@dataclass(frozen=True, slots=True)
class DataLimits:
    """What a sample may be, and how much of the data may be bad.

    Args:
        model_max_length: the longest sample in tokens.
        over_long: what becomes of a longer one: stop the run, set it aside, or cut it at a turn's end.
        max_tiles: the most tiles of a sample; 0: no limit.
        max_bad_fraction: the share of records set aside for faults above which nothing is trained.
        may_leave_nothing: whether data of which no good sample is within the limits are an empty set, not an error.
    """

    model_max_length: int
    over_long: OverLong = "skip"
    max_tiles: int = 0
    max_bad_fraction: float = 0.001
    may_leave_nothing: bool = False


class SampleStore(Sequence[Sample]):
    """Samples on disk, each read when it is asked for.

    Args:
        files: the indexes of the data files.
        file_numbers: `int[samples]`, which file a sample lies in.
        rows: `int[samples]`, its row there.
        keep_turns: `int[samples]`, how many turns of an over-long sample are kept; 0: all.
    """

    def __init__(
        self, files: Sequence[FileIndex], file_numbers: np.ndarray, rows: np.ndarray, keep_turns: np.ndarray
    ) -> None:
        self.files, self.file_numbers, self.rows, self.keep_turns = tuple(files), file_numbers, rows, keep_turns

    def __len__(self) -> int:
        """Number of samples; a sample that an epoch sees twice counts twice."""
        return len(self.rows)

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]  (no slices: nothing asks for them)
        """Sample `number`.

        Raises:
            DataFault: the file changed since it was indexed.
        """
        file = self.files[self.file_numbers[number]]
        sample = file.data.sample(file.span(int(self.rows[number])))
        kept = int(self.keep_turns[number])
        return replace(sample, turns=sample.turns[:kept], other_answers=()) if kept else sample


@dataclass(frozen=True)
class DataSet:
    """Samples and their lengths.

    `num_tokens`, `num_tiles`: `int64[samples]`. `set_aside`: how many records each fault code took, each record counted
    under its first fault, and files with something wrong as a whole; `noted`: what is worth knowing of the others.
    `num_records`: all records that were looked at. `findings`: everything that was found, in order. `unit`: what
    `num_tiles` counts, `tiles` or, under native resolution, `patches`. `why_empty`: where no sample is left, the reason
    and what to do.
    """

    samples: Sequence[Sample]
    num_tokens: np.ndarray
    num_tiles: np.ndarray
    num_records: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    findings: Callable[[], Iterator[Finding]] = lambda: iter(())
    unit: str = "tiles"
    why_empty: str = ""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.num_tokens)

    @property
    def num_bad(self) -> int:
        """Records that were set aside because they are broken, not because the run's limits leave them out."""
        return sum(count for code, count in self.set_aside.items() if code not in _NO_BAD_RECORD)

    @cached_property
    def digest(self) -> bytes:
        """A digest of which samples these are, in which order: of their lengths and ids or places."""
        digest = hashlib.sha256(np.ascontiguousarray(self.num_tokens, np.int64).tobytes())
        if isinstance(self.samples, SampleStore):
            for number, file in enumerate(self.samples.files):
                rows = self.samples.rows[self.samples.file_numbers == number]
                digest.update(file.column("id_hash")[rows].tobytes())
            digest.update(self.samples.keep_turns.tobytes())
        else:
            for sample in self.samples:
                digest.update(sample.id.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def describe(self) -> str:
        """How many samples there are, how long, and what was set aside, in a line."""
        text = (
            f"{len(self):,} samples, {int(self.num_tokens.sum()):,} tokens, {int(self.num_tiles.sum()):,} {self.unit}"
        )
        for words, counts in (("set aside", self.set_aside), ("noted", self.noted)):
            if counts:
                text += f"; {words}: " + ", ".join(f"{code} {count:,}" for code, count in counts.most_common())
        return text

    def write_findings(self, path: Path) -> None:
        """All that was set aside or noted, one JSON object a line."""
        _write_findings(path, self.findings())


def _write_findings(path: Path, findings: Iterable[Finding]) -> Path:
    return write_whole(path, "".join(json.dumps(finding.as_json()) + "\n" for finding in findings))


def in_memory(samples: Sequence[Sample], processor: ParsitProcessor, model_max_length: int) -> DataSet:
    """A data set of samples that are there already.

    Raises:
        InputError: an image without a readable header, or a sample that is too long, with its place.
    """
    counts = np.zeros((len(samples), 2), np.int64)
    for row, sample in enumerate(samples):
        try:
            counts[row] = processor.count(sample.turns)
        except InputError as error:
            raise InputError(f"{sample.place}: {error}") from error
        if counts[row, 0] > model_max_length:
            raise over_long(sample.place, int(counts[row, 0]), model_max_length)
    return DataSet(samples, counts[:, 0], counts[:, 1], len(samples), unit=processor.image_processor.layout.unit)


def open_data(
    sources: Sequence[Source],
    processor: ParsitProcessor,
    limits: DataLimits,
    *,
    image_folder: str | Path | None = None,
    format_name: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    on_progress: Callable[[Path, int, int], None] | None = None,
    findings_file: Path | None = None,
) -> DataSet:
    """The good samples of data sources; indexes are built where they are missing.

    Args:
        sources: the data files and what is taken of each.
        processor: the model's processor.
        limits: what a sample may be.
        image_folder: where image paths start; None: each source's own, or its file's folder.
        format_name: the records' format; `auto`: detect.
        seed: decides what `random` strategies and weights draw.
        workers: processes for indexing; None: one for each core.
        on_progress: called with (file, records done since the last call, records in the file).
        findings_file: where to list what was found if the data is refused; None: it stays beside the indexes.

    Raises:
        InputError: too much is bad, nothing is left, or a sample is too long and `over_long` is `error`.
    """
    files: dict[DataFile, FileIndex] = {}
    chosen: list[tuple[DataFile, np.ndarray]] = []
    for source in sources:
        data = DataFile.of(source.path, source.image_folder or image_folder, format_name)
        if data not in files:
            tell = (lambda done, total, path=source.path: on_progress(path, done, total)) if on_progress else None
            files[data] = open_index(data, processor, workers, tell)
        chosen.append((data, select(source, len(files[data]), seed)))
    _require_good(list(files.values()), limits.max_bad_fraction, findings_file)
    numbers = {data: number for number, data in enumerate(files)}
    file_numbers = np.concatenate([np.full(len(rows), numbers[data], np.uint32) for data, rows in chosen])
    rows = np.concatenate([rows.astype(np.uint32) for _, rows in chosen])
    store = SampleStore(list(files.values()), file_numbers, rows, np.zeros(len(rows), np.uint16))
    indexes = [files[data] for data, _ in chosen]
    return _within_limits(store, [rows for _, rows in chosen], indexes, processor, limits, findings_file)


def _require_good(files: Sequence[FileIndex], max_bad_fraction: float, findings_file: Path | None) -> None:
    bad = sum((file.fault_counts for file in files), Counter[str]())
    del bad["file-empty"]
    records = sum(file.num_records for file in files)
    if bad.total() > max_bad_fraction * records:
        first = next(finding for file in files for finding in file.findings() if finding.code in bad)
        by_code = ", ".join(f"{code} {count:,}" for code, count in bad.most_common())
        listed = ", ".join(str(file.findings_file) for file in files if file.fault_counts)
        if findings_file is not None:
            listed = str(_write_findings(findings_file, chain(*(file.findings() for file in files))))
        raise InputError(
            f"{bad.total():,} of {records:,} records are bad ({by_code}), more than --max_bad_fraction "
            f"{max_bad_fraction:g} allows; first: {first.place}: {first.detail}; all are listed in {listed}: "
            "mend them, or raise the limit to train without them"
        )


def _within_limits(
    store: SampleStore,
    rows: Sequence[np.ndarray],
    files: Sequence[FileIndex],
    processor: ParsitProcessor,
    limits: DataLimits,
    findings_file: Path | None,
) -> DataSet:
    """The samples that the limits allow; others are cut or set aside."""
    num_tokens = _gather("num_tokens", files, rows)
    num_tiles = _gather("num_tiles", files, rows)
    unit = processor.image_processor.layout.unit
    findings: list[Finding] = []
    keep = np.ones(len(store), bool)
    for number in np.flatnonzero(num_tokens > limits.model_max_length):
        sample = store[int(number)]
        fault = over_long(sample.place, int(num_tokens[number]), limits.model_max_length)
        if limits.over_long == "error":
            raise fault
        cut = _cut(sample, processor, limits.model_max_length) if limits.over_long == "truncate" else None
        if cut is None:
            keep[number] = False
            findings.append(fault.finding(sample.id))
        else:
            store.keep_turns[number], num_tokens[number], num_tiles[number] = cut
            detail = f"{fault.detail}; kept {cut[0]} of {len(sample.turns)} turns, {cut[1]} tokens"
            findings.append(Finding("over-long-truncated", sample.place, detail, sample.id))
    if limits.max_tiles:
        for number in np.flatnonzero(keep & (num_tiles > limits.max_tiles)):
            sample = store[int(number)]
            keep[number] = False
            detail = f"{num_tiles[number]} {unit}, more than --max_tiles_per_pack {limits.max_tiles}"
            findings.append(Finding("too-many-tiles", sample.place, detail, sample.id))
    num_records = sum(file.num_records for file in store.files)
    why_empty = "" if keep.any() else _nothing_left(num_records, num_tokens, limits)
    if why_empty and not (limits.may_leave_nothing and len(num_tokens)):
        if findings_file is not None:
            _write_findings(findings_file, chain(*(file.findings() for file in store.files), findings))
        raise InputError(why_empty)
    codes = Counter(finding.code for finding in findings)
    cut = Counter({code: count for code, count in codes.items() if FAULTS[code].level == "note"})
    noted = sum((file.note_counts for file in store.files), cut)
    hashes = np.concatenate([file.column("id_hash") for file in store.files])
    duplicates = len(hashes) - len(np.unique(hashes))
    if duplicates:
        noted["id-duplicate"] = duplicates
    kept = SampleStore(store.files, store.file_numbers[keep], store.rows[keep], store.keep_turns[keep])
    return DataSet(
        kept,
        num_tokens[keep],
        num_tiles[keep],
        num_records,
        sum((file.fault_counts for file in store.files), codes - cut),
        noted,
        lambda: chain(*(file.findings() for file in store.files), findings, _duplicates(store.files, hashes)),
        unit,
        why_empty,
    )


def _nothing_left(num_records: int, num_tokens: np.ndarray, limits: DataLimits) -> str:
    """Why no sample is left, and what to do."""
    said = f"no sample is left of {num_records:,} records"
    if not len(num_tokens):
        return f"{said}: the files hold no good one; `parsit data validate` says why"
    shortest = int(num_tokens.min())
    if shortest > limits.model_max_length:
        return (
            f"{said}: the shortest has {shortest} tokens, more than --model_max_length {limits.model_max_length}: "
            f"raise it to {shortest} or more, or train on smaller pieces (`parsit data synth --unit line`)"
        )
    return f"{said}: none is within --max_tiles_per_pack {limits.max_tiles}: raise it, or scale images down"


def _duplicates(files: Sequence[FileIndex], hashes: np.ndarray) -> Iterator[Finding]:
    """A note for each good sample whose id an earlier sample has."""
    starts = np.cumsum([0, *(len(file) for file in files)])

    def whose(row: int) -> tuple[str, str]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        sample = files[number].data.sample(files[number].span(int(row - starts[number])))
        return sample.place, sample.id

    return duplicate_ids(hashes, whose)


def _gather(name: str, files: Sequence[FileIndex], rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([f.column(name)[chosen].astype(np.int64) for f, chosen in zip(files, rows, strict=True)])


def over_long(place: str, num_tokens: int, limit: int) -> DataFault:
    """A sample that has more tokens than the limit."""
    return DataFault("over-long", f"{num_tokens} tokens, more than --model_max_length {limit}", place)


def _cut(sample: Sample, processor: ParsitProcessor, limit: int) -> tuple[int, int, int] | None:
    """(turns, tokens, tiles) of the longest beginning that fits and ends with an answer; None: there is none.

    Whole turns alone are kept, so that no image is ever cut.
    """
    length, _ = processor.measure(sample.turns)
    for kept in range(len(sample.turns) - 1, 0, -1):
        turn = sample.turns[kept - 1]
        if length.ends[kept - 1] <= limit and turn.role == "assistant" and turn.text.strip():
            return kept, length.ends[kept - 1], processor.count(sample.turns[:kept])[1]
    return None
