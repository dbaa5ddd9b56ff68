"""The records of one set, in parts that are written aside and renamed: what is there is whole, and stays.

SET/
  set.json                 what the readings depend on
  readings/part-HASH.jsonl a line that lists what is in it, then a record a line

A part is called after its content and never changed, so that any number of processes on any number of machines may add
parts at a time. A process that starts reads the first line of each part and knows what has been read. Should two
processes read one page at the same moment, both parts hold it, and the one whose name comes first counts.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parsit.files import write_whole
from parsit.scale.keys import ReadingSet
from parsit.types import InputError

SET_FILE, PARTS = "set.json", "readings"
FLUSH_EVERY_S = 20.0  # what a kill may cost
FLUSH_RECORDS = 500

_REMEDY = "remove it, and its pages are read again"

Record = dict[str, Any]


@dataclass(slots=True)
class Known:
    """What is there of one file: how many pages it has, and where each record lies: part, offset, bytes."""

    page_count: int
    places: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    def has(self, numbers: list[int]) -> bool:
        """Whether nothing is left to be read of these pages: they are there, or the file cannot be opened."""
        return 0 in self.places or all(number in self.places for number in numbers)


class Store:
    """The records of a set, in a folder. Not for several threads.

    Args:
        folder: of all sets.
        reading_set: which of them.
        clock: tells seconds.

    Raises:
        InputError: what lies there cannot be read.
        ParsitError: the folder cannot be written.
    """

    def __init__(self, folder: Path, reading_set: ReadingSet, clock: Callable[[], float] = time.monotonic) -> None:
        self.reading_set = reading_set
        self.folder = folder / reading_set.folder
        self.parts = self.folder / PARTS
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._seen: set[str] = set()
        self._waiting: list[Record] = []
        self._flushed_at = clock()
        self._begin()
        self.refresh()

    def _begin(self) -> None:
        """Write down what the set is, or see that it is this one."""
        path = self.folder / SET_FILE
        facts = json.dumps(asdict(self.reading_set), ensure_ascii=False, indent=2) + "\n"
        if not path.exists():
            write_whole(path, facts)
            return
        try:
            is_ours = ReadingSet(**json.loads(path.read_text(encoding="utf-8"))).id == self.reading_set.id
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: does not say what this set is ({error}); choose another --out") from error
        if not is_ours:
            raise InputError(f"{path}: describes another set than its folder is called after; choose another --out")

    def refresh(self) -> None:
        """Learn of parts that have come since. Raises `InputError`."""
        try:
            names = {path.name for path in self.parts.glob("part-*.jsonl")} if self.parts.is_dir() else set()
            for name in sorted(names - self._seen):
                self._learn(name)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{self.parts}: a part cannot be read ({error}); {_REMEDY}") from error

    def _learn(self, name: str) -> None:
        with (self.parts / name).open("rb") as file:
            offset = len(line := file.readline())
        for digest, count, number, size in json.loads(line)["records"]:
            known = self._known.setdefault(digest, Known(count))
            known.page_count = max(known.page_count, count)
            before = known.places.get(number)
            if before is None or name < before[0]:
                known.places[number] = (name, offset, size)
            offset += size
        self._seen.add(name)

    def known(self, digest: str) -> Known | None:
        """What is there of a file, by its content; what waits to be written does not count."""
        return self._known.get(digest)

    def add(self, record: Record) -> None:
        """Take a record in; it is on the disk once a part is full, or old. Raises `ParsitError`."""
        self._waiting.append(record)
        if len(self._waiting) >= FLUSH_RECORDS or self._clock() - self._flushed_at >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Publish what waits. Raises `ParsitError`."""
        self._flushed_at = self._clock()
        if not self._waiting:
            return
        lines = [json_line(record) for record in self._waiting]
        listed = [
            [record["digest"], record["page_count"], record["page"], len(line)]
            for record, line in zip(self._waiting, lines, strict=True)
        ]
        content = json_line({"records": listed}) + b"".join(lines)
        name = f"part-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
        write_whole(self.parts / name, content)
        self._waiting = []
        self._learn(name)

    def record(self, digest: str, page: int) -> Record | None:
        """The record of a page, or None; page 0: of a file that cannot be opened. Raises `InputError`."""
        known = self._known.get(digest)
        if known is None or page not in known.places:
            return None
        name, offset, size = known.places[page]
        try:
            with (self.parts / name).open("rb") as file:
                file.seek(offset)
                return json.loads(file.read(size))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.parts / name}: cannot be read ({error}); {_REMEDY}") from error

    def records(self) -> Iterator[Record]:
        """All records that are on the disk, each once."""
        for digest, known in self._known.items():
            for page in sorted(known.places):
                if (record := self.record(digest, page)) is not None:
                    yield record


def json_line(value: Any) -> bytes:
    r"""A value as a line of JSON in UTF-8; a lone surrogate becomes its escape, such as `\udc80`."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
