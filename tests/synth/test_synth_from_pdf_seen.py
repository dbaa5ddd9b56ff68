"""What stands in the answer is what can be seen: forms, hidden text, scans in part, accents, soft hyphens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c
import pytest
import typst
from PIL import Image, ImageDraw, ImageFont

from parsit.synth.from_pdf.accents import join_accents
from parsit.synth.from_pdf.pdf import Chars
from pdf_support import text_page

DATA = Path(__file__).with_name("data")
TEXT = (
    "The quick surveyor measured the old bridge before winter, and wrote every figure into a small grey book that he"
    " kept for exactly this purpose. Nobody else had ever thought of doing so, and nobody has ever asked him why."
    " Years later the book was found in a cupboard behind the office stove, still dry, and every figure in it proved to"
    " be right to the last inch. The bridge itself had long gone by then."
)
PAGE = '#set page(width: 14cm, height: 10cm, margin: 1cm)\n#set text(size: 10pt, font: "Libertinus Serif")\n'


def test_a_form_is_drawn_without_what_was_filled_in(read, tmp_path):
    (text,), _ = read(DATA / "form-with-values.pdf")
    assert text.endswith("Name:\n\nAddress:\n\nTelephone:\n\nRemarks:")
    (path,) = (tmp_path / "out" / "images").rglob("*.png")
    document = pypdfium2.PdfDocument(DATA / "form-with-values.pdf")
    blank = document[0].render(scale=90 / 72, draw_annots=False).to_pil().convert("RGB")
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(blank))


def test_an_annotation_is_not_drawn(read, tmp_path):
    read(f"{PAGE}{TEXT}")
    pictures = [path.read_bytes() for path in (tmp_path / "out" / "images").rglob("*.png")]

    def stamp(document: pypdfium2.PdfDocument) -> None:
        page = document[0]
        note = pdfium_c.FPDFPage_CreateAnnot(page.raw, pdfium_c.FPDF_ANNOT_SQUARE)
        pdfium_c.FPDFAnnot_SetRect(note, pdfium_c.FS_RECTF(30, 90, 120, 20))
        pdfium_c.FPDFAnnot_SetColor(note, pdfium_c.FPDFANNOT_COLORTYPE_Color, 255, 0, 0, 255)
        pdfium_c.FPDFPage_CloseAnnot(note)

    assert read(f"{PAGE}{TEXT}", stamp) == ([TEXT], [])
    assert [path.read_bytes() for path in (tmp_path / "out" / "images").rglob("*.png")] == pictures


@pytest.mark.parametrize(
    ("name", "hidden", "end"),
    [("blacked-out", "Orla Vance", "\nPaid by today."), ("hidden-layer", "secret note", "since the long winter.")],
)
def test_text_that_cannot_be_seen_is_left_out(read, name, hidden, end):
    (text,), _ = read(DATA / f"{name}.pdf")
    assert hidden not in text
    assert text.endswith(end)


HIDDEN = {
    "white": "#text(fill: white)[secret]",
    "nearly white": '#text(fill: rgb("#f5f5f5"))[secret]',
    "transparent": "#text(fill: rgb(0, 0, 0, 0))[secret]",
    "covered by a white box": "#box[secret#place(top, dx: -1mm, dy: -1mm, rect(width: 2cm, height: 6mm, fill: white))]",
    "covered by its own colour": "#box(fill: blue, text(fill: blue)[secret])",
    "cut off by a frame": "#box(width: 0mm, height: 0mm, clip: true)[secret]",
}


@pytest.mark.parametrize("how", HIDDEN)
def test_every_way_to_hide_a_word(read, how):
    texts, codes = read(f"{PAGE}{TEXT}\n\n{HIDDEN[how]}\n\n{TEXT[:60]}")
    assert codes == []
    assert texts == [f"{TEXT}\n\n{TEXT[:60].strip()}"]


def test_text_on_a_dark_ground_is_seen(read):
    box = '#block(fill: rgb("#203040"), inset: 3mm, text(fill: white)[Seen on the dark])'
    assert read(f"{PAGE}{box}\n{TEXT}") == ([f"Seen on the dark\n\n{TEXT}"], [])


def test_a_page_that_is_a_scan_in_part_is_refused(read):
    assert read(DATA / "half-scan.pdf") == ([], ["page-ink-without-text"])


def lettered(size: tuple[int, int]) -> Image.Image:
    """A picture with writing in it."""
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(28)
    for row in range(0, size[1] - 30, 40):
        ImageDraw.Draw(image).text((5, row), "written in the picture alone", "black", font)
    return image


def test_a_small_picture_with_writing_is_refused_and_rules_are_not(read, tmp_path):
    lettered((420, 120)).save(tmp_path / "note.png")
    picture = (tmp_path / "note.png").relative_to("/").as_posix()
    rules = "#table(columns: 3, [a], [b], [c], [d], [e], [f])\n#line(length: 100%)\n#underline[seen]"
    plain = f"{PAGE}{TEXT}\n{rules}"
    assert read(plain)[1] == []
    texts = typst_with_root(f'{plain}\n#image("/{picture}", width: 4cm)', tmp_path / "pictured.pdf")
    assert read(texts) == ([], ["page-ink-without-text"])


def typst_with_root(source: str, path: Path) -> Path:
    (path.parent / "source.typ").write_text(source)
    path.write_bytes(typst.compile(path.parent / "source.typ", root="/"))
    return path


def test_letters_drawn_as_paths_are_no_text(read):
    strokes = "".join(f"#place(dx: {x}mm, circle(radius: 2mm, stroke: 1pt))" for x in range(0, 110, 5))
    assert read(f"{PAGE}{TEXT}\n\n{strokes}")[1] == ["page-ink-without-text"]


def test_lines_from_right_to_left_are_refused(read):
    texts, codes = read(DATA / "hebrew-line.pdf")
    assert codes == ["page-right-to-left"]
    assert [text[:6] for text in texts] == ["A lamp"]
    assert read(f'{PAGE}{TEXT} #text(font: "DejaVu Sans Mono")[سلام]')[1] == ["page-right-to-left"]


def test_a_file_that_says_it_runs_from_right_to_left_is_refused(read, tmp_path):
    plain = text_page(b"BT /F 12 Tf 20 150 Td (Some plain words, in a line; and no more.) Tj ET")
    for name in ("R2L", "L2R"):
        page = plain.replace(b"/Catalog", b"/Catalog /ViewerPreferences <</Direction /%s>>" % name.encode())
        (tmp_path / name).write_bytes(page)
    assert read(tmp_path / "R2L") == ([], ["page-right-to-left"])
    assert read(tmp_path / "L2R") == (["Some plain words, in a line; and no more."], [])


def test_soft_hyphens_are_in_no_word(read):
    (text,), _ = read(DATA / "soft-hyphens.pdf")
    assert "The cooperation of the international harbour authorities was signed." in text
    assert "\u00ad" not in text


def chars_at(*places: tuple[str, float, float, float]) -> Chars:
    """Characters as (text, left, right, top) on one line, drawn in this order."""
    boxes = np.array([[x0, y0, x1, 0.5 if y0 > 0.3 else y0 + 0.02] for _, x0, x1, y0 in places])
    loose = np.array([[x0, 0.3, x1, 0.55] for _, x0, x1, _ in places])
    none = np.zeros(len(places), bool)
    origin = np.array([[x0, 0.5] for _, x0, _, _ in places])
    return Chars(tuple(text for text, *_ in places), boxes, loose, origin, np.zeros(len(places)), none, none)


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ([("h", 0, 0.1, 0.35), ("´", 0.13, 0.17, 0.3), ("e", 0.11, 0.2, 0.4), ("o", 0.21, 0.3, 0.4)], "héo"),
        ([("m", 0, 0.1, 0.4), ("\u02c6", 0.12, 0.18, 0.3), ("e", 0.11, 0.2, 0.4)], "mê"),
        ([("`", 0.02, 0.06, 0.3), ("a", 0, 0.1, 0.4)], "à"),
        ([("¨", 0.02, 0.08, 0.3), ("\u0131", 0.03, 0.07, 0.4)], "ï"),
        ([("~", 0.02, 0.08, 0.3), ("N", 0, 0.1, 0.35)], "Ñ"),
        ([("c", 0, 0.1, 0.4), ("¸", 0.03, 0.07, 0.3)], "ç"),  # the letter first
        ([("e", 0, 0.1, 0.4), ("\u0301", 0.03, 0.07, 0.3)], "é"),  # a combining character
        ([("^", 0.02, 0.08, 0.3), ("´", 0.05, 0.09, 0.28), ("e", 0, 0.1, 0.4)], "ế"),
        ([("x", 0, 0.1, 0.4), ("^", 0.11, 0.2, 0.3), ("2", 0.21, 0.3, 0.35)], "x^2"),
        ([("`", 0, 0.1, 0.3), ("a", 0.11, 0.2, 0.4), ("`", 0.21, 0.3, 0.3)], "`a`"),
        ([("~", 0.02, 0.08, 0.4), ("1", 0, 0.1, 0.35)], "~1"),
    ],
)
def test_an_accent_over_its_letter_is_one_character_with_it(places, text):
    joined = join_accents(chars_at(*places))
    assert "".join(joined.text) == text
    if len(joined) == 1:
        assert joined.tight[0, :2].tolist() == [min(p[1] for p in places), min(p[3] for p in places)]
    assert len(joined.loose) == len(joined.generated) == len(text)


def test_a_page_with_accents_of_their_own(read):
    accented = "#let acute(it) = box(it + place(top + left, dx: 0.6mm, dy: -0.2mm)[´])\n"
    words = f"Th#acute[e]orie des nombres premiers. {TEXT}"
    (text,), _ = read(f"{PAGE}{accented}{words}")
    assert text == f"Théorie des nombres premiers. {TEXT}"
