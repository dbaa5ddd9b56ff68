"""DocBank: pages of articles with every word's place and role.

Layout (https://github.com/doc-analysis/DocBank, README, indexed_files/ and DocBank_samples/; Li et al., arXiv
2006.01038):

    DocBank_500K_txt/1.tar_1401.0001.gz_infoingames_without_metric_arxiv_0.txt
    DocBank_500K_ori_img/1.tar_1401.0001.gz_infoingames_without_metric_arxiv_0_ori.jpg
    indexed_files/500K_train.txt, 500K_dev.txt, 500K_test.txt    (or 500K_dev.json …: a COCO file of the image names)

A line of a .txt is `token x0 y0 x1 y1 R G B font label` between tabs, boxes in thousandths of the page. Figures and
rules are tokens `##LTFigure##` and `##LTLine##`, a glyph without a character is `(cid:54)`.

The answer is the page's text in the order of the file, which is the layout order of pdfminer: words to lines by their
boxes, lines to paragraphs by label and distance. A page with `(cid:` in it is set aside: its text is not what is
printed.
An index file says which pages a split has; without one, `--split all` takes every page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from parsit.data.containers.text import decode
from parsit.data.faults import DataFault
from parsit.data.importers.common import (
    Importer,
    Item,
    Items,
    PublishedSet,
    asked,
    first_of,
    image_beside,
    read_bytes,
    read_text,
)
from parsit.data.importers.layout import TextBox, join_lines, words_in
from parsit.types import Sample

READ_PROMPT = "Read the text of this page in reading order."
_NO_TEXT = ("##LTFigure##", "##LTLine##")
_PARAGRAPH_GAP = 0.9  # of a line's height: more paper than this between two lines parts paragraphs
_COLUMNS = 10


def _find(source: PublishedSet) -> Items:
    folder = first_of(source.folder, ("DocBank_500K_txt", "DocBank_samples", "."))
    names = sorted(path.name for path in folder.glob("*.txt")) if source.split == "all" else _indexed(source)
    return Items(len(names), (Item(str(folder / name), folder / name) for name in names))


def _indexed(source: PublishedSet) -> list[str]:
    """The .txt files of a split, by its index file."""
    stems = [f"500K_{name}" for name in (("dev", "valid") if source.split == "dev" else (source.split,))]
    folders = ("indexed_files/", "", "MSCOCO_Format_Annotation/")
    path = first_of(
        source.folder,
        [f"{folder}{stem}{ending}" for ending in (".txt", ".json") for folder in folders for stem in stems],
    )
    if path.suffix == ".json":
        images = decode(read_bytes(path)).get("images", [])
        names = [str(image.get("file_name", "")) for image in images]
    else:
        names = read_text(path).split("\n")
    stems = [Path(name.strip()).name.removesuffix(".jpg").removesuffix(".txt").removesuffix("_ori") for name in names]
    return [f"{stem}.txt" for stem in stems if stem]


def _samples(source: PublishedSet, item: Item) -> Iterator[Sample]:
    path: Path = item.value
    text = page_text(read_text(path))
    images = source.images or first_of(source.folder, ("DocBank_500K_ori_img", "DocBank_samples", "."))
    image = image_beside(images, f"{path.stem}_ori", (".jpg", ".png"))
    yield asked(f"docbank-{path.stem}", image, READ_PROMPT, text, item.place)


def page_text(annotation: str) -> str:
    """A page's text from its annotation. Raises `DataFault`."""
    paragraphs = _paragraphs(_lines(annotation))
    known = words_in(line for paragraph in paragraphs for line in paragraph)
    return "\n\n".join(join_lines(paragraph, known) for paragraph in paragraphs)


def _lines(annotation: str) -> list[tuple[TextBox, str]]:
    """The lines of a page, each with the label of its first word."""
    lines: list[tuple[TextBox, str]] = []
    for number, raw in enumerate(annotation.split("\n"), 1):
        if not raw.strip():
            continue
        box, label = _token(raw, number)
        if box.text in _NO_TEXT or not box.text.strip():
            continue
        if "(cid:" in box.text:
            raise DataFault("text-unreadable", f"line {number} holds {box.text!r}")
        if lines and _goes_on(lines[-1][0], box):
            line = lines[-1][0]
            merged = TextBox(
                f"{line.text} {box.text}", line.x0, min(line.y0, box.y0), max(line.x1, box.x1), max(line.y1, box.y1)
            )
            lines[-1] = (merged, lines[-1][1])
        else:
            lines.append((box, label))
    return lines


def _token(raw: str, number: int) -> tuple[TextBox, str]:
    parts = raw.rstrip("\r").split("\t")
    try:
        x0, y0, x1, y1 = (float(part) for part in parts[1:5])
    except ValueError as error:
        raise DataFault("annotation-broken", f"line {number} has no box of four numbers") from error
    if len(parts) != _COLUMNS:
        raise DataFault("annotation-broken", f"line {number} has {len(parts)} columns, not {_COLUMNS}")
    return TextBox(parts[0], x0, y0, x1, y1), parts[-1]


def _goes_on(line: TextBox, word: TextBox) -> bool:
    """Whether a word stands to the right on the same line; scripts overlap it only in part."""
    shared = min(line.y1, word.y1) - max(line.y0, word.y0)
    return shared > 0.3 * min(line.y1 - line.y0, word.y1 - word.y0) and word.x0 >= line.x1 - 3


def _paragraphs(lines: list[tuple[TextBox, str]]) -> list[list[str]]:
    paragraphs: list[list[str]] = []
    above: TextBox | None = None
    label_above = ""
    for box, label in lines:
        height = box.y1 - box.y0
        follows = (
            above is not None and label == label_above and -0.5 * height < box.y0 - above.y1 < _PARAGRAPH_GAP * height
        )
        if follows:
            paragraphs[-1].append(box.text)
        else:
            paragraphs.append([box.text])
        above, label_above = box, label
    return paragraphs


DOCBANK = Importer(
    "docbank",
    ("train", "dev", "test", "all"),
    ("read",),
    "pages of arXiv articles with their text",
    "https://github.com/doc-analysis/DocBank",
    _find,
    _samples,
)
