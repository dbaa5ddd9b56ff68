"""FUNSD: forms with questions, answers and the links between them.

Layout (https://guillaumejaume.github.io/FUNSD/description/; Jaume et al., arXiv 1905.13538):

    training_data/annotations/0000971160.json, training_data/images/0000971160.png    (and testing_data/…)
    {"form": [{"id": 0, "text": "Registration No.", "box": [94, 169, 191, 186], "label": "question",
               "linking": [[0, 1]], "words": [{"text", "box"}]}]}

`label` is question, answer, header or other. A sample is the form's fields as one JSON object: each question's text
with the text of the answers that are linked to it, from top to bottom; "" for a question that nobody answered; a list
where there are several. Headers and other text are in no answer: FUNSD gives no reading order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
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
    image_beside,
    load_object,
    to_json,
)
from parsit.types import Sample

FIELDS_PROMPT = "Extract the fields of this form as JSON."
_FOLDERS = {"train": "training_data", "test": "testing_data"}


def _find(source: PublishedSet) -> Items:
    name = _FOLDERS[source.split]
    folder = first_of(source.folder, (f"{name}/annotations", f"dataset/{name}/annotations"))
    paths = sorted(folder.glob("*.json"))
    return Items(len(paths), (Item(str(path), path) for path in paths))


def _samples(source: PublishedSet, item: Item) -> Iterator[Sample]:
    path = item.value
    fields = _fields(field(load_object(path), "form", list))
    if not fields:
        raise DataFault("answer-missing", "the form has no question")
    image = image_beside(source.images or path.parent.parent / "images", path.stem, (".png", ".jpg"))
    yield asked(f"funsd-{source.split}-{path.stem}", image, FIELDS_PROMPT, to_json(fields), item.place)


def _fields(form: list[Any]) -> dict[str, str | list[str]]:
    """Question → answer; several answers, or several questions of one text, give a list."""
    entities = {field(entity, "id", int): entity for entity in form}
    values: dict[str, list[str]] = defaultdict(list)
    for identifier, entity in entities.items():
        question = field(entity, "text", str).strip()
        if field(entity, "label", str) != "question" or not question:
            continue
        answers = [
            entities[other] for other in _linked(entity, identifier, entities) if entities[other]["label"] == "answer"
        ]
        answers.sort(key=lambda answer: (_box(answer)[1], _box(answer)[0]))
        values[question] += [field(answer, "text", str).strip() for answer in answers] or [""]
    return {question: texts[0] if len(texts) == 1 else texts for question, texts in values.items()}


def _linked(entity: dict[str, Any], identifier: int, entities: dict[int, Any]) -> list[int]:
    """The entities at the other ends of an entity's links."""
    others: list[int] = []
    for link in field(entity, "linking", list):
        if (
            not isinstance(link, list)
            or len(link) != 2
            or identifier not in link
            or not all(end in entities for end in link)
        ):
            raise DataFault("annotation-broken", f"entity {identifier} has the link {link}, which leads nowhere")
        other = link[1] if link[0] == identifier else link[0]
        if other not in others:
            others.append(other)
    return others


def _box(entity: dict[str, Any]) -> list[float]:
    box = field(entity, "box", list)
    if len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
        raise DataFault("annotation-broken", f"entity {entity['id']} has no box of four numbers")
    return box


FUNSD = Importer(
    "funsd",
    ("train", "test"),
    ("fields",),
    "scanned forms with their fields",
    "https://guillaumejaume.github.io/FUNSD/",
    _find,
    _samples,
)
