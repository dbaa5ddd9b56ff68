"""A closer look at some records of one file: what validation does in each of its processes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from parsit.data.containers import Container, Span
from parsit.data.faults import DataFault, Finding
from parsit.data.files import image_root
from parsit.data.formats import Context, Format, detect, format_named, not_carried, read_record
from parsit.data.images import check_image
from parsit.data.selection import Source
from parsit.types import InputError, Sample
from parsit.types.sample import FileSlice

# The words of Qwen's special tokens that ChatML and images are made of.
SPECIAL_TOKENS = re.compile(r"<\|(?:im_start|im_end|image_pad|vision_start|vision_end|endoftext)\|>")


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of a record.

    Args:
        format_name: the records' format; `auto`: each record's own.
        deep: decode every image, instead of its header and its end alone.
        check_images: look at images; None: at those inside the data, and at files where an image folder was named.
        count: a sample's length in tokens; None: lengths are not asked for. Its images are then looked at first.
        model_max_length: the longest sample that `count` may give.
    """

    format_name: str = "auto"
    deep: bool = False
    check_images: bool | None = None
    count: Callable[[Sample], int] | None = None
    model_max_length: int = 0


@dataclass(slots=True)
class Look:
    """What was seen of some records. `id_hashes`: `uint64[samples]`, 0 for a record that is no sample."""

    samples: int
    id_hashes: np.ndarray
    good: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    images: int = 0
    images_not_looked_at: int = 0


Task = tuple[Source, Container, np.ndarray]


def look_at(task: Task, rules: Rules) -> Look:
    """Look at the records of one file whose places are `uint64[records, 3]`."""
    source, container, spans = task
    look = Look(len(spans), np.zeros(len(spans), np.uint64))
    root = image_root(source.path, source.image_folder)
    examine = _Examination(rules, root, source.image_folder is not None, look)
    for row, numbers in enumerate(spans.tolist()):
        span = Span(*numbers)
        place = container.place(source.path, span)
        findings: list[Finding] = []
        try:
            sample, format, unknown_fields = sample_at(source, container, span, place, rules.format_name)
        except DataFault as fault:
            findings.append(fault.at(place).finding())
        else:
            look.id_hashes[row] = id_hash(sample.id)
            findings += (fault.at(place).finding(sample.id) for fault in examine(sample))
            if unknown_fields:
                findings.append(Finding("fields-not-carried", place, ", ".join(unknown_fields)[:200], sample.id))
            look.formats[format.name] += 1
        look.good += not any(finding.level == "fault" for finding in findings)
        look.findings += findings
    return look


def sample_at(
    source: Source, container: Container, span: Span, place: str, format_name: str
) -> tuple[Sample, Format, list[str]]:
    """One record as a sample, the format that it is in, and its fields that the sample lacks. Raises `DataFault`."""
    record = container.read(source.path, span)
    named = format_named(format_name)
    format = named if named is not None and isinstance(record, dict) else detect(record)
    sample = read_record(record, Context(place, source.image_folder or source.path.parent), format)
    return sample, format, sorted(not_carried(record, format))


def id_hash(name: str) -> int:
    """64 bits of a digest of a sample's id, the same in every process, never 0."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class _Examination:
    """What is asked of a sample whose record is sound."""

    def __init__(self, rules: Rules, root: Path, has_image_folder: bool, look: Look) -> None:
        self.rules, self.root, self.look = rules, root, look
        always = rules.count is not None if rules.check_images is None else rules.check_images
        self.check_files = always or (has_image_folder and rules.check_images is None)
        self.check_inside = rules.check_images is not False
        # Questions about one page follow each other: its file is looked at once.
        self.check_file = lru_cache(maxsize=None)(check_image)

    def __call__(self, sample: Sample) -> Iterator[DataFault]:
        """What is wrong with a sample, all of it, and what is worth knowing."""
        sound = True
        for image in sample.images:
            try:
                self._check(image.source)
            except DataFault as fault:
                sound = False
                yield fault
        yield from _notes(sample)
        if sound and self.rules.count is not None:
            yield from self._length(sample, self.rules.count)

    def _check(self, image: object) -> None:
        if isinstance(image, Path) and self.check_files:
            self.look.images += 1
            self.check_file(image, self.root, self.rules.deep)
        elif isinstance(image, (bytes, FileSlice)) and self.check_inside:
            self.look.images += 1
            check_image(image, deep=self.rules.deep)
        else:
            self.look.images_not_looked_at += 1

    def _length(self, sample: Sample, count: Callable[[Sample], int]) -> Iterator[DataFault]:
        try:
            length = count(sample)
        except InputError as error:
            yield DataFault("image-unreadable", str(error))
            return
        if length > self.rules.model_max_length:
            yield DataFault("over-long", f"{length:,} tokens, the limit is {self.rules.model_max_length:,}")


def _notes(sample: Sample) -> Iterator[DataFault]:
    if sample.turns[-1].role == "user":
        yield DataFault("ends-with-user", f"turn {len(sample.turns) - 1} is the user's and has no answer")
    for number, turn in enumerate(sample.turns):
        words = SPECIAL_TOKENS.findall(turn.text) if "<|" in turn.text else []
        if words:
            yield DataFault("special-token-in-text", f"turn {number} contains {', '.join(dict.fromkeys(words))}")
            return
