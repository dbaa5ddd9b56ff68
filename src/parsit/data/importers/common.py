"""What the importers share: what an importer is, and how one entry becomes samples or a fault.

A set is a list of entries (a question, an annotation file, a line of a table). Whatever is wrong with one entry is a
`DataFault` with its place, and the next entry is read all the same. Only a folder that does not hold the set at all
stops an import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from parsit.data.containers import container_of, records
from parsit.data.containers.text import decode
from parsit.data.faults import DataFault
from parsit.data.formats import Context
from parsit.data.formats.common import check_turns
from parsit.data.formats.images import image_ref
from parsit.types import ImageRef, Sample, Turn, UsageError

# (PDF file, page from 1) → an encoded image. Raises `InputError`. Reading PDFs is another room's work.
RenderPage = Callable[[Path, int], bytes]
T = TypeVar("T")

SPLIT_ALIASES: dict[str, str] = dict.fromkeys(("validation", "val", "dev", "eval"), "validation")


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """Where a set lies. `images`: the folder of its images, where that is not the published one."""

    folder: Path
    split: str
    images: Path | None = None
    render: RenderPage | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One entry: its place, and a value that the set's module understands, or what was wrong with it."""

    place: str
    value: Any


@dataclass(frozen=True, slots=True)
class Items:
    """The entries of a split, and how many there are."""

    total: int
    each: Iterable[Item]


@dataclass(frozen=True, slots=True)
class Importer:
    """One public set.

    Args:
        name: for the command line.
        splits: the split names as published.
        tasks: what its samples teach, in a word each.
        summary: what it is, in a line.
        source: where its layout is described.
        find: the entries of a split; raises `DataFault("layout-missing")`.
        samples: the samples of one entry, and what is wrong with parts of it; raises `DataFault`, where what was
            yielded before stands.
    """

    name: str
    splits: tuple[str, ...]
    tasks: tuple[str, ...]
    summary: str
    source: str
    find: Callable[[PublishedSet], Items]
    samples: Callable[[PublishedSet, Item], Iterator[Sample | DataFault]]

    def split_named(self, name: str) -> str:
        """The published name of a split; validation, val, dev and eval mean the same one.

        Raises:
            UsageError: the set has no such split.
        """
        for split in self.splits:
            if name == split or SPLIT_ALIASES.get(name, name) == SPLIT_ALIASES.get(split, split):
                return split
        raise UsageError(f"--split: {self.name} has no split {name!r}; it has {', '.join(self.splits)}")

    def items(
        self, folder: Path, split: str, images: Path | None = None, render: RenderPage | None = None
    ) -> tuple[PublishedSet, Items]:
        """The entries of a split, for `read_items`. Raises as `read`."""
        if not folder.is_dir():
            raise DataFault("layout-missing", "no such folder", str(folder))
        source = PublishedSet(folder, self.split_named(split), images, render)
        return source, self.find(source)

    def read_items(
        self, source: PublishedSet, items: Iterable[Item]
    ) -> Iterator[tuple[Item, list[Sample | DataFault]]]:
        """Each entry with its samples and faults."""
        for item in items:
            found: list[Sample | DataFault] = []
            if isinstance(item.value, DataFault):
                found.append(item.value)
            else:
                try:
                    found.extend(self.samples(source, item))
                except DataFault as fault:
                    found.append(fault)
            found = [at(each, item.place) if isinstance(each, DataFault) else each for each in found]
            yield item, found

    def read(
        self, folder: Path, split: str, images: Path | None = None, render: RenderPage | None = None
    ) -> Iterator[Sample | DataFault]:
        """The samples of a split in order, and a `DataFault` in the place of each that cannot be had.

        Args:
            folder: where the set lies, unpacked.
            split: one of `splits`, or an alias.
            images: the folder of the images, where that is not the published one.
            render: draws a page of a PDF; only sets of PDFs need it.

        Raises:
            UsageError: there is no such split.
            DataFault: the folder does not hold the set.
        """
        source, items = self.items(folder, split, images, render)
        for _, found in self.read_items(source, items.each):
            yield from found


def record_items(paths: Sequence[Path]) -> Items:
    """The records of JSON, JSONL or Parquet files; a file that cannot be read (further) ends with an item of its fault.

    Raises:
        InputError: a package for such files is missing.
    """
    return Items(sum(map(_count, paths)), (item for path in paths for item in _records(path)))


def _count(path: Path) -> int:
    number = 0
    try:
        for _ in container_of(path).scan(path):
            number += 1
    except DataFault:
        return number + 1  # `_records` meets and tells it
    return number


def _records(path: Path) -> Iterator[Item]:
    try:
        for _, place, value in records(path):
            yield Item(place, value)
    except DataFault as fault:
        yield Item(fault.place or str(path), fault)


def at(fault: DataFault, place: str) -> DataFault:
    """The fault; with this place where it has none of its own."""
    return fault if fault.place else fault.at(place)


def first_of(folder: Path, names: Sequence[str]) -> Path:
    """The first of some files or folders that exists. Raises `DataFault("layout-missing")`."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DataFault("layout-missing", f"none of {', '.join(names)} in it", str(folder))


def image_in(folder: Path, name: str) -> ImageRef:
    """An image of a folder, which its name may not leave.

    Raises:
        DataFault: the name is no good, or there is no such file.
    """
    ref = image_ref(name, Context(name, folder))
    if not isinstance(ref.source, Path) or not ref.source.is_file():
        raise DataFault("image-missing", f"no image {name} in {folder}")
    return ref


def image_beside(folder: Path, stem: str, endings: Sequence[str]) -> ImageRef:
    """An image by its name without the ending. Raises as `image_in`."""
    for ending in endings:
        if (folder / f"{stem}{ending}").is_file():
            return image_in(folder, f"{stem}{ending}")
    return image_in(folder, f"{stem}{endings[0]}")


def asked(
    identifier: str, image: ImageRef, prompt: str, answer: str, place: str, other_answers: Sequence[str] = ()
) -> Sample:
    """A sample of one image, one question and its answer; `other_answers` are accepted as well.

    Raises:
        DataFault: `answer-missing`, or what `check_turns` finds.
    """
    if not answer.strip():
        raise DataFault("answer-missing", "the annotation holds no answer")
    others = tuple(other for other in dict.fromkeys(other_answers) if other != answer)
    sample = Sample(identifier, (Turn("user", (image, f"\n{prompt}")), Turn("assistant", (answer,))), place, others)
    check_turns(sample)
    return sample


def read_bytes(path: Path) -> bytes:
    """A whole annotation file. Raises `DataFault`."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataFault("annotation-missing", f"no file {path}") from error
    except OSError as error:
        raise DataFault("file-unreadable", f"{path} cannot be opened: {error.strerror}") from error


def read_text(path: Path) -> str:
    """A whole annotation file as text. Raises `DataFault`."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFault("encoding-broken", f"byte {error.start} is not UTF-8") from error


def load_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises `DataFault`."""
    value = decode(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(value, dict):
        raise DataFault("annotation-broken", f"the file holds a {type(value).__name__}, not an object")
    return value


def field(record: Any, key: str, kind: type[T]) -> T:
    """A field of an annotation, of the type that it has in the published layout. Raises `DataFault`."""
    if not isinstance(record, dict):
        raise DataFault("annotation-broken", f"a {type(record).__name__} where an object with {key!r} belongs")
    value = record.get(key)
    if not isinstance(value, kind):
        found = "no" if value is None else f"a {type(value).__name__} as"
        raise DataFault("annotation-broken", f"{found} {key!r}, where a {kind.__name__} belongs")
    return value


def to_json(value: Any) -> str:
    """An answer of the field tasks: one line of JSON, as the synthetic documents have it."""
    return json.dumps(value, ensure_ascii=False)
