"""Page images with text from real PDFs: reading order, what is refused and why, splits, and broken files."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c
import pytest
import typst
from PIL import Image

from parsit.parse.lines import split_lines
from parsit.parse.reader import MAX_LINE_ASPECT
from parsit.synth.from_pdf import FromPdfSettings, make_from_pdfs
from parsit.synth.from_pdf.order import reading_order
from parsit.synth.from_pdf.run import source_of
from parsit.synth.from_pdf.text import paragraphs_of
from parsit.synth.from_pdf.words import TextRun, pieces_of
from parsit.types import InputError, UsageError
from pdf_support import ENDLESS, shading_objects

LEFT = (
    "The quick surveyor measured the old bridge before winter, and wrote every figure into a small grey book that he"
    " kept for exactly this purpose. Nobody else had ever thought of doing so."
)
RIGHT = (
    "Years later the book was found in a cupboard behind the office stove, still dry, and every figure in it proved to"
    " be right to the last inch. The bridge itself had long gone."
)
COLUMNS = f"""
#set page(width: 16cm, height: 12cm, margin: 1.5cm)
#set page(header: [A journal of bridges #h(1fr) 12], footer: align(center)[page 7])
#set text(size: 9pt, font: "Libertinus Serif", hyphenate: false)
#set par(justify: true)
#align(center, text(14pt)[Measuring an old bridge])
#grid(columns: (1fr, 1fr), gutter: 5mm, [= First\n{LEFT}], [= Second\n{RIGHT}])
#table(columns: (2fr, 1fr, 1fr), [Item], [Quantity], [Price], [Screws of zinc], [12], [3.40], [Hinges], [1], [14.00])
- one point
- another point that is longer than the line of this page can ever be, so that it needs a second line to end
- a third
"""
COLUMNS_TEXT = f"""A journal of bridges 12

Measuring an old bridge

First
{LEFT}

Second
{RIGHT}

Item Quantity Price
Screws of zinc 12 3.40
Hinges 1 14.00

• one point
• another point that is longer than the line of this page can ever be, so that it needs a second line to end
• a third

page 7"""
SMALL = '#set page(width: 12cm, height: 8cm, margin: 1cm)\n#set text(size: 10pt, font: "Libertinus Serif")\n'


ADDRESS = [("Richard Thompson", 106.0), ("68 rue Saint-Honoré", 113.0), ("3234 Perpignan", 89.0)]


@pytest.fixture
def pdfs(tmp_path) -> Callable[..., Path]:
    """A function that typesets a PDF into the folder of PDFs."""

    def write(source: str, name: str = "a.pdf", folder: Path = tmp_path / "pdfs") -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(typst.compile(source.encode()))
        return path

    return write


def settings(tmp_path, **more) -> FromPdfSettings:
    return FromPdfSettings(
        **{"folder": tmp_path / "pdfs", "out": tmp_path / "out", "dpi": (100, 100), "validation_fraction": 0.0}
        | {"test_fraction": 0.0}
        | more
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(out: Path, split: str = "train") -> dict[str, str]:
    return {record["id"]: record["conversations"][1]["value"] for record in lines(out / f"{split}.jsonl")}


def findings(out: Path) -> list[tuple[str, str]]:
    return [(finding["code"], finding["place"]) for finding in lines(out / "findings.jsonl")]


def changed(path: Path, change: Callable[[pypdfium2.PdfDocument], None]) -> None:
    """Change a PDF in its place."""
    document = pypdfium2.PdfDocument(path.read_bytes())
    change(document)
    document.save(path)
    document.close()


def test_a_page_with_columns_a_header_a_table_and_a_list(tmp_path, pdfs):
    pdfs(COLUMNS)
    counts = make_from_pdfs(settings(tmp_path))
    assert texts(tmp_path / "out") == {"a.pdf#1": COLUMNS_TEXT}
    assert (counts.pdfs, counts.pages, counts.findings) == (1, 1, {})
    assert counts.mean_quality > 0.9
    (record,) = lines(tmp_path / "out/train.jsonl")
    with Image.open(tmp_path / "out" / record["image"]) as image:
        assert (image.format, image.size) == ("PNG", (630, 473))
    summary = json.loads((tmp_path / "out/synth.json").read_text())
    assert summary["counts"]["pages_by_split"] == {"train": 1, "validation": 0, "test": 0}


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("by_page", [True, False], ids=["page turned", "text turned"])
def test_turned_pages_are_upright(tmp_path, pdfs, degrees, by_page):
    body = f"#box(width: 8cm)[{LEFT}]"
    turned = f"#rotate({degrees}deg, reflow: true)[{body}]"
    path = pdfs(f"{SMALL}#set page(width: auto, height: auto)\n{body if by_page else turned}")
    if by_page:
        changed(path, lambda document: document[0].set_rotation(degrees))
    make_from_pdfs(settings(tmp_path, glyphs=True))
    assert texts(tmp_path / "out") == {"a.pdf#1": LEFT}
    (record,) = lines(tmp_path / "out/train.jsonl")
    with Image.open(tmp_path / "out" / record["image"]) as image:
        grey = np.asarray(image.convert("L"))
    # A page turned by its file is drawn so; text is read as it is drawn, and stands upright in the end.
    boxes = np.array([glyph[1:] for glyph in record["glyphs"][0]])
    assert grey.shape[1] > grey.shape[0]
    inked = [grey[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1].min() < 128 for x0, y0, x1, y1 in boxes]
    assert np.mean(inked) > 0.98
    assert sorted(glyph[0] for glyph in record["glyphs"][0]) == sorted(LEFT.replace(" ", ""))


def test_a_stamp_at_the_side_comes_last(tmp_path, pdfs):
    pdfs(f"{SMALL}#place(left, dx: -8mm, rotate(-90deg, reflow: true)[draft copy])\n{LEFT}")
    make_from_pdfs(settings(tmp_path))
    assert texts(tmp_path / "out")["a.pdf#1"] == f"{LEFT}\n\ndraft copy"


def test_ligatures_are_letters_with_a_box_each(tmp_path, pdfs):
    pdfs(f"{SMALL}The office of the chief found five official flags and fifty files.")
    make_from_pdfs(settings(tmp_path, glyphs=True))
    assert texts(tmp_path / "out")["a.pdf#1"] == "The office of the chief found five official flags and fifty files."
    glyphs = lines(tmp_path / "out/train.jsonl")[0]["glyphs"][0]
    office = glyphs[3:9]
    assert [glyph[0] for glyph in office] == list("office")
    assert all(before[3] <= after[1] + 0.2 and before[1] < after[1] for before, after in itertools.pairwise(office))


def test_hyphens_go_where_the_document_says_so(tmp_path, pdfs):
    page = "#set page(width: 9cm, height: 6cm, margin: 1cm)\n#set text(size: 10pt, hyphenate: false)\n"
    broken = [
        "The way to the tower was hardly ever used, for its bound-",
        "ary is a wall that nobody in this town ever calls well-",
        "known to anyone, and none of them gave us one exam-",
        "ple of it.",
    ]
    pdfs(f"{page}{' '.join(broken).replace('- ', f'-{chr(92)} ')}\n#pagebreak()\nA boundary of well-known words.")
    make_from_pdfs(settings(tmp_path))
    expected = "bound- ary", "boundary", "well- known", "well-known", "exam- ple", "exam-\nple"
    text = " ".join(broken)
    for before, after in zip(expected[::2], expected[1::2], strict=True):
        text = text.replace(before, after)
    assert texts(tmp_path / "out")["a.pdf#1"] == text


def test_the_lines_of_an_address_stay_lines(tmp_path, pdfs):
    pdfs(f"{SMALL}Richard Thompson \\\n68 rue Saint-Honoré \\\n3234 Perpignan\n\n{LEFT}")
    make_from_pdfs(settings(tmp_path))
    text = f"Richard Thompson\n68 rue Saint-Honoré\n3234 Perpignan\n\n{LEFT}"
    assert texts(tmp_path / "out")["a.pdf#1"] == text
    address = [line(text, 0, width, 100 + 14 * row, row) for row, (text, width) in enumerate(ADDRESS)]
    (paragraph,) = paragraphs_of(reading_order(address, 1000.0))
    assert paragraph == [["Richard Thompson"], ["68 rue Saint-Honoré"], ["3234 Perpignan"]]


def invisible(document: pypdfium2.PdfDocument) -> None:
    """Draw the text of the first page in the mode that leaves no ink."""
    page = document[0]
    for drawn in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT]):
        pdfium_c.FPDFTextObj_SetTextRenderMode(drawn.raw, pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE)
    page.gen_content()


REFUSED = {
    "page-no-text": "#rect(width: 3cm, height: 3cm)",
    "page-text-not-visible": f"#text(fill: white)[{LEFT}]",
    "page-broken-characters": f"{LEFT} \ue000\ue001 \ue002",
    "page-boxes-off": f"#place(dx: 15cm)[far away from here] {LEFT}",
    "page-text-doubled": f"#place(dx: 2pt)[{LEFT}]\n{LEFT}",
    "page-broken-spacing": " ".join(LEFT.replace(" ", "")),
    "page-turned-text": f"#place(right, rotate(90deg, reflow: true)[The bridge itself had gone])\n{LEFT}",
}


@pytest.mark.parametrize("code", REFUSED)
def test_each_reason_to_refuse_a_page(tmp_path, pdfs, code):
    pdfs(f"{SMALL}{LEFT}\n#pagebreak()\n{REFUSED[code]}\n#pagebreak()\n{RIGHT}")
    counts = make_from_pdfs(settings(tmp_path))
    assert findings(tmp_path / "out") == [(code, "a.pdf#2")]
    assert counts.findings == {code: 1}
    assert texts(tmp_path / "out") == {"a.pdf#1": LEFT, "a.pdf#3": RIGHT}
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 2


def test_text_that_is_not_drawn_is_refused(tmp_path, pdfs):
    changed(pdfs(f"{SMALL}{LEFT}"), invisible)
    make_from_pdfs(settings(tmp_path))
    assert findings(tmp_path / "out") == [("page-text-not-visible", "a.pdf#1")]


def test_scans(tmp_path, pdfs):
    plain = pdfs(f"{SMALL}{LEFT}", "plain.pdf", tmp_path / "elsewhere")
    document = pypdfium2.PdfDocument(plain.read_bytes())
    picture = document[0].render(scale=2).to_pil()
    (tmp_path / "pdfs").mkdir()
    picture.save(tmp_path / "pdfs/image.pdf", resolution=144)
    with_layer = tmp_path / "pdfs/layer.pdf"
    with_layer.write_bytes(plain.read_bytes())

    def scan(document: pypdfium2.PdfDocument) -> None:
        invisible(document)
        page = document[0]
        image = pypdfium2.PdfImage.new(document)
        image.set_bitmap(pypdfium2.PdfBitmap.from_pil(picture))
        image.set_matrix(pypdfium2.PdfMatrix().scale(*page.get_size()))
        page.insert_obj(image)
        page.gen_content()

    changed(with_layer, scan)
    make_from_pdfs(settings(tmp_path))
    assert findings(tmp_path / "out") == [("page-no-text", "image.pdf#1"), ("page-scanned", "layer.pdf#1")]
    make_from_pdfs(settings(tmp_path, allow_scanned=True, overwrite=True))
    assert texts(tmp_path / "out") == {"layer.pdf#1": LEFT}


def raw_pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF from its objects; object 1 is the catalog. PDFium mends the missing table of places."""
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, each) for number, each in enumerate(objects, 1))
    return b"%%PDF-1.4\n%strailer\n<</Size %d /Root 1 0 R %s>>\n%%%%EOF\n" % (body, len(objects) + 1, trailer)


def hanging() -> bytes:
    """A file of one page with a few lines, as only pages with text are drawn, that no machine draws in time."""
    resources = b"<</Font <</F 7 0 R>> /Shading <</S 5 0 R>>>>"
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 300 99] /Resources %s /Contents 4 0 R>>" % resources
    shown = "".join(f"({line}) Tj T*\n" for line in textwrap.wrap(LEFT, 50))
    content = b"BT /F 10 Tf 12 TL 9 80 Td %s ET\n" % shown.encode() + ENDLESS
    objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count 1 /Kids [3 0 R]>>", page]
    objects.append(b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content))
    font = b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>"
    return raw_pdf([*objects, *shading_objects(5), font])


@pytest.mark.slow
def test_files_that_cannot_be_read_stop_nothing(tmp_path, pdfs):
    good = pdfs(f"{SMALL}{LEFT}", "deep/in/good.PDF")
    handler = b"/Encrypt <</Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s>>> /ID [<00><00>]" % (
        b"11" * 32,
        b"22" * 32,
    )
    catalog = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count 0 /Kids []>>"]
    files = {"cut": good.read_bytes()[:2000], "empty": b"", "locked": raw_pdf(catalog, handler), "slow": hanging()}
    for name, data in files.items():
        (tmp_path / f"pdfs/{name}.pdf").write_bytes(data)
    make_from_pdfs(settings(tmp_path, timeout_s=8.0, workers=3))
    assert texts(tmp_path / "out") == {"deep/in/good.PDF#1": LEFT}
    found = {finding["place"]: finding for finding in lines(tmp_path / "out/findings.jsonl")}
    assert {place: finding["code"] for place, finding in found.items()} == {
        "cut.pdf": "pdf-unreadable",
        "empty.pdf": "pdf-unreadable",
        "locked.pdf": "pdf-unreadable",
        "slow.pdf#1": "pdf-page-failed",
    }
    assert "encrypted" in found["locked.pdf"]["detail"]
    assert "longer than 8 s" in found["slow.pdf#1"]["detail"]
    assert not any(str(tmp_path) in finding["detail"] for finding in found.values())


@pytest.mark.slow
def test_splits_are_by_document_and_repeat(tmp_path, pdfs):
    for number in range(6):
        pdfs(f"{SMALL}Number {number}. {LEFT}\n#pagebreak()\nNumber {number} goes on. {RIGHT}", f"{number}.pdf")
    (tmp_path / "pdfs/copy.pdf").write_bytes((tmp_path / "pdfs/0.pdf").read_bytes())
    first = settings(tmp_path, validation_fraction=0.3, test_fraction=0.3, seed=4, workers=1, dpi=(60, 100))
    make_from_pdfs(first)
    split_of = {
        identifier: split for split in ("train", "validation", "test") for identifier in texts(first.out, split)
    }
    assert len(split_of) == 14
    assert len(set(split_of.values())) > 1
    for number in [*range(6), "copy"]:
        assert split_of[f"{number}.pdf#1"] == split_of[f"{number}.pdf#2"]
    assert split_of["copy.pdf#1"] == split_of["0.pdf#1"]
    assert findings(first.out) == [("pdf-duplicate", "copy.pdf")]
    second = replace(first, out=tmp_path / "again", workers=3)
    make_from_pdfs(second)

    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(first.out) == files(second.out)
    splits = {source_of(replace(first, seed=seed), tmp_path / "pdfs/1.pdf").split for seed in range(20)}
    assert splits == {"train", "validation", "test"}


@pytest.mark.slow
def test_pages_are_chosen_by_the_seed(tmp_path, pdfs):
    pdfs(SMALL + "\n#pagebreak()\n".join(f"Page {number}. {LEFT}" for number in range(1, 9)))
    chosen = []
    for seed in (1, 1, 2, 3, 4, 5, 6):  # two of them draw the same three of eight pages once in 56 times
        make_from_pdfs(settings(tmp_path, pages_per_pdf=3, seed=seed, overwrite=True))
        chosen.append(list(texts(tmp_path / "out")))
    assert len(chosen[0]) == 3
    assert chosen[0] == chosen[1]
    assert chosen[2:] != [chosen[0]] * 5


def test_quality_below_the_limit(tmp_path, pdfs):
    pdfs(f"{SMALL}a b c d {LEFT}")
    make_from_pdfs(settings(tmp_path, min_quality=0.999))
    assert findings(tmp_path / "out") == [("page-low-quality", "a.pdf#1")]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"dpi": (200, 100)}, UsageError, "--dpi"),
        ({"pages_per_pdf": 0}, UsageError, "--pages_per_pdf"),
        ({"min_quality": 1.5}, UsageError, "--min_quality"),
        ({"workers": 0}, UsageError, "--workers"),
        ({"test_fraction": 0.6}, UsageError, "--test_fraction"),
        ({"degrade": "light"}, UsageError, "--degrade is for --unit line"),
        ({"unit": "line", "degrade": "much"}, UsageError, "--degrade must be one of none, light, full"),
        ({"folder": Path("/nowhere/at/all")}, InputError, "no such folder"),
        ({}, InputError, "no PDF in it"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, more, error, message):
    (tmp_path / "pdfs").mkdir()
    with pytest.raises(error, match=message):
        make_from_pdfs(settings(tmp_path, **more))
    assert [path.name for path in tmp_path.iterdir()] == ["pdfs"]


def test_a_folder_that_is_no_data_set_is_not_replaced(tmp_path, pdfs):
    pdfs(f"{SMALL}{LEFT}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError):
            make_from_pdfs(settings(tmp_path, overwrite=overwrite))
    assert (tmp_path / "out/mine.txt").read_text() == "precious"


def line(text: str, x0: float, x1: float, base: float, number: int) -> TextRun:
    return TextRun(text, x0, x1, base, 12.0, 20.0, number, number)


def order(pieces: list[TextRun]) -> str:
    return " ".join(piece.text for block in reading_order(pieces, 1000.0) for row in block.rows for piece in row)


def test_columns_are_read_one_after_the_other_and_tables_row_by_row():
    rows = range(5)
    left = [line(f"l{row}", 0, 200, 300 + 14 * row, row) for row in rows]
    right = [line(f"r{row}", 215, 415, 300 + 14 * row, 100 + row) for row in rows]
    assert order(left + right) == "l0 l1 l2 l3 l4 r0 r1 r2 r3 r4"
    # Baselines that do not fit together, so that no empty row goes through both.
    shifted = [replace(piece, base=piece.base + 5) for piece in right]
    assert order(left + shifted) == "l0 l1 l2 l3 l4 r0 r1 r2 r3 r4"
    # Drawn line by line from left to right: a table.
    in_turn = [replace(piece, number=2 * row, last=2 * row) for row, piece in enumerate(left)]
    in_turn += [replace(piece, number=2 * row + 1, last=2 * row + 1) for row, piece in enumerate(right)]
    assert order(in_turn) == "l0 r0 l1 r1 l2 r2 l3 r3 l4 r4"
    # Narrow columns are a table's.
    narrow = [replace(piece, x0=215.0, x1=250.0) for piece in right]
    assert order(left + narrow) == "l0 r0 l1 r1 l2 r2 l3 r3 l4 r4"
    # A table below the columns, with its gap where theirs is.
    rows = range(5, 7)
    table = [line(f"t{row}", 0, 60, 310 + 14 * row, 200 + 2 * row) for row in rows]
    table += [line(f"u{row}", 300, 330, 310 + 14 * row, 201 + 2 * row) for row in rows]
    assert order([*left, *right, *table]) == "l0 l1 l2 l3 l4 r0 r1 r2 r3 r4 t5 u5 t6 u6"
    # Two addresses, drawn one after the other; the same lines drawn in turn are rows.
    first = [replace(piece, x1=60.0) for piece in left[:2]]
    second = [replace(piece, x1=260.0, number=2 + row, last=2 + row) for row, piece in enumerate(right[:2])]
    assert order(first + second) == "l0 l1 r0 r1"
    assert order([*first, replace(second[0], number=9, last=9), second[1]]) == "l0 r0 l1 r1"
    # A title above and a note below go through both columns.
    title, note = line("title", 100, 300, 250, 200), line("note", 0, 415, 420, 201)
    assert order([*left, *right, note, title]) == "title l0 l1 l2 l3 l4 r0 r1 r2 r3 r4 note"


def test_words_across_a_narrow_gutter_are_not_one_line():
    words = [line("left", 0, 40, 100, 0), line("end", 45, 80, 100, 1), line("right", 90, 130, 100, 40)]
    assert [piece.text for piece in pieces_of(words)] == ["left end", "right"]
    drawn_on = [words[0], words[1], replace(words[2], number=2, last=2)]
    assert [piece.text for piece in pieces_of(drawn_on)] == ["left end right"]


@pytest.mark.slow
def test_lines_are_cut_as_the_reader_cuts_the_page_with_their_text(tmp_path, pdfs):
    pages = settings(tmp_path, out=tmp_path / "pages", dpi=(150, 150))
    crops = settings(tmp_path, out=tmp_path / "lines", dpi=(150, 150), unit="line")
    pdfs(COLUMNS)
    of_pages, counts = make_from_pdfs(pages), make_from_pdfs(crops)
    made = lines(crops.out / "train.jsonl")
    assert counts.pages == len(made) > 20
    assert counts.mean_quality == of_pages.mean_quality
    (page,) = (tmp_path / "pages").rglob("*.png")
    with Image.open(page) as image:
        boxes = split_lines(image.convert("RGB"), max_aspect=MAX_LINE_ASPECT)
        pieces = {image.convert("RGB").crop(box).tobytes() for box in boxes}
    words = set(" ".join(texts(pages.out).values()).split())
    for record in made:
        with Image.open(crops.out / record["image"]) as crop:
            assert crop.convert("RGB").tobytes() in pieces
        text = record["conversations"][1]["value"]
        assert "".join(glyph[0] for glyph in record["glyphs"][0]) == text.replace(" ", "")
    said = [word for record in made for word in record["conversations"][1]["value"].split()]
    assert sum(word in words for word in said) > 0.9 * len(said)  # a long word may be cut
    assert "Hinges" in said


@pytest.mark.slow
def test_lines_are_damaged_where_that_is_asked_for(tmp_path, pdfs):
    chosen = settings(tmp_path, unit="line", degrade="full")
    pdfs(COLUMNS)
    make_from_pdfs(chosen)
    assert {Path(record["image"]).suffix for record in lines(chosen.out / "train.jsonl")} == {".jpg"}
