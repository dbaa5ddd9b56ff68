"""SROIE: receipts with their text lines and four key fields.

Layout (ICDAR 2019 Robust Reading Challenge on Scanned Receipts OCR and Information Extraction,
https://rrc.cvc.uab.es/?ch=13&com=tasks; repackaged as `img`, `box` and `key` or `entities`, at the root or in `train/`
and `test/`):

    img/X00016469612.jpg
    box/X00016469612.csv or .txt    lines of x1,y1,x2,y2,x3,y3,x4,y4,text; the text may hold commas
    key/ or entities/X00016469612.txt or .json    {"company", "date", "address", "total"}

Two samples a receipt: its fields as JSON, and its text, boxes that stand side by side in one line. Where box or key is
missing, the other sample is made and the missing one is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from parsit.data.faults import DataFault
from parsit.data.importers.common import (
    Importer,
    Item,
    Items,
    PublishedSet,
    asked,
    at,
    image_in,
    load_object,
    read_text,
    to_json,
)
from parsit.data.importers.layout import TextBox, rows_of
from parsit.types import Sample

FIELDS_PROMPT = "Extract company, date, address and total of this receipt as JSON."
READ_PROMPT = "Read the text of this receipt, line by line."
KEYS = ("company", "date", "address", "total")


def _folder(source: PublishedSet) -> Path:
    # Only the repackaged train part is published without a folder for its split.
    at_root = (".",) if source.split == "train" else ()
    for name in (source.split, f"SROIE2019/{source.split}", *at_root, *(("data",) if at_root else ())):
        if (source.folder / name / "img").is_dir():
            return source.folder / name
    raise DataFault("layout-missing", f"no folder img in it or in {source.split}/", str(source.folder))


def _find(source: PublishedSet) -> Items:
    folder = _folder(source)
    paths = sorted(path for path in (source.images or folder / "img").iterdir() if path.suffix in (".jpg", ".png"))
    annotated = {path.stem for name in ("box", "key", "entities") for path in (folder / name).glob("*.*")}
    lost = sorted(annotated - {path.stem for path in paths})
    # The challenge's archive holds some files twice, as `X….jpg` and `X…(1).jpg`: both are read, both are named.
    items = [Item(str(path), path) for path in paths]
    items += [Item(str(folder / "img" / stem), folder / "img" / f"{stem}.jpg") for stem in lost]
    return Items(len(items), items)


def _samples(source: PublishedSet, item: Item) -> Iterator[Sample | DataFault]:
    path = item.value
    image = image_in(path.parent, path.name)
    identifier = f"sroie-{source.split}-{path.stem}"
    for task, prompt, answer_of in (("fields", FIELDS_PROMPT, _fields), ("read", READ_PROMPT, _text)):
        try:
            yield asked(f"{identifier}-{task}", image, prompt, answer_of(source, path.stem), item.place)
        except DataFault as fault:
            yield fault


def _annotation(source: PublishedSet, stem: str, folders: tuple[str, ...], endings: tuple[str, ...]) -> Path:
    folder = _folder(source)
    for name in folders:
        for ending in endings:
            if (folder / name / f"{stem}{ending}").is_file():
                return folder / name / f"{stem}{ending}"
    raise DataFault("annotation-missing", f"no {stem}{endings[0]} in {' or '.join(folders)}")


def _fields(source: PublishedSet, stem: str) -> str:
    path = _annotation(source, stem, ("key", "entities"), (".txt", ".json"))
    try:
        values = load_object(path)
        fields = {key: values[key] for key in KEYS if key in values}
        if not fields or not all(isinstance(value, str) for value in fields.values()):
            raise DataFault("annotation-broken", f"none of {', '.join(KEYS)} as text")
    except DataFault as fault:
        raise fault.at(str(path)) from None
    return to_json(fields)


def _text(source: PublishedSet, stem: str) -> str:
    path = _annotation(source, stem, ("box",), (".csv", ".txt"))
    try:
        boxes = [_box(line, number) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    except DataFault as fault:
        raise at(fault, str(path)) from None
    return "\n".join(" ".join(box.text for box in row) for row in rows_of(boxes))


def _box(line: str, number: int) -> TextBox:
    parts = line.split(",", 8)
    try:
        corners = [float(part) for part in parts[:8]]
    except ValueError:
        corners = []
    if len(parts) != 9 or not corners:
        raise DataFault("annotation-broken", f"line {number} is not eight numbers and a text")
    return TextBox(parts[8].strip(), min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2]))


SROIE = Importer(
    "sroie",
    ("train", "test"),
    ("fields", "read"),
    "scanned receipts: four key fields, and all text",
    "https://rrc.cvc.uab.es/?ch=13&com=tasks",
    _find,
    _samples,
)
