"""CORD: receipts with their menu, subtotals and totals.

Two published layouts (https://github.com/clovaai/cord, README; Park et al. 2019):

    CORD/train/image/receipt_00000.png, CORD/train/json/receipt_00000.json    (dev/, test/)
    {"valid_line": [{"words": [{"quad", "is_key", "row_id", "text"}], "category": "menu.nm", "group_id": 3}], ..}

    data/train-00000-of-00004-….parquet    (validation-…, test-…; Hugging Face naver-clova-ix/cord-v2)
    columns image {bytes, path} and ground_truth, JSON with `gt_parse` beside `valid_line` and `meta`

The answer is `gt_parse` where there is one. For the older layout it is made from `valid_line`: words that are keys are
left out; `menu` and `void_menu` are lists with an object for each `group_id`, `sub_` fields under `sub` (a list where
`sub_group_id` tells several apart); what occurs twice is a list, but lines of one name are joined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parsit.data.containers.text import decode
from parsit.data.faults import DataFault
from parsit.data.importers.common import (
    Importer,
    Item,
    Items,
    PublishedSet,
    asked,
    field,
    image_beside,
    load_object,
    record_items,
    to_json,
)
from parsit.types import ImageRef, Sample

FIELDS_PROMPT = "Extract the items and totals of this receipt as JSON."
_PARQUET_NAMES = {"train": "train", "dev": "validation", "test": "test"}
_MENUS = ("menu", "void_menu")


def _find(source: PublishedSet) -> Items:
    for name in (source.split, f"CORD/{source.split}"):
        folder = source.folder / name
        if (folder / "json").is_dir():
            paths = sorted((folder / "json").glob("*.json"))
            return Items(len(paths), (Item(str(path), path) for path in paths))
    prefix = _PARQUET_NAMES[source.split]
    files = [path for name in ("data", ".") for path in sorted((source.folder / name).glob(f"{prefix}-*.parquet"))]
    if not files:
        wanted = f"neither {source.split}/json nor data/{prefix}-*.parquet in it"
        raise DataFault("layout-missing", wanted, str(source.folder))
    return record_items(files)


def _samples(source: PublishedSet, item: Item) -> Iterator[Sample]:
    if isinstance(item.value, Path):
        path = item.value
        truth = load_object(path)
        image = image_beside(source.images or path.parent.parent / "image", path.stem, (".png", ".jpg"))
        name = path.stem
    else:
        truth = decode(field(item.value, "ground_truth", str).encode("utf-8", "surrogatepass"))
        image = _embedded(item.value)
        name = item.place.rpartition("/")[2]
    parse = truth.get("gt_parse") if isinstance(truth, dict) else None
    if parse is None:
        parse = parse_lines(field(truth, "valid_line", list))
    if not isinstance(parse, dict):
        raise DataFault("annotation-broken", f"'gt_parse' is a {type(parse).__name__}")
    if not parse:
        raise DataFault("answer-missing", "the receipt has no field")
    yield asked(f"cord-{source.split}-{name}", image, FIELDS_PROMPT, to_json(parse), item.place)


def _embedded(row: Any) -> ImageRef:
    """The image of a row. Raises `DataFault`."""
    data = field(row, "image", dict).get("bytes")
    if not isinstance(data, bytes) or not data:
        raise DataFault("image-missing", "the row's 'image' holds no bytes")
    return ImageRef(data)


def parse_lines(lines: list[Any]) -> dict[str, Any]:
    """The fields of a receipt from its `valid_line`. Raises `DataFault`."""
    # (super category) → (group, sub group) → (field) → its texts, all in the order of the lines
    found: dict[str, dict[tuple[Any, Any], dict[str, list[str]]]] = {}
    for line in lines:
        above, dot, name = field(line, "category", str).partition(".")
        words = [field(word, "text", str) for word in field(line, "words", list) if not word.get("is_key")]
        text = " ".join(word for word in words if word)
        if not dot or not text:
            continue
        is_sub = above in _MENUS and name.startswith("sub_")
        group = line.get("group_id") if above in _MENUS else None
        key = (group, ("sub", line.get("sub_group_id")) if is_sub else None)
        fields = found.setdefault(above, {}).setdefault(key, defaultdict(list))
        fields[name.removeprefix("sub_") if is_sub else name].append(text)
    return {above: _menu(groups) if above in _MENUS else _object(groups[None, None]) for above, groups in found.items()}


def _menu(groups: dict[tuple[Any, Any], dict[str, list[str]]]) -> list[dict[str, Any]]:
    """A menu's groups as objects, in the order of their first lines."""
    objects: dict[Any, dict[str, Any]] = {}
    subs: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for (group, sub), fields in groups.items():
        objects.setdefault(group, {})
        if sub is None:
            objects[group] = _object(fields)
        else:
            subs[group].append(_object(fields))
    for group, found in subs.items():
        objects[group]["sub"] = found[0] if len(found) == 1 else found
    return list(objects.values())


def _object(fields: dict[str, list[str]]) -> dict[str, Any]:
    return {
        name: texts[0] if len(texts) == 1 else " ".join(texts) if name == "nm" else texts
        for name, texts in fields.items()
    }


CORD = Importer(
    "cord",
    ("train", "dev", "test"),
    ("fields",),
    "photographed receipts: menu, subtotals, totals",
    "https://github.com/clovaai/cord",
    _find,
    _samples,
)
