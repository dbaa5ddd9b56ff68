"""Questions on one image each: DocVQA, InfographicVQA, ChartQA.

SP-DocVQA (https://www.docvqa.org, downloads on https://rrc.cvc.uab.es/?ch=17; Mathew et al., arXiv 2007.00398):

    train_v1.0_withQT.json, val_v1.0_withQT.json, test_v1.0.json    (older: train_v1.0.json, or train/train_v1.0.json)
    {"dataset_name", "dataset_version", "dataset_split", "data": [{"questionId", "question", "question_types",
     "image": "documents/xnbl0037_1.png", "docId", "ucsf_document_id", "ucsf_document_page_no", "answers": [..]}]}

The images lie in `documents/` or, in the newer download, in `spdocvqa_images/` beside `spdocvqa_qas/`.

InfographicVQA (same site; arXiv 2104.12756): `infographicsVQA_train_v1.0.json`, `…_val_v1.0_withQT.json`,
`…_test_v1.0.json`, with `image_local_name` for the image in `infographicsvqa_images/`.

ChartQA (https://github.com/vis-nlp/ChartQA, README): `ChartQA Dataset/{train,val,test}/` with `png/` and two lists,
`{split}_human.json` and `{split}_augmented.json`, of `{"imgname", "query", "label"}`.

Of several accepted answers the first is taught; all are kept, and scores take the best. Test splits of the first two
have no answers: every question is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parsit.data.faults import DataFault
from parsit.data.formats import Context
from parsit.data.formats.images import image_ref
from parsit.data.importers.common import (
    Importer,
    Item,
    Items,
    PublishedSet,
    asked,
    field,
    first_of,
    image_in,
    load_object,
    record_items,
)
from parsit.types import Sample

QUESTION_PROMPT = "{}\nAnswer with a word or a short phrase."


def _find_questions(source: PublishedSet, folders: tuple[str, ...], stems: tuple[str, ...]) -> Items:
    names = [
        f"{folder}{stem.format(source.split)}{ending}.json"
        for folder in folders
        for stem in stems
        for ending in ("_withQT", "")
    ]
    path = first_of(source.folder, names)
    try:
        entries = field(load_object(path), "data", list)
    except DataFault as fault:
        raise fault.at(str(path)) from None
    return Items(len(entries), (Item(f"{path}:data[{number}]", entry) for number, entry in enumerate(entries)))


def _find_docvqa(source: PublishedSet) -> Items:
    folders = ("", f"{source.split}/", "spdocvqa_qas/", "qas/")
    return _find_questions(source, folders, ("{}_v1.0", "{}_v0.2", "{}_v0.1"))


def _find_infographicvqa(source: PublishedSet) -> Items:
    return _find_questions(
        source, ("", "infographicsvqa_qas/", "qas/"), ("infographicsVQA_{}_v1.0", "infographicVQA_{}_v1.0")
    )


def _question(source: PublishedSet, item: Item, images: Path, image_name: str, identifier: str) -> Sample:
    question = field(item.value, "question", str)
    answers = item.value.get("answers")
    if answers is None:
        raise DataFault("answer-missing", "the question has no 'answers'")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataFault("annotation-broken", "'answers' is not a list of texts")
    image = image_in(images, image_name)
    prompt = QUESTION_PROMPT.format(question)
    return asked(identifier, image, prompt, next(iter(answers), ""), item.place, answers[1:])


def _question_id(name: str, source: PublishedSet, entry: Any) -> str:
    value = entry.get("questionId") if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataFault("annotation-broken", "no 'questionId'")
    return f"{name}-{source.split}-{value}"


def _docvqa(source: PublishedSet, item: Item) -> Iterator[Sample]:
    identifier = _question_id("docvqa", source, item.value)
    name = field(item.value, "image", str)
    image_ref(
        name, Context(item.place, source.folder)
    )  # a path that leaves the folder is refused before its end is used
    bare = Path(name).name
    roots = [source.images] if source.images else [source.folder, source.folder / source.split]
    places = [(root, each) for root in roots for each in (name, bare)]
    # `image` is `documents/name.png`; the newer download has the same files in a folder of another name.
    places += [(source.folder / "spdocvqa_images", bare)] if source.images is None else []
    images, found = next((place for place in places if (place[0] / place[1]).is_file()), places[0])
    yield _question(source, item, images, found, identifier)


def _infographicvqa(source: PublishedSet, item: Item) -> Iterator[Sample]:
    identifier = _question_id("infographicvqa", source, item.value)
    images = source.images or first_of(source.folder, ("infographicsvqa_images", "images", "."))
    yield _question(source, item, images, field(item.value, "image_local_name", str), identifier)


def _chartqa_folder(source: PublishedSet) -> Path:
    return first_of(source.folder, (f"ChartQA Dataset/{source.split}", source.split))


def _find_chartqa(source: PublishedSet) -> Items:
    folder = _chartqa_folder(source)
    paths = [folder / f"{source.split}_{part}.json" for part in ("human", "augmented")]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise DataFault("layout-missing", f"neither {paths[0].name} nor {paths[1].name} in it", str(folder))
    return record_items(present)


def _chartqa(source: PublishedSet, item: Item) -> Iterator[Sample]:
    question, answer = field(item.value, "query", str), field(item.value, "label", str)
    image = image_in(source.images or _chartqa_folder(source) / "png", field(item.value, "imgname", str))
    part, _, number = item.place.rpartition("_")[2].partition(".json[")
    identifier = f"chartqa-{source.split}-{part}-{number.rstrip(']')}"
    yield asked(identifier, image, QUESTION_PROMPT.format(question), answer, item.place)


DOCVQA = Importer(
    "docvqa",
    ("train", "val", "test"),
    ("qa",),
    "questions on pages of industry documents",
    "https://rrc.cvc.uab.es/?ch=17",
    _find_docvqa,
    _docvqa,
)
INFOGRAPHICVQA = Importer(
    "infographicvqa",
    ("train", "val", "test"),
    ("qa",),
    "questions on infographics",
    "https://rrc.cvc.uab.es/?ch=17&com=tasks",
    _find_infographicvqa,
    _infographicvqa,
)
CHARTQA = Importer(
    "chartqa",
    ("train", "val", "test"),
    ("qa",),
    "questions on charts, by people and by machine",
    "https://github.com/vis-nlp/ChartQA",
    _find_chartqa,
    _chartqa,
)
