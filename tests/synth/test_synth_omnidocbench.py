"""The truth for OmniDocBench's judge, on real pages: what its README documents, and what the page says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from parsit.cli.main import dispatch
from parsit.eval.bench import BenchFolder
from parsit.synth import SynthSettings, synthesise
from parsit.synth.omnidocbench import table_html, table_latex
from parsit.synth.tree import Column, Table
from parsit.types import UsageError

pytestmark = pytest.mark.slow  # its pages take some seconds together
SPLITS = ("train", "validation", "test")
# "Evaluation Categories" and "Attribute Labels" of the README, as far as our pages have them.
TEXTS, ALL = {"title", "text_block"}, {"title", "text_block", "table", "equation_isolated"}
ATTRIBUTES = {
    "text_language": {"text_en"},
    "text_rotate": {"normal"},
    "language": {"table_en"},
    "line": {"full_line", "less_line", "wireless_line"},
    "with_span": {False},
    "include_equation": {False},
    "include_backgroud": {False, True},
    "table_vertical": {False},
    "formula_type": {"print"},
    "equation_language": {"equation_en"},
}
LAYOUTS = {"single_column", "1andmore_column", "other_layout"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pages of all kinds, in three splits."""
    out = tmp_path_factory.mktemp("truth") / "set"
    command = ["--out", str(out), "--pages", "12", "--seed", "1", "--dpi", "96-110", "--workers", "1", "--omnidocbench"]
    fractions = ["--validation_fraction", "0.25", "--test_fraction", "0.25"]
    assert dispatch(["data", "synth", *command, "--glyphs", "--tasks", "read", *fractions]) == 0
    return out


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    """Reports; in pages 13 and 19 a text goes on in the second column."""
    out = tmp_path_factory.mktemp("reports") / "set"
    settings = SynthSettings(out, 20, seed=1, kinds=("report",), tasks=("read",), dpi=(96, 96), degrade="none",
                             glyphs=True, omnidocbench=True, validation_fraction=0, test_fraction=0)  # fmt: skip
    synthesise(settings)
    return out


def truth(folder: Path, split: str = "train") -> list[dict]:
    return json.loads((folder / f"{split}.omnidocbench.json").read_text(encoding="utf-8"))


def pages(folder: Path) -> list[tuple[dict, dict]]:
    """Each page's truth and its record."""
    found = []
    for split in SPLITS:
        records = list(map(json.loads, (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()))
        by_image = {record["image"]: record for record in records}
        assert len(truth(folder, split)) == len(records)
        found += [(page, by_image[f"images/{page['page_info']['image_path']}"]) for page in truth(folder, split)]
    return found


def answer(record: dict) -> str:
    return record["conversations"][1]["value"]


def squeezed(text: str) -> str:
    return "".join(text.split())


def inside(poly: list[float], x: float, y: float) -> bool:
    return poly[0] <= x <= poly[4] and poly[1] <= y <= poly[5]


def upright(poly: list[float], width: int, height: int) -> bool:
    left, top, right, bottom = poly[0], poly[1], poly[4], poly[5]
    corners = [left, top, right, top, right, bottom, left, bottom]
    return poly == corners and 0 <= left < right <= width and 0 <= top < bottom <= height


def test_every_page_has_the_documented_fields(folder):
    assert len(pages(folder)) == 12
    for page, _ in pages(folder):
        assert set(page) == {"layout_dets", "page_info", "extra"}
        info = page["page_info"]
        with Image.open(folder / "images" / info["image_path"]) as image:
            assert (info["width"], info["height"]) == image.size
        assert info["page_no"] == 0
        attributes = info["page_attribute"]
        assert (attributes["language"], attributes["watermark"]) == ("english", False)
        assert attributes["layout"] in LAYOUTS
        assert set(page["extra"]) == {"relation"}


def test_every_annotation_has_the_documented_fields(folder):
    content = {"title": {"text"}, "text_block": {"text"}, "table": {"html", "latex"}, "equation_isolated": {"latex"}}
    shared = {"category_type", "poly", "ignore", "order", "anno_id", "attribute"}
    for page, _ in pages(folder):
        width, height = page["page_info"]["width"], page["page_info"]["height"]
        found = page["layout_dets"]
        assert [one["order"] for one in found] == list(range(1, len(found) + 1)), "the judge takes 0 for no order"
        assert [one["anno_id"] for one in found] == list(range(len(found)))
        for one in found:
            category = one["category_type"]
            assert set(one) - {"line_with_spans"} == shared | content[category]
            assert ("line_with_spans" in one) == (category in TEXTS)
            assert one["ignore"] is False
            assert upright(one["poly"], width, height)
            assert all(value in ATTRIBUTES[name] for name, value in one["attribute"].items())
            for span in one.get("line_with_spans", ()):
                assert set(span) == {"category_type", "poly", "ignore", "text"}
                assert upright(span["poly"], width, height)
    assert {one["category_type"] for page, _ in pages(folder) for one in page["layout_dets"]} >= ALL - {
        "equation_isolated"
    }


def test_annotations_say_what_the_markdown_says_in_its_order(folder, reports):
    formulas = 0
    for page, record in [*pages(folder), *pages(reports)]:
        blocks, goes_on = [], {one["source_anno_id"] for one in page["extra"]["relation"]}
        begun = ""
        for one in page["layout_dets"]:
            if one["category_type"] == "table":
                blocks.append(one)
            elif one["anno_id"] in goes_on:
                begun += one["text"]
            else:
                blocks.append(begun + one.get("text", one.get("latex")))
                formulas += "latex" in one
                begun = ""
        written = answer(record).split("\n\n")
        assert len(blocks) == len(written)
        for block, markdown in zip(blocks, written, strict=True):
            if isinstance(block, dict):
                assert cells(block["html"]) == pipe_cells(markdown)
                assert latex_cells(block["latex"]) == pipe_cells(markdown)
            else:
                assert block == re.sub(r"^#+ ", "", markdown)
    assert formulas > 3


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in ("table", "tr", "td")
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


def cells(html: str) -> list[list[str]]:
    parser = _Cells()
    parser.feed(html)
    return parser.rows


def pipe_cells(markdown: str) -> list[list[str]]:
    rows = [line[2:-2].split(" | ") for line in markdown.split("\n")]
    return [rows[0], *rows[2:]]


def latex_cells(latex: str) -> list[list[str]]:
    rows = [line.removesuffix(r" \\").split(" & ") for line in latex.split("\n")[1:-1]]
    return [[re.sub(r"\\([&%$#_{}])", r"\1", cell) for cell in row] for row in rows]


def test_boxes_hold_the_characters_of_their_block_and_lines_theirs(folder, reports):
    for page, record in [*pages(folder), *pages(reports)]:
        glyphs = iter(record["glyphs"][0])
        for one in page["layout_dets"]:
            if one["category_type"] == "equation_isolated":
                continue  # its characters are not in the record
            text = one["text"] if "text" in one else "".join(map("".join, cells(one["html"])))
            own = [next(glyphs) for _ in squeezed(text)]
            assert "".join(glyph[0] for glyph in own) == squeezed(text)
            assert min(glyph[1] for glyph in own) == one["poly"][0]
            assert max(glyph[4] for glyph in own) == one["poly"][5]
            spans = one.get("line_with_spans", [])
            assert not spans or squeezed("".join(span["text"] for span in spans)) == squeezed(text)
            lines = iter(own)
            for span in spans:
                for _ in squeezed(span["text"]):
                    _, x0, y0, x1, y1 = next(lines)
                    assert inside(span["poly"], (x0 + x1) / 2, (y0 + y1) / 2)
        assert next(glyphs, None) is None


def test_a_text_that_goes_on_in_the_next_column_is_two_boxes_and_a_relation(reports):
    related = [page for page, _ in pages(reports) if page["extra"]["relation"]]
    assert len(related) >= 2
    for page in related:
        (relation,) = page["extra"]["relation"]
        assert relation["relation_type"] == "truncated"
        first, second = (page["layout_dets"][relation[f"{end}_anno_id"]] for end in ("source", "target"))
        assert first["poly"][4] < second["poly"][0], "in two columns"
        assert second["poly"][1] < first["poly"][1], "the second goes on at the top"
        assert first["text"][-1].isspace()
        assert first["category_type"] == second["category_type"] == "text_block"
        assert page["page_info"]["page_attribute"]["layout"] == "1andmore_column"


def test_a_formulas_box_holds_its_ink(reports):
    """On clean pages: there is ink in the box, and none of it touches the box from outside."""
    seen = 0
    for page, _ in pages(reports):
        with Image.open(reports / "images" / page["page_info"]["image_path"]) as opened:
            image = opened.convert("L").point([255] * 100 + [0] * 156)
        for one in page["layout_dets"]:
            if one["category_type"] == "equation_isolated":
                left, top, right, bottom = one["poly"][0], one["poly"][1], one["poly"][4], one["poly"][5]
                within = image.crop((int(left), int(top), int(right) + 1, int(bottom) + 1)).getbbox()
                around = image.crop((int(left) - 6, int(top), int(right) + 7, int(bottom) + 1)).getbbox()
                assert within is not None
                assert around == (within[0] + 6, within[1], within[2] + 6, within[3])
                seen += 1
    assert seen > 3


def test_special_characters_in_tables():
    table = Table((Column("a", "A & B"), Column("b", "50%", numeric=True)), (("<x>", "$1_000"), ("{~}", r"a\b^#")))
    assert table_html(table) == (
        "<table><tr><td>A &amp; B</td><td>50%</td></tr><tr><td>&lt;x&gt;</td><td>$1_000</td></tr>"
        r"<tr><td>{~}</td><td>a\b^#</td></tr></table>"
    )
    assert table_latex(table).split("\n") == [
        r"\begin{tabular}{lr}",
        r"A \& B & 50\% \\",
        r"<x> & \$1\_000 \\",
        r"\{\textasciitilde{}\} & a\textbackslash{}b\textasciicircum{}\# \\",
        r"\end{tabular}",
    ]


def test_the_truth_names_the_pages_that_are_read(folder):
    """`parsit eval --bench omnidocbench` takes the file: a split's pages, and no others."""
    files = BenchFolder.open(folder / "test.omnidocbench.json", "omnidocbench")
    assert files.root == folder
    assert [f"images/{page['page_info']['image_path']}" for page in truth(folder, "test")] == [
        str(file.relative_to(folder)) for file in files.files
    ]
    assert 0 < len(files.files) < len(BenchFolder.open(folder, "omnidocbench").files) == 12


def test_without_the_flag_nothing_is_written_and_nothing_else_differs(folder, tmp_path):
    settings = SynthSettings(tmp_path / "set", 12, seed=1, dpi=(96, 110), glyphs=True, tasks=("read",),
                             validation_fraction=0.25, test_fraction=0.25)  # fmt: skip
    synthesise(settings)
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    plain = {path.relative_to(settings.out) for path in settings.out.rglob("*") if path.is_file()}
    assert {path.name for path in names - plain} == {f"{split}.omnidocbench.json" for split in SPLITS}
    for name in plain - {Path("synth.json")}:
        assert (settings.out / name).read_bytes() == (folder / name).read_bytes()


def test_lines_have_no_truth_of_pages(tmp_path):
    with pytest.raises(UsageError, match="--omnidocbench is the truth of whole pages"):
        synthesise(SynthSettings(tmp_path / "set", 1, unit="line", omnidocbench=True))
