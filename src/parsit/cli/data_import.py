"""`parsit data import`: a public document set in its published layout becomes a data file of our own."""

from __future__ import annotations

import difflib
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.cli.console import bar
from parsit.cli.parser import Parser
from parsit.data.faults import DataFault
from parsit.files import refuse_other_content
from parsit.types import InputError, Sample, UsageError

if TYPE_CHECKING:
    from parsit.data.writers import JsonLines


@dataclass(frozen=True, slots=True)
class Options:
    """What to import, and where to."""

    name: str
    folder: Path
    out: Path
    split: str
    image_folder: Path | None
    overwrite: bool

    @property
    def images(self) -> Path:
        """The folder for images that the set does not have as files."""
        return self.out.with_name(f"{self.out.stem}_images")

    @property
    def findings(self) -> Path:
        """The list of what was set aside."""
        return self.out.with_name(f"{self.out.name.removesuffix('.jsonl')}.findings.jsonl")


def import_(argv: list[str]) -> int:
    """Run `parsit data import …` (without the first three words); the exit code is 1 if anything was set aside."""
    options = parse(argv)
    if options is None:
        print(table())
        return 0
    _check(options)
    return _run(options)


def parse(argv: list[str]) -> Options | None:
    """The command line; None for `--list`."""
    parser = Parser("parsit data import", "Turn a public document set, unpacked in FOLDER, into a data file.")
    option: Callable[..., Any] = parser.add_argument
    option("name", nargs="?", metavar="NAME", help="the set; --list shows them")
    option("folder", nargs="?", metavar="FOLDER", help="where the set lies, unpacked")
    option("--out", metavar="FILE.jsonl", help="the data file to write; must not exist")
    option("--split", default="train", metavar="SPLIT", help="which part of the set")
    option("--image_folder", metavar="DIR", help="the set's images, where they are not in their published place")
    option("--overwrite", action="store_true", help="replace FILE.jsonl and what lies beside it")
    option("--list", action="store_true", help="show the sets and stop")
    values = parser.parse_args(argv).as_dict()
    if values["list"]:
        return None
    missing = [word for word, key in (("NAME", "name"), ("FOLDER", "folder"), ("--out", "out")) if not values[key]]
    if missing:
        raise UsageError(f"data import: {missing[0]} is missing (`parsit data import --list` shows the sets)")
    images = values["image_folder"]
    return Options(
        values["name"],
        Path(values["folder"]),
        Path(values["out"]),
        values["split"],
        _inside(Path(images), Path(values["folder"])) if images else None,
        values["overwrite"],
    )


def _inside(images: Path, folder: Path) -> Path:
    """The image folder as a path below the set's, which records name images from. Raises `InputError`."""
    if not images.is_dir():
        raise InputError(f"{images}: no such image folder")
    if not images.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"--image_folder {images} must lie in {folder}: a record names its image from there")
    return folder / images.resolve().relative_to(folder.resolve())


def table() -> str:
    """The sets that can be imported."""
    from parsit.data.importers import IMPORTERS

    rows = [("NAME", "SPLITS", "TASKS", "WHAT IT IS", "LAYOUT")]
    rows += [(i.name, ",".join(i.splits), ",".join(i.tasks), i.summary, i.source) for i in IMPORTERS.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "None of them is part of Parsit. For the licence see the set's card."])


def _check(options: Options) -> None:
    """Refuse what makes no sense, before anything is read."""
    from parsit.data.importers import IMPORTERS

    if options.name not in IMPORTERS:
        near = difflib.get_close_matches(options.name, IMPORTERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(IMPORTERS)}"
        raise UsageError(f"data import: unknown set {options.name!r}{hint}")
    if options.out.suffix != ".jsonl":
        raise UsageError(f"--out must end in .jsonl, not {options.out.name!r}")
    if options.overwrite:
        # A set may lie where its records go: what it was published with is not replaced.
        refuse_other_content(options.out, lambda head: b'"conversations"' in head, "records")
        refuse_other_content(options.findings, lambda head: b'"code"' in head, "findings")
        return
    for path in (options.out, options.images, options.findings):
        if path.exists():
            raise InputError(f"{path} exists: choose another --out, or add --overwrite to replace it")


def _run(options: Options) -> int:
    """Import, and put the files in place at the end; made images go to their folder as they come."""
    from parsit.data.image_output import ImageFiles
    from parsit.data.importers import IMPORTERS
    from parsit.data.writers import JsonLines
    from parsit.files import WholeFile

    importer = IMPORTERS[options.name]
    source, items = importer.items(options.folder, options.split, options.image_folder, render_page)
    names = ImageFiles(options.folder, options.images)
    with (
        WholeFile(options.out) as data,
        WholeFile(options.findings) as aside,
        bar(options.name, items.total) as advance,
    ):
        output, findings = JsonLines(data, names), JsonLines(aside, names)
        samples, counts = 0, Counter[str]()
        for _, found in importer.read_items(source, items.each):
            for each in found:
                fault = _write(each, output)
                samples += fault is None
                if fault is not None:
                    findings.add(fault.finding().as_json())
                    counts[fault.code] += 1
            advance(1)
        output.finish()
        if counts:
            findings.finish()
    if not counts:
        options.findings.unlink(missing_ok=True)
    root = names.base or options.folder
    print(f"{options.name} {source.split}: {samples} samples in {options.out}, images in {root} (--image_folder)")
    if counts:
        told = ", ".join(f"{code} {count}" for code, count in counts.most_common())
        print(f"{counts.total()} set aside ({told}): {options.findings}")
    return 1 if counts else 0


def _write(each: Sample | DataFault, output: JsonLines) -> DataFault | None:
    """Write a sample; what is wrong with it, or was already."""
    from parsit.data.formats import native

    if not isinstance(each, Sample):
        return each
    try:
        output.add(native.write(each, output.name_of).record)
    except DataFault as fault:
        return fault.at(each.place)
    return None


def render_page(path: Path, number: int) -> bytes:
    """A page of a PDF as PNG, drawn in a process that can be killed. Raises `InputError`."""
    from parsit.parse.pages import PageFile

    with PageFile(path) as file:
        if number > file.page_count:
            raise InputError(f"{path} has no page {number}")
        buffer = io.BytesIO()
        file.page(number).image.save(buffer, "PNG")
    return buffer.getvalue()
