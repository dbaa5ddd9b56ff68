"""Line boxes against what PDFium knows about typeset pages: where each character is, and in what order."""

import numpy as np
import pypdfium2 as pdfium
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from page_support import drawn, read_through, texts
from parsit.parse.lines import line_pieces, split_lines


def test_headings_and_two_columns(report):
    read = read_through(split_lines(drawn(report, 1)), report, 1)
    assert read == texts(report, 1)
    assert len(read) > 60


def test_tables_fields_and_lists_are_read_row_by_row(report):
    read = read_through(split_lines(drawn(report, 2)), report, 2)
    assert read[:7] == ["Invoice4711", "Item", "Quantity", "Price", "Screws,zinc-plated", "12", "3.40"]
    assert read[13:17] == ["Name:", "AdaLovelace", "Date:", "12March2021"]
    assert "".join(read) == "".join(texts(report, 2))


def test_a_table_with_long_names_is_read_row_by_row(typeset):
    """The names fill their column as running text does; the columns of figures beside them do not."""
    names = ("Birchwood Paper SARL", "Girard & Petit Flowers", "Roux & Lopez Cleaning", "Olsen & Hunt Construction")
    rows = [[name, "718 376", "62 694,63", "3 038,5"] for name in names]
    cells = ", ".join(f"[{cell}]" for row in rows for cell in row)
    path = typeset(
        f'#set page(paper: "a5")\n#set text(size: 9pt)\n#table(columns: 4, stroke: none, gutter: 14pt, {cells})'
    )
    expected = ["".join("".join(cell.split()) for cell in row) for row in rows]
    assert "".join(read_through(split_lines(drawn(path)), path)) == "".join(expected)


def test_figures_far_from_what_they_belong_to_are_read_beside_it(typeset):
    """Set close together, they look like one column of running text."""
    names = ("Birchwood Paper SARL", "Girard & Petit Flowers", "Roux & Lopez Cleaning", "Olsen & Hunt Construction")
    lines = [f"{name} #h(1fr) 718 376 62 694,63 3 038,5" for name in names]
    path = typeset('#set page(paper: "a5", margin: 12mm)\n#set text(size: 9pt)\n' + " \\\n".join(lines))
    read = read_through(split_lines(drawn(path)), path)
    assert read == [part for name in names for part in ("".join(name.split()), "71837662694,633038,5")]


def test_a_large_amount_beside_the_first_of_three_lines_stays_beside_it(typeset):
    lines = ["Total amount due to us:", "Account holder: Merlin Tea", "E-mail: merlin.tea at sable.example"]
    amount = "#h(1fr) #text(weight: 700)[CHF 60 703 660 550 144.00]"
    path = typeset(
        '#set page(paper: "a5")\n#set text(size: 9pt)\n' + f"{lines[0]} {amount} \\\n" + " \\\n".join(lines[1:])
    )
    assert read_through(split_lines(drawn(path)), path)[:2] == ["Totalamountduetous:", "CHF60703660550144.00"]


def test_an_empty_page_has_no_lines_and_a_page_number_is_one(report):
    assert split_lines(drawn(report, 3)) == []
    assert read_through(split_lines(drawn(report, 4)), report, 4) == ["4"]


def test_three_columns_of_different_leading(typeset):
    words = "Several words of plain running text that fill up their column in every line of it. " * 9
    parts = ", ".join(f"par(leading: {leading}em)[{words}]" for leading in (0.5, 0.65, 0.8))
    path = typeset(f'#set page(paper: "a4")\n#set text(size: 9pt)\n#grid(columns: (1fr,) * 3, gutter: 24pt, {parts})')
    assert "".join(read_through(split_lines(drawn(path)), path)) == "".join(words.split()) * 3


def test_accents_descenders_and_dots_belong_to_their_line(typeset):
    lines = ["ÄÖÜ Ångström É", "iiiii", "gypqj", "nnn", "Größe: 5½ …", "x = y"]
    path = typeset('#set page(paper: "a5")\n#set text(hyphenate: false)\n' + " \\\n".join(lines))
    assert read_through(split_lines(drawn(path)), path) == ["".join(line.split()) for line in lines]


@pytest.mark.parametrize("points", [18, 24, 28])
def test_a_large_title_is_one_line(typeset, points):
    body = "Running text of the usual size, in a few lines that set the height of a line. " * 4
    path = typeset(f'#set page(paper: "a5")\n#text(size: {points}pt)[Gypsy jig, Hlflk]\n\n#text(size: 9pt)[{body}]')
    assert read_through(split_lines(drawn(path)), path)[0] == "Gypsyjig,Hlflk"


def test_lines_that_touch_are_parted(typeset):
    # Descenders reach as low as the next line's ascenders: no row between the lines is empty.
    lines = ["a very long line with a single p in it", "another with one h under the p of the first", "end of it"]
    path = typeset('#set page(paper: "a6", flipped: true)\n#set par(leading: 0.22em)\n' + " \\\n".join(lines))
    image = drawn(path)
    ink_rows = (np.asarray(image.convert("L")) < 200).any(axis=1)
    first, last = np.flatnonzero(ink_rows)[[0, -1]]
    assert ink_rows[first:last].all()
    assert len(split_lines(image)) == 3


@pytest.mark.parametrize("degrees", [-0.4, 0.4])
def test_a_slight_skew_is_borne(report, degrees):
    turned = drawn(report, 1).rotate(degrees, Image.Resampling.BICUBIC, fillcolor="white")
    straight, skewed = split_lines(drawn(report, 1)), split_lines(turned)
    assert abs(len(skewed) - len(straight)) <= 0.1 * len(straight)


def test_scanner_noise_is_borne(report):
    clean = drawn(report, 2)
    rng = np.random.default_rng(0)
    noisy = np.clip(np.asarray(clean) + rng.normal(0, 10, (*clean.size[::-1], 1)), 0, 255).astype(np.uint8)
    noisy[rng.random(clean.size[::-1]) < 0.001] = 0
    assert read_through(split_lines(Image.fromarray(noisy)), report, 2) == read_through(split_lines(clean), report, 2)


@pytest.mark.parametrize("max_aspect", [4, 9, 14])
def test_pieces_are_narrow_and_lose_nothing(report, max_aspect):
    image = drawn(report, 1)
    boxes = split_lines(image, max_aspect=max_aspect)
    assert max((box.x1 - box.x0) / (box.y1 - box.y0) for box in boxes) <= max_aspect
    whole = split_lines(image)
    lines = line_pieces(image, max_aspect=max_aspect)
    assert len(lines) == len(whole)
    for pieces, line in zip(lines, whole, strict=True):
        first, last = pieces[0].box, pieces[-1].box
        assert (first.x0, first.y0, last.x1, last.y1) == line
    ink = np.asarray(image.convert("L")) < 128
    covered = np.zeros_like(ink)
    for box in boxes:
        covered[box.y0 : box.y1, box.x0 : box.x1] = True
    assert not (ink & ~covered).any()


def test_pieces_end_between_words(report):
    with pdfium.PdfDocument(report) as pdf:
        text = pdf[0].get_textpage().get_text_range()
    words = text.replace("\ufffe", " ").split()  # PDFium's mark for a hyphen at the end of a line
    read = read_through(split_lines(drawn(report, 1), max_aspect=9), report, 1)
    assert "".join(read) == "".join(words)  # so that a piece ends at a word's end if the counts agree
    word_ends = set(np.cumsum([len(word) for word in words]).tolist())
    piece_ends = np.cumsum([len(piece) for piece in read]).tolist()
    assert np.mean([end in word_ends for end in piece_ends]) > 0.97
    assert np.percentile([len(piece) for piece in read], 95) <= 24


def drawn_line(text):
    """A line of print, and where its words end."""
    font = ImageFont.load_default(40)
    image = Image.new("L", (60 + round(font.getlength(text)), 80), 255)
    ImageDraw.Draw(image).text((30, 18), text, font=font, fill=0)
    return image, [30 + font.getlength(text[:place]) for place, char in enumerate(text) if char == " "]


def test_a_line_is_cut_before_a_long_word_and_not_through_it():
    image, (_, end) = drawn_line("nun amen Voraussetzungen")
    ((first, last),) = line_pieces(image, max_aspect=9)
    assert first.ends_word
    assert last.ends_word
    assert first.box.x1 - end == pytest.approx(0, abs=12)


def test_letters_that_touch_do_not_make_one_word_of_all():
    image, ends = drawn_line("nun mmm nun mmm nun mmm nun")
    touching = Image.fromarray(np.asarray(image.filter(ImageFilter.MinFilter(5))))
    (pieces,) = line_pieces(touching, max_aspect=7)
    assert len(pieces) > 1
    assert all(piece.ends_word for piece in pieces)
    assert all(min(abs(piece.box.x1 - end) for end in ends) < 12 for piece in pieces[:-1])


def test_a_word_that_is_longer_than_a_piece_is_cut_and_the_piece_says_so():
    (pieces,) = line_pieces(drawn_line("Donaudampfschifffahrt und amen")[0], max_aspect=5)
    *_, last_but_one, last = pieces
    assert not pieces[0].ends_word
    assert last_but_one.ends_word
    assert last.ends_word


def test_ink_without_a_gap_is_cut_all_the_same():
    image = Image.new("RGB", (900, 60), "white")
    draw = ImageDraw.Draw(image)
    for x in range(20, 880, 2):  # a hatched bar, closed by dots between its strokes
        draw.line((x, 20, x, 40), fill="black")
        draw.point((x + 1, 30), fill="black")
    boxes = split_lines(image, max_aspect=3)
    assert len(boxes) > 5
    assert max((box.x1 - box.x0) / (box.y1 - box.y0) for box in boxes) <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (70, 20)])
def test_small_images(size):
    assert split_lines(Image.new("RGB", size, "white")) == []


def test_boxes_stay_inside_the_image():
    image = Image.new("RGB", (200, 30), "white")
    ImageDraw.Draw(image).text((0, 0), "at the very edge of it", fill="black", font_size=24)
    for box in split_lines(image):
        assert 0 <= box.x0 < box.x1 <= 200
        assert 0 <= box.y0 < box.y1 <= 30


def test_blurred_print_is_cut_between_words(typeset):
    """Letters touch there, so that all gaps are between words."""
    text = "A temperature of 76 °C was weighed in the signal of the canal. Although the front was quiet, they paid. "
    path = typeset(f'#set page(paper: "a4")\n#set text(size: 9pt, font: "Libertinus Serif")\n{text * 6}')
    blurred = drawn(path).filter(ImageFilter.GaussianBlur(1))
    pieces = [piece for line in line_pieces(blurred, max_aspect=9) for piece in line]
    assert len(pieces) > 20
    assert all(piece.ends_word for piece in pieces)
    read = read_through([piece.box for piece in pieces], path)
    ends = set(np.cumsum([len(word) for word in (text * 6).split()]).tolist())
    assert set(np.cumsum([len(piece) for piece in read]).tolist()) <= ends


CELLS = [("Born", "12 May 1961"), ("Town", "Hartford"), ("Fee", "124.25 CHF"), ("Title", "Editor")]


def table(typeset, columns: int, rules: str, cells):
    made = f"#table(columns: (1fr,) * {columns}, {rules}, {', '.join(cells)})"
    return typeset(f'#set page(paper: "a5")\n#set text(size: 9pt)\n#set par(leading: 6pt)\n{made}')


def test_cells_with_a_label_above_their_entry_are_read_one_after_the_other(typeset):
    cells = [f"[#text(size: 6pt)[{label}] \\ {entry}]" for label, entry in CELLS]
    path = table(typeset, 2, "stroke: 0.5pt", cells)
    expected = ["".join(part.split()) for cell in CELLS for part in cell]
    assert read_through(split_lines(drawn(path)), path) == expected


def test_a_table_that_is_ruled_upright_alone_is_read_row_by_row(typeset):
    words = [part for cell in CELLS for part in cell]
    path = table(typeset, 2, "stroke: (x: 0.5pt, y: none)", [f"[{word}]" for word in words])
    assert read_through(split_lines(drawn(path)), path) == ["".join(word.split()) for word in words]


ADDRESS = ("Zenith Marine Corp.", "36 Chestnut Drive", "Eugene, OR 32491")
DATES = ("Number: 6282509", "Date: 10/11/2005", "Payable by: 11/01/2005", "Order: KLJ583335")


def side_by_side(typeset, left, right, leading: str):
    blocks = [f"par(leading: {gap})[" + " \\ ".join(lines) + "]" for lines, gap in ((left, leading), (right, "6pt"))]
    return typeset(f'#set page(paper: "a4")\n#set text(size: 9pt)\n#grid(columns: (1fr, 1fr), {", ".join(blocks)})')


def test_blocks_whose_lines_are_spaced_differently_are_read_one_after_the_other(typeset):
    path = side_by_side(typeset, ADDRESS, DATES, "8pt")
    assert read_through(split_lines(drawn(path)), path) == ["".join(line.split()) for line in ADDRESS + DATES]


def test_lines_in_the_same_rows_are_read_row_by_row(typeset):
    path = side_by_side(typeset, ADDRESS, DATES[:3], "6pt")
    expected = [line for row in zip(ADDRESS, DATES, strict=False) for line in row]
    assert read_through(split_lines(drawn(path)), path) == ["".join(line.split()) for line in expected]


def test_cells_of_two_lines_beside_cells_of_one_are_rows(typeset):
    amounts = ("12.50", "7.00", "3.75", "9.10")
    cells = [cell for amount in amounts for cell in (" \\ ".join(ADDRESS[:2]), amount)]
    rules = "stroke: none, align: horizon, inset: (y: 3pt)"  # half of the leading: all lines are evenly spaced
    path = table(typeset, 2, rules, [f"[{cell}]" for cell in cells])
    read = read_through(split_lines(drawn(path)), path)
    assert [part for part in read if part in amounts] == list(amounts)
    assert [read.index(amount) // 3 for amount in amounts] == [0, 1, 2, 3]
