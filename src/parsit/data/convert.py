"""Conversion of a data file, record by record, in bounded memory.

A record that is wrong, or that the output's format has no words for, is set aside and listed; it never stops the rest.
What is in the native format already passes through as it is, fields included that Parsit does not know. A fault of the
file as a whole ends the reading: what was read before it is written, and the report says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from parsit.data.containers import container_of, records
from parsit.data.convert_settings import ConvertSettings
from parsit.data.faults import DataFault, Finding
from parsit.data.formats import Context, Format, ImageNames, recognise
from parsit.data.formats.images import image_list
from parsit.data.image_output import ImageFiles, PathNames, data_url
from parsit.data.images import check_image
from parsit.data.records import image_root
from parsit.data.writers import Output, output_for
from parsit.files import WholeFile
from parsit.types import FileSlice, ImageRef

# More different names of unknown fields than this are counted together.
_NAMES_COUNTED = 50
_RECORDS_PER_PROGRESS = 64


@dataclass(slots=True)
class ConvertReport:
    """What became of the records.

    Args:
        records: how many were read.
        converted: how many were written.
        faults: what was set aside, by code.
        lost: records by what of them was not carried over: names of fields, `glyphs`.
        formats: records by the format that was found.
        images_written: images that became files beside the output.
        image_folder: where the paths of written images start, if that is not the input's image folder.
        images: how many the good records have.
        images_not_looked_at: paths that were not followed, without an image folder.
        written: whether there is an output: not without a single good record.
        stopped: why the reading ended before the file's end.
    """

    records: int = 0
    converted: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    images_written: int = 0
    image_folder: Path | None = None
    images: int = 0
    images_not_looked_at: int = 0
    written: bool = False
    stopped: str = ""


def convert_file(settings: ConvertSettings, on_progress: Callable[[int], None] = lambda _: None) -> ConvertReport:
    """Convert one data file.

    Args:
        settings: what and how.
        on_progress: called now and then with the part of `extent(settings.input)` that was read since.

    Raises:
        UsageError, InputError: as `ConvertSettings.check`; the file as a whole cannot be read.
        ParsitError: the output cannot be written.
    """
    settings.check()
    report = ConvertReport()
    root = image_root(settings.input, settings.image_folder)
    image_files = ImageFiles(root, settings.output.with_name(settings.output.stem + "_images"))
    names: ImageNames = data_url if settings.embed_images else image_files
    path_name = None if settings.embeds else PathNames(root)
    with ExitStack() as open_files:
        draft = open_files.enter_context(WholeFile(settings.output))
        findings = open_files.enter_context(WholeFile(settings.findings))
        output = output_for(draft, names, path_name)
        for finding in _Conversion(settings, root, output, report).run(on_progress):
            report.faults[finding.code] += 1
            findings.file.write(json.dumps(finding.as_json()).encode("ascii") + b"\n")
        if report.converted:
            output.finish()
            report.written = True
        settings.findings.unlink(missing_ok=True)
        if report.faults:
            findings.keep()
    report.images_written, report.image_folder = image_files.num_written, image_files.base
    return report


def extent(path: Path) -> int:
    """What progress through a data file is measured by: bytes, or rows. Raises `DataFault`."""
    container = container_of(path)
    rows: Callable[[Path], int] | None = getattr(container, "num_rows", None)
    return rows(path) if rows is not None else path.stat().st_size


class _Conversion:
    """One run over the records."""

    def __init__(self, settings: ConvertSettings, root: Path, output: Output, report: ConvertReport) -> None:
        self.settings, self.root, self.output, self.report = settings, root, output, report
        self.target = settings.target
        self.follows_paths = settings.image_folder is not None or settings.embeds
        # Questions about one page follow each other: its file is looked at once.
        self.check_file = lru_cache(maxsize=1024)(check_image)

    def run(self, on_progress: Callable[[int], None]) -> Iterator[Finding]:
        """Convert every record; what is yielded was set aside, or is why the file could not be read to its end."""
        source, by_rows = self.settings.source, hasattr(container_of(self.settings.input), "num_rows")
        report, done = self.report, 0
        try:
            for span, place, value in records(self.settings.input):
                report.records += 1
                try:
                    if isinstance(value, DataFault):
                        raise value
                    self._convert(value, Context(place, self.root), source)
                    report.converted += 1
                except DataFault as fault:
                    yield (fault if fault.place else fault.at(place)).finding(_id_of(value))
                done += 1 if by_rows else span.size
                if report.records % _RECORDS_PER_PROGRESS == 0:
                    on_progress(done)
                    done = 0
        except DataFault as fault:
            if not report.records:
                raise
            report.stopped = str(fault)
            yield fault.finding()
        on_progress(done)
        if not report.records:
            raise DataFault("file-empty", "the file holds no record", str(self.settings.input))

    def _convert(self, record: Any, context: Context, source: Format | None) -> None:
        format, sample, unread = recognise(record, context, source)
        images = sample.images
        not_looked_at = sum(not self._look_at(image) for image in images)
        self.output.begin(len(images))
        lost: list[str] = []
        if _is_already(record, format, self.target):
            made = self._with_names(record, images) if images else record
        else:
            written = self.target.write(sample, self.output.name_of)
            made, lost = written.record, [*unread, *written.lost]
        self.output.add(made)
        self.report.formats[format.name] += 1
        self.report.images += len(images)
        self.report.images_not_looked_at += not_looked_at
        counted = self.report.lost
        for name in lost:
            counted[name if name in counted or len(counted) < _NAMES_COUNTED else "others"] += 1

    def _with_names(self, record: dict[str, Any], images: Sequence[ImageRef]) -> dict[str, Any]:
        """A native record, its images by the names that the output gives them, if they have none there yet."""
        names = [self.output.name_of(image) for image in images]
        values = image_list(record["image"])
        are_files = all(isinstance(image.source, Path) for image in images) and all(isinstance(v, str) for v in values)
        if are_files and not self.settings.embeds:
            return record
        return record | {"image": names if isinstance(record["image"], list) else names[0]}

    def _look_at(self, image: ImageRef) -> bool:
        """Look at an image whose bytes are at hand, or whose file may be opened; whether that was so."""
        if isinstance(image.source, Path):
            if self.follows_paths:
                self.check_file(image.source, self.root)
            return self.follows_paths
        assert isinstance(image.source, (bytes, FileSlice))  # formats make no decoded images
        check_image(image.source)
        return True


def _is_already(record: dict[str, Any], format: Format, target: Format) -> bool:
    """Whether a record is in the target's format: native ones are, and are LLaVA's without what Parsit adds."""
    if format.name not in ("parsit", "llava") or target.name not in ("parsit", "llava"):
        return False
    return target.name == "parsit" or (
        record.get("glyphs") is None
        and record.get("answers") is None
        and all(isinstance(turn["value"], str) for turn in record["conversations"])
    )


def _id_of(record: Any) -> str:
    """A bad record's id, as far as it has one."""
    value = record.get("id") if isinstance(record, dict) else None
    return str(value) if isinstance(value, (str, int)) else ""
