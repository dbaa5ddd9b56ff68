"""One way from a place in a data file to a sample, and the checks of a sample that everything shares.

Reading, indexing, validation and the pages that show data all go through `DataFile`, so that they cannot differ in
what a record means; validation and the index both ask `Checks`, so that what validation passes is what is trained on.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from parsit.data.containers import Container, RecordSpan, container_of
from parsit.data.faults import DataFault, Finding
from parsit.data.formats import Context, Format, format_named, recognise
from parsit.data.images import check_image
from parsit.types import FileSlice, ImageRef, InputError, Sample

# The words of Qwen's special tokens that ChatML and images are made of.
SPECIAL_TOKENS = re.compile(r"<\|(?:im_start|im_end|image_pad|vision_start|vision_end|endoftext)\|>")
# Questions about one page follow each other: its file is looked at once.
_FILES_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the records of a file lie, `uint64[records, 3]`, and what is wrong with the file as a whole."""

    spans: np.ndarray
    fault: DataFault | None = None


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record as a sample, the format that it is in, and its fields that the sample lacks."""

    sample: Sample
    format: Format
    not_carried: list[str]


@dataclass(frozen=True)
class DataFile:
    """A data file and how it is read: where image paths start, the name of its records' format (`auto`: each its own).

    Raises:
        DataFault: `format-unknown`, once a record is read.
    """

    path: Path
    root: Path
    format_name: str = "auto"

    @classmethod
    def of(cls, path: Path, image_folder: str | Path | None = None, format_name: str = "auto") -> DataFile:
        """A data file whose image paths start from a folder; None: from its own.

        Raises:
            InputError: the image folder does not exist.
        """
        return cls(path, image_root(path, image_folder), format_name)

    def __reduce__(self) -> tuple[type, tuple[Path, Path, str]]:
        """Pickle the three fields alone; another process looks the container up again."""
        return DataFile, (self.path, self.root, self.format_name)

    @cached_property
    def container(self) -> Container:
        """What reads the file; looked up once, not for each record. Raises `DataFault`."""
        return container_of(self.path)

    @cached_property
    def format(self) -> Format | None:
        """The records' format; None: each record's own. Raises `DataFault`."""
        return format_named(self.format_name)

    def walk(self) -> Walk:
        """Where all records lie, and what is wrong with the file as a whole."""
        flat, found = array("Q"), None
        try:
            for span in self.container.scan(self.path):
                flat.extend((span.number, span.offset, span.size))
            if not flat:
                found = DataFault("file-empty", "no record in it", str(self.path))
        except DataFault as fault:
            found = fault if fault.place else fault.at(str(self.path))
        return Walk(np.frombuffer(flat, np.uint64).reshape(-1, 3), found)

    def place(self, span: RecordSpan) -> str:
        """What messages call a record, such as `train.jsonl:12`."""
        return self.container.place(self.path, span)

    def read(self, span: RecordSpan, place: str = "") -> ReadRecord:
        """One record; `place` where it is known already.

        Raises:
            DataFault: what is wrong with it, with its place.
        """
        place = place or self.place(span)
        try:
            record = self.container.read(self.path, span)
        except DataFault as fault:
            raise fault.at(place) from fault
        format, sample, unread = recognise(record, Context(place, self.root), self.format)
        return ReadRecord(sample, format, unread)

    def sample(self, span: RecordSpan) -> Sample:
        """One record as a sample. Raises as `read`."""
        return self.read(span).sample


def image_root(path: Path, image_folder: str | Path | None) -> Path:
    """The folder that image paths of a data file start from.

    Raises:
        InputError: it was named and does not exist.
    """
    if image_folder is None:
        return path.parent
    if not Path(image_folder).is_dir():
        raise InputError(f"{image_folder}: no such image folder")
    return Path(image_folder)


def id_hash(name: str) -> int:
    """64 bits of a digest of a sample's id, the same in every process, never 0."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def duplicate_ids(hashes: np.ndarray, whose: Callable[[int], tuple[str, str]]) -> Iterator[Finding]:
    """A note for each sample whose id another one before it has, in order.

    Two different ids of a million share 64 bits by chance once in forty million data sets.

    Args:
        hashes: `uint64[samples]`, of the samples' ids; 0 for what is no sample.
        whose: place and id of a sample by its number.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    again = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)) + 1
    rows, firsts = order[again], order[np.searchsorted(ordered, ordered[again])]
    for row, first_row in sorted(zip(rows.tolist(), firsts.tolist(), strict=True)):
        place, sample_id = whose(row)
        yield Finding("id-duplicate", place, f"{whose(first_row)[0]} has the same id", sample_id)


@dataclass(slots=True)
class Checked:
    """One record and all that was found. `record`: None where it is no sample. `sizes`: (width, height) by image.

    `num_looked_at`: images that were looked at, good or bad.
    """

    span: RecordSpan
    place: str
    record: ReadRecord | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    num_looked_at: int = 0

    @property
    def first_fault(self) -> Finding | None:
        """Why the record is set aside; None: it is good."""
        if not self.findings:  # nearly all are so
            return None
        return next((finding for finding in self.findings if finding.level == "fault"), None)


class Checks:
    """What is asked of each record of a file, by validation and by the index alike.

    Args:
        file: the data file.
        deep: decode every image, instead of looking at its header and its end alone.
        images: look at images at all.
    """

    def __init__(self, file: DataFile, deep: bool = False, images: bool = True) -> None:
        self.file, self.deep, self.images = file, deep, images
        self._check_file = lru_cache(maxsize=_FILES_REMEMBERED)(check_image)

    def __call__(self, span: RecordSpan) -> Checked:
        """Read a record and look at its images; whatever is wrong is in the findings."""
        checked = Checked(span, self.file.place(span))
        try:
            record = self.file.read(span, checked.place)
        except DataFault as fault:
            checked.findings.append(fault.finding())
            return checked
        checked.record = record
        if self.images:
            self._look_at_images(record.sample, checked)
        checked.findings += _notes(record, checked.place)
        return checked

    def _look_at_images(self, sample: Sample, checked: Checked) -> None:
        for image in sample.images:
            checked.num_looked_at += 1
            try:
                checked.sizes.append(self._size_of(image))
            except DataFault as fault:
                checked.findings.append(fault.at(checked.place).finding(sample.id))

    def _size_of(self, image: ImageRef) -> tuple[int, int]:
        source = image.source
        if isinstance(source, Path):
            return self._check_file(source, self.file.root, self.deep)
        assert isinstance(source, (bytes, FileSlice))  # formats make no decoded images
        return check_image(source, deep=self.deep)


def _notes(record: ReadRecord, place: str) -> Iterator[Finding]:
    """What is worth knowing of a sample and changes nothing."""
    sample = record.sample
    if sample.turns[-1].role == "user":
        detail = f"turn {len(sample.turns) - 1} is the user's and has no answer"
        yield Finding("ends-with-user", place, detail, sample.id)
    for number, turn in enumerate(sample.turns):
        words = SPECIAL_TOKENS.findall(turn.text) if "<|" in turn.text else []
        if words:
            detail = f"turn {number} contains {', '.join(dict.fromkeys(words))}"
            yield Finding("special-token-in-text", place, detail, sample.id)
            break
    if record.not_carried:
        yield Finding("fields-not-carried", place, ", ".join(sorted(record.not_carried))[:200], sample.id)
