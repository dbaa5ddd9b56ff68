r"""PubTabNet: images of tables from articles, with their HTML.

Layout (https://github.com/ibm-aur-nlp/PubTabNet, README; Zhong et al., arXiv 1911.10683):

    PubTabNet_2.0.0.jsonl, train/PMC1064074_007_00.png, val/, test/
    {"filename", "split": "train", "imgid", "html": {"structure": {"tokens": ["<thead>", "<tr>", "<td",
     " colspan=\"2\"", ">", "</td>", ..]}, "cells": [{"tokens": ["<b>", "A", "g", "e", "</b>"], "bbox": [..]}]}}

The structure's tokens hold one `</td>` for each cell; a cell's tokens are tags or single characters, which are escaped
here, and stand before it. The answer is the table as one line of HTML. The test split is published without annotations.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parsit.data.faults import DataFault
from parsit.data.importers.common import (
    Importer,
    Item,
    Items,
    PublishedSet,
    asked,
    field,
    first_of,
    image_in,
    record_items,
)
from parsit.types import Sample

TABLE_PROMPT = "Convert this table to HTML."
_CELL_END = "</td>"


def _find(source: PublishedSet) -> Items:
    path = first_of(
        source.folder, ("PubTabNet_2.0.0.jsonl", "PubTabNet_1.0.0.jsonl", f"PubTabNet_2.0.0_{source.split}.jsonl")
    )
    return record_items([path])


def _samples(source: PublishedSet, item: Item) -> Iterator[Sample]:
    # One file holds all splits; which one a line belongs to is known only when it is read.
    if isinstance(item.value, dict) and item.value.get("split", source.split) != source.split:
        return
    name = field(item.value, "filename", str)
    table = field(item.value, "html", dict)
    answer = table_html(field(field(table, "structure", dict), "tokens", list), field(table, "cells", list))
    image = image_in(source.images or source.folder / source.split, name)
    yield asked(f"pubtabnet-{source.split}-{Path(name).stem}", image, TABLE_PROMPT, answer, item.place)


def table_html(structure: list[Any], cells: list[Any]) -> str:
    """The HTML of a table. Raises `DataFault` where structure and cells do not fit."""
    if not all(isinstance(token, str) for token in structure):
        raise DataFault("annotation-broken", "'structure' holds something else than text")
    if structure.count(_CELL_END) != len(cells):
        raise DataFault(
            "annotation-broken", f"{structure.count(_CELL_END)} cells in the structure, but {len(cells)} in 'cells'"
        )
    contents = iter(cells)
    parts: list[str] = []
    for token in structure:
        parts += [_cell(next(contents)), token] if token == _CELL_END else [token]
    return f"<table>{''.join(parts)}</table>"


def _cell(cell: Any) -> str:
    tokens = field(cell, "tokens", list)
    if not all(isinstance(token, str) for token in tokens):
        raise DataFault("annotation-broken", "a cell's 'tokens' hold something else than text")
    return "".join(html.escape(token, quote=False) if len(token) == 1 else token for token in tokens)


PUBTABNET = Importer(
    "pubtabnet",
    ("train", "val", "test"),
    ("table",),
    "tables of articles as HTML",
    "https://github.com/ibm-aur-nlp/PubTabNet",
    _find,
    _samples,
)
