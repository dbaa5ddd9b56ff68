"""One page number → its image files and its records in the native format.

Decides that a page depends on the seed, its number and the settings that shape it, on nothing else,
so that any process can make any page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from parsit.synth.content import make_document
from parsit.synth.crops import page_crops
from parsit.synth.degrade import cut, draw_damage, encode, wear
from parsit.synth.fonts import families_in, in_a_family_of
from parsit.synth.omnidocbench import page_truth
from parsit.synth.page_image import PageImage
from parsit.synth.render import Glyph, OtherGlyphsError, RenderedPage, render
from parsit.synth.settings import TASKS, SynthSettings, Task
from parsit.synth.split import SplitName, Texts
from parsit.synth.tree import PageTree
from parsit.synth.truth import questions, to_fields, to_markdown

LINE_PROMPT = "Read the text."
READ_PROMPTS = (
    "Read this page as Markdown.",
    "Write down everything on this page in Markdown, in reading order.",
    "Convert the page to Markdown.",
)
FIELDS_PROMPTS = (
    "Extract the fields of this document as JSON.",
    "Give the document's fields as one JSON object.",
    "Which fields does this document have? Answer with JSON.",
)
QA_PROMPTS = ("{}", "{} Answer with what the page says.", "Answer briefly: {}")
PAGES_PER_FOLDER = 100
# Steps of the golden ratio spread any number of pages evenly over the splits.
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class PageResult:
    """What one page gave: its split, its records as lines of JSON, and its truth for OmniDocBench if it is wanted."""

    number: int
    kind: str
    split: SplitName
    lines: tuple[str, ...]
    truth: str = ""


def make_page(settings: SynthSettings, folder: Path, number: int) -> PageResult:
    """Make page `number` (from 0): write its images below `folder`, return its records."""
    split = page_split(settings, number)
    texts = Texts(settings.fractions, split)
    rng = Random(f"{settings.seed}/{number}")
    noise_rng = np.random.default_rng([settings.seed, number])
    kind = page_kind(settings, number)
    document = make_document(kind, rng, texts)
    page = drawn(settings, document, rng)
    if settings.unit == "line":
        return PageResult(
            number, kind, split, tuple(line_records(settings, folder, number, page, texts, rng, noise_rng))
        )
    image = page_image(settings, folder, number, page, split, rng, noise_rng)
    lines = tuple(page_records(settings, number, page, image, texts, rng))
    truth = json.dumps(page_truth(page, image), ensure_ascii=False) if settings.omnidocbench else ""
    return PageResult(number, kind, split, lines, truth)


def drawn(settings: SynthSettings, document: PageTree, rng: Random) -> RenderedPage:
    """The page in a family of `settings.fonts`, if there are any; in its own where that one draws other glyphs.

    A font of code may draw `!=` as one sign, which is not what the page's text says.
    """
    if not settings.fonts:
        return render(document, rng.randint(*settings.dpi))
    other = in_a_family_of(families_in(settings.fonts), document, rng)
    dpi = rng.randint(*settings.dpi)
    try:
        return render(other, dpi, settings.fonts)
    except OtherGlyphsError:
        if other.style.font == document.style.font:
            raise
        return render(document, dpi)


def page_split(settings: SynthSettings, number: int) -> SplitName:
    """The split of a page; each split gets its share of any run of page numbers."""
    start = Random(f"{settings.seed}/split").random()
    return settings.fractions.split_at((start + number * GOLDEN) % 1)


def page_kind(settings: SynthSettings, number: int) -> str:
    """The kind of a page: every run of as many pages as there are kinds has each kind once."""
    turn, place = divmod(number, len(settings.kinds))
    return Random(f"{settings.seed}/kinds/{turn}").sample(settings.kinds, len(settings.kinds))[place]


def image_path(split: SplitName, number: int, ending: str) -> str:
    """Where an image lies, relative to the data set, at most `PAGES_PER_FOLDER` pages to a folder."""
    return f"images/{split}/{number // PAGES_PER_FOLDER:03}/{number:06}{ending}"


def write_image(folder: Path, path: str, data: bytes) -> None:
    """Write an image's bytes, with the folders on the way."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def record(identifier: str, image: str, prompt: str, answer: str, glyphs: Iterable[Glyph] | None = None) -> str:
    """One record of the native format as a line of JSON."""
    entry: dict[str, object] = {
        "id": identifier,
        "image": image,
        "conversations": [{"from": "human", "value": f"<image>\n{prompt}"}, {"from": "gpt", "value": answer}],
    }
    if glyphs is not None:
        entry["glyphs"] = [[[g.text, round(g.x0, 1), round(g.y0, 1), round(g.x1, 1), round(g.y1, 1)] for g in glyphs]]
    return json.dumps(entry, ensure_ascii=False)


def line_records(
    settings: SynthSettings,
    folder: Path,
    number: int,
    page: RenderedPage,
    texts: Texts,
    rng: Random,
    noise_rng: np.random.Generator,
) -> Iterator[str]:
    """The page's crops, each an image and a record."""
    crops = page_crops(page, texts, settings.cut, settings.max_chars, settings.degrade, rng, noise_rng)
    for index, crop in enumerate(crops):
        path = image_path(texts.split, number, f"-{index:02}.{crop.suffix}")
        write_image(folder, path, crop.data)
        yield record(f"{texts.split}-{number:06}-{index:02}", path, LINE_PROMPT, crop.text, crop.glyphs)


def page_image(
    settings: SynthSettings,
    folder: Path,
    number: int,
    page: RenderedPage,
    split: SplitName,
    rng: Random,
    noise_rng: np.random.Generator,
) -> PageImage:
    """Damage the whole page and write it."""
    damage = draw_damage(rng, settings.degrade, page.dpi)
    # A grey page is a third of the work in all that follows.
    clean = page.image.convert("L") if damage.gray else page.image
    turned, forward = cut(clean, (0, 0, clean.width, clean.height), damage.skew_deg)
    path = image_path(split, number, f".{damage.suffix}")
    write_image(folder, path, encode(wear(turned, damage, noise_rng), damage))
    return PageImage(path, turned.size, forward)


def page_records(
    settings: SynthSettings, number: int, page: RenderedPage, image: PageImage, texts: Texts, rng: Random
) -> Iterator[str]:
    """One record of the whole page for each task."""
    glyphs = None
    if settings.glyphs:
        glyphs = image.moved(glyph for leaf in page.leaves for glyph in leaf.glyphs)
    for task in TASKS:
        # Drawn for every task, so that leaving one out does not change the others.
        prompt, answer = task_texts(task, page.document, texts, rng)
        if task in settings.tasks:
            yield record(f"{texts.split}-{number:06}-{task}", image.path, prompt, answer, glyphs)


def task_texts(task: Task, document: PageTree, texts: Texts, rng: Random) -> tuple[str, str]:
    """Prompt and answer of one task.

    Only questions whose answer belongs to the page's split are asked; the page's reference always does.
    """
    if task == "read":
        return rng.choice(READ_PROMPTS), to_markdown(document)
    if task == "fields":
        return rng.choice(FIELDS_PROMPTS), to_fields(document)
    asked = rng.choice([item for item in questions(document) if texts.owns(item.answer)])
    return rng.choice(QA_PROMPTS).format(asked.question), asked.answer
