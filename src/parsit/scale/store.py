"""The records of one set, in parts that are written aside and renamed: what is there is whole, and stays.

SET/
  set.json                 what the readings depend on
  readings/part-HASH.jsonl a line that lists what is in it, and which of it failed, then a record a line

A part is called after its content and never changed, so that any number of processes on any number of machines may add
parts at a time. A process that starts reads the first line of each part and knows what has been read. Should two
processes read one page at the same moment, both parts hold it, and the one whose name comes first counts; a reading
counts before a failure, so that what failed can be read again.

A part that is being written has a name of its own, and is locked by who writes it. A kill leaves such a draft without
its lock; whoever holds the lock of the set takes it away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parsit.files import WholeFile, write_whole
from parsit.scale.keys import ReadingSet
from parsit.types import InputError

SET_FILE, PARTS = "set.json", "readings"
FLUSH_EVERY_S = 20.0  # what a kill may cost
FLUSH_RECORDS = 500

_DRAFT = re.compile(r"\.part-[0-9a-f]{32}\.jsonl\.\w+")  # as `WholeFile` calls a part that it writes
_REMEDY = "remove it, and its pages are read again"

Record = dict[str, Any]


@dataclass(slots=True)
class Known:
    """What is there of one file: how many pages it has, where each record lies (part, offset, bytes), which failed."""

    page_count: int
    places: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    def has(self, numbers: Collection[int], retry_failed: bool = False) -> bool:
        """Whether nothing is left to be read of these pages: they are there, or the file cannot be opened.

        With `retry_failed`, what failed is left to be read, and of a file that could not be opened everything.
        """
        if retry_failed:
            return self.page_count > 0 and self.done(retry_failed).issuperset(numbers)
        return 0 in self.places or all(number in self.places for number in numbers)

    def done(self, retry_failed: bool = False) -> frozenset[int]:
        """The pages that need not be read; with `retry_failed`, without those that failed."""
        return frozenset(self.places.keys() - self.failed if retry_failed else self.places)

    def failed_whole(self, numbers: Collection[int]) -> bool:
        """Whether the file could not be opened, and these pages have not been read since."""
        return 0 in self.places and not (self.page_count and all(number in self.places for number in numbers))


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
            header = json.loads(line)
            listed = header["records"]
            failed = header.get("failed")
            if failed is None:  # a part of before failures were listed
                failed = [place for place, record in enumerate(file) if json.loads(record)["error"]]
        for place, (digest, count, number, size) in enumerate(listed):
            known = self._known.setdefault(digest, Known(count))
            known.page_count = max(known.page_count, count)
            before = known.places.get(number)
            is_failed = place in failed
            if before is None or (is_failed, name) < (number in known.failed, before[0]):
                known.places[number] = (name, offset, size)
                (known.failed.add if is_failed else known.failed.discard)(number)
            offset += size
        self._seen.add(name)

    def known(self, digest: str) -> Known | None:
        """What is there of a file, by its content; what waits to be written does not count."""
        return self._known.get(digest)

    def add(self, record: Record) -> None:
        """Take a record in; it is on the disk once a part is full, or old. Raises `ParsitError`.

        What failed before and fails again keeps its first record.
        """
        known = self._known.get(record["digest"])
        if record["error"] and known is not None and record["page"] in known.failed:
            return
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
        failed = [place for place, record in enumerate(self._waiting) if record["error"]]
        content = json_line({"records": listed, "failed": failed}) + b"".join(lines)
        name = f"part-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
        _write_part(self.parts / name, content)
        self._waiting = []
        self._learn(name)

    def clear_drafts(self) -> int:
        """Take away the drafts of parts whose writers are dead, and give their number. For who holds the set's lock."""
        drafts = [path for path in self.parts.glob(".part-*") if _DRAFT.fullmatch(path.name)]
        return sum(map(_cleared, drafts))

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


def _write_part(path: Path, content: bytes) -> None:
    """Write a part through a draft that is locked until it is in its place. Raises `ParsitError`."""
    while True:
        with WholeFile(path) as draft:
            with suppress(OSError):  # no locks on this file system: there no draft is ever taken away
                fcntl.flock(draft.file, fcntl.LOCK_EX)
            if not draft.beside.exists():
                continue  # it was taken for a dead one's before it was locked
            draft.file.write(content)
            draft.keep()
            return


def _cleared(draft: Path) -> bool:
    """Take a draft away unless somebody is writing it."""
    try:
        with draft.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()
    except OSError:  # it is being written, or is in its place by now
        return False
    return True


def json_line(value: Any) -> bytes:
    r"""A value as a line of JSON in UTF-8; a lone surrogate becomes its escape, such as `\udc80`."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
