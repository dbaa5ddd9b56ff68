"""Pages whose order of reading nobody can tell from the file, and text that lies on other text: both are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdf_support import text_page

PROSE = "The quick surveyor measured the old bridge before winter, and wrote every figure into a small grey book."
PAGE = '#set page(width: 14cm, height: 10cm, margin: 1cm)\n#set text(size: 10pt, font: "Libertinus Serif")\n'


def line(x: float, y: float, text: str, size: float = 10) -> bytes:
    """A line of text at a place, in points from the lower left."""
    return b"BT /F %g Tf %g %g Td (%s) Tj ET\n" % (size, x, y, text.encode("cp1252"))


def lines(top: float, count: int = 4) -> bytes:
    return b"".join(line(20, top - 14 * number, PROSE[:70]) for number in range(count))


@pytest.mark.parametrize(
    "formula", ["the ratio $(a + b) / (c - d)$ is", "$ x = (a + b) / (c - d) $", "$1/2$ and $3/4$"]
)
def test_a_fraction_is_refused(read, formula):
    assert read(f"{PAGE}{PROSE} {formula} {PROSE}") == ([], ["page-order-unsure"])


def test_formulas_on_one_line_are_taken(read):
    (text,), codes = read(f"{PAGE}{PROSE} We have $a^2 + b_1 = c$ and $E = m c^2$ here. {PROSE}")
    assert codes == []
    assert text.endswith(PROSE)


@pytest.mark.slow
def test_labels_of_two_diagrams_are_refused(read):
    places = {"Start": (0, 40), "Stop": (60, 44), "upper": (10, 80), "state": (70, 70), "below": (30, 10)}
    labels = b"".join(
        line(shift + x, 40 + raised + y, f"{name} {number}")
        for number, (shift, raised) in enumerate(((30, 0), (210, 5)))
        for name, (x, y) in places.items()
    )
    assert read(text_page(lines(270) + labels)) == ([], ["page-order-unsure"])


def test_a_table_that_is_drawn_by_rows_is_taken_and_in_no_order_refused(read):
    def table(order: list[tuple[int, int]]) -> bytes:
        return text_page(lines(270) + b"".join(line(20 + 90 * c, 150 - 14 * r, f"cell {c}{r}") for r, c in order))

    cells = [(row, column) for row in range(3) for column in range(3)]
    (text,), _ = read(table(cells))
    assert text.endswith("cell 00 cell 10 cell 20\ncell 01 cell 11 cell 21\ncell 02 cell 12 cell 22")
    assert read(table(cells[::2] + cells[1::2])) == ([], ["page-order-unsure"])


def test_header_and_footer_may_be_drawn_after_the_page(read):
    (text,), codes = read(text_page(lines(240, 9) + line(20, 285, "A header") + line(200, 10, "7")))
    assert (text.split("\n")[0], text.split("\n")[-1], codes) == ("A header", "7", [])


@pytest.mark.parametrize("colour", [b"0 g", b"1 g"])
def test_text_on_other_text_is_refused(read, colour):
    hidden = colour + b"\n" + line(22, 242, "hidden words lie here")
    assert read(text_page(hidden + b"0 g\n" + lines(270))) == ([], ["page-text-overlaps"])


def test_letters_that_are_pushed_together_are_taken(read):
    logo = b"BT /F 10 Tf 20 150 Td (L) Tj 2.4 1.5 Td /F 7 Tf (A) Tj 3.4 -1.5 Td /F 10 Tf (TEX) Tj ET\n"
    texts, codes = read(text_page(lines(270) + logo))
    assert codes == []
    assert texts[0].endswith("LATEX")


def test_an_accent_is_joined_to_a_capital_wherever_it_was_drawn(read):
    words = b"BT /F 10 Tf 20 250 Td (On voit le mod) Tj 67.2 0 Td (`) Tj -1.1 0 Td (ele general. ) Tj"
    words += b" 54 2 Td (\264) Tj -2 -2 Td (Etat des lieux de la ville, ) Tj 112 2 Td (\264) Tj -2 -2 Td (Ecole) Tj"
    words += b" -228.1 -12 Td (puis la fin du texte, qui va plus loin.) Tj ET"
    (text,), _ = read(text_page(words))
    assert (
        text == "On voit le modèle general. État des lieux de la ville, École puis la fin du texte, qui va plus loin."
    )


def test_an_accent_without_its_letter_is_a_broken_character(read):
    assert read(text_page(lines(270) + line(20, 100, "Gda\u02c6 sk"))) == ([], ["page-broken-characters"])


def test_hidden_files_of_a_mac_are_no_pdfs(read, tmp_path):
    (tmp_path / "pdfs").mkdir()
    (tmp_path / "pdfs" / "._a.pdf").write_bytes(b"\0\5\26\7" + bytes(100))
    (tmp_path / "pdfs" / "__MACOSX").mkdir()
    Path(tmp_path / "pdfs" / "__MACOSX" / "._b.pdf").write_bytes(b"\0\5\26\7" + bytes(100))
    assert read(text_page(lines(270)))[1] == []


def test_a_space_that_is_left_by_the_distance_of_characters_parts_words(read):
    """As Ghostscript writes what groff sets: the space after `A` is no character, and `Tc` makes its paper."""
    words = b"BT /F 10 Tf 20 250 Td 2.5 Tc (Ac) Tj 0 Tc 14.17 0 Td (haracter that stands in tw) Tj 107.26 0 Td"
    words += b" 2.4 Tc (oh) Tj 0 Tc 13.52 0 Td (ex digits, in an) Tj 63.92 0 Td 2.8 Tc (ya) Tj 0 Tc 13.36 0 Td"
    words += b" (rray of the shell) Tj ET\n"
    spread = b"BT /F 10 Tf 20 235 Td 2.5 Tc (Ab) Tj 0 Tc 14.9 0 Td ( is short) Tj ET\n"
    spread += b"BT /F 10 Tf 3 Tc 20 220 Td (SPREAD LETTERS) Tj 0 Tc 0 -20 Td (and ) Tj 2.5 Tc (spread) Tj 0 Tc"
    spread += b" ( among others, ) Tj 2.2 Tc (of) Tj ( them) Tj ET\n"
    (text,), _ = read(text_page(words + spread))
    assert text.startswith("A character that stands in two hex digits, in any array of the shell")
    assert "A b is short" in text
    assert "SPREAD LETTERS" in text
    assert "and spread among others, of them" in text


def test_a_space_that_takes_no_paper_parts_nothing(read):
    """In the same files a letter is kerned by a space and a step back over it."""
    words = b"BT /F 10 Tf 20 250 Td (It was inv ) Tj 41.5 0 Td (oked by a call at lev ) Tj 87.6 0 Td (el two) Tj ET"
    assert read(text_page(words)) == (["It was invoked by a call at level two"], [])
