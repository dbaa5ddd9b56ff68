"""What the process that draws does with a file, and how it gets home."""

import tarfile
from dataclasses import replace

import pytest
from PIL import Image, ImageDraw
from pile_support import write_page

from parsit.scale.drawing import Drawing, Drawn, answer, draw, from_message, pages_of, request_of
from parsit.scale.inputs import Source, sources_of
from parsit.types import UsageError
from pdf_support import objects_of_pages, pdf_of_objects, text_page

PAGE, LINES = Drawing(dpi=72.0), Drawing(dpi=72.0, max_line_aspect=9.0)
GATE = "parsit.synth.from_pdf.text_layer:text_layer"
WORDS = b"BT /F 14 Tf 20 60 Td (The quick surveyor measured an old bridge.) Tj ET"


def source(path) -> Source:
    return Source(str(path), str(path))


@pytest.fixture
def pdf(tmp_path):
    """Three pages, the second blank."""
    ink = b"0 0 40 40 re f"
    path = tmp_path / "three.pdf"
    path.write_bytes(pdf_of_objects(objects_of_pages([(90, 60, ink), (90, 60, b""), (60, 90, ink)])))
    return path


def there_and_back(drawn_by: dict) -> Drawn:
    return from_message(*answer(drawn_by))


def test_pages_come_home_as_they_were_drawn(pdf):
    here = draw(source(pdf), PAGE, None, frozenset())
    there = there_and_back(request_of(source(pdf), PAGE, None, frozenset()))
    assert [page.page.number for page in there.pages] == [1, 2, 3]
    assert there.page_count == 3
    for one, other in zip(here.pages, there.pages, strict=True):
        assert (one.page.size, one.page.flags, one.lengths) == (other.page.size, other.page.flags, other.lengths)
        assert [u.image.tobytes() for u in one.page.units] == [u.image.tobytes() for u in other.page.units]
    assert [len(page.page.units) for page in there.pages] == [1, 0, 1]
    assert there.pages[0].lengths[0] == pytest.approx(1600, rel=0.1), "the ink of 40 × 40 points"


def test_lines_come_home_with_their_boxes(tmp_path):
    path = tmp_path / "lines.pdf"
    path.write_bytes(text_page(WORDS + WORDS.replace(b"60 Td", b"30 Td"), 400, 100))
    here = draw(source(path), LINES, None, frozenset()).pages[0]
    there = there_and_back(request_of(source(path), LINES, None, frozenset())).pages[0]
    assert [(u.box, u.ends_line, u.image.tobytes()) for u in here.page.units] == [
        (u.box, u.ends_line, u.image.tobytes()) for u in there.page.units
    ]
    assert sum(unit.ends_line for unit in there.page.units) == 2
    assert there.lengths == [unit.image.width / unit.image.height for unit in there.page.units]


@pytest.mark.parametrize("drawing", [PAGE, LINES])
def test_a_page_that_hangs_brings_its_picture(tmp_path, drawing):
    image = Image.new("RGB", (700, 400), "white")
    for line in range(12):
        ImageDraw.Draw(image).text((10, 10 + 30 * line), "thick black lettered hill " * 3, "black", font_size=20)
    path = tmp_path / "turned.png"
    image.rotate(180).save(path)
    (page,) = there_and_back(request_of(source(path), drawing, None, frozenset())).pages
    assert page.page.hangs
    assert page.page.image.tobytes() == image.rotate(180).tobytes()


def test_a_long_file_is_drawn_a_few_pages_at_a_time_and_known_pages_never(pdf):
    two = replace(PAGE, pages_at_once=2)
    first = draw(source(pdf), two, None, frozenset())
    assert ([page.page.number for page in first.pages], first.rest) == ([1, 2], (3,))
    rest = draw(source(pdf), two, [3], frozenset())
    assert ([page.page.number for page in rest.pages], rest.rest) == ([3], ())
    left = draw(source(pdf), two, None, frozenset({1, 3}))
    assert ([page.page.number for page in left.pages], left.rest) == ([2], ())


def test_pages_beyond_the_end_are_left_out_and_none_at_all_is_a_failure(pdf):
    drawn = draw(source(pdf), replace(PAGE, selection="3,9,1-2"), None, frozenset())
    assert [page.page.number for page in drawn.pages] == [3, 1, 2]
    none = draw(source(pdf), replace(PAGE, selection="4-6"), None, frozenset())
    assert (none.error, none.is_lasting) == ("has 3 pages; --pages 4-6 asks for others", False)
    assert pages_of("2,9", 3) == [2]
    with pytest.raises(UsageError):
        pages_of("3-1", 3)


def test_what_lies_in_the_content_lasts_and_names_no_file(tmp_path):
    reasons = set()
    for name in ("one.pdf", "other.pdf"):
        (tmp_path / name).write_bytes(b"%PDF-1.7 nothing more")
        drawn = draw(source(tmp_path / name), PAGE, None, frozenset())
        assert drawn.is_lasting
        reasons.add(drawn.error)
    assert reasons == {"is a damaged PDF: it is cut off or not well-formed"}


def test_a_file_that_is_gone_may_come_back(tmp_path):
    drawn = draw(Source("a.tar::b.png", str(tmp_path / "a.tar"), 0, 10), PAGE, None, frozenset())
    assert (drawn.error, drawn.is_lasting) == ("cannot be read: No such file or directory", False)
    header, _ = answer({"do": "digest", "source": {"name": "x", "path": str(tmp_path / "x")}})
    assert header == {"error": "cannot be read: No such file or directory"}


def test_a_member_of_a_tar_is_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = write_page(tmp_path / "p.png", "word")
    with tarfile.open("a.tar", "w") as archive:
        archive.add("p.png")
    (member,) = sources_of(["a.tar"])
    (one,), (other,) = (draw(s, PAGE, None, frozenset()).pages for s in (member, source(page)))
    assert one.page.units[0].image.tobytes() == other.page.units[0].image.tobytes()


def test_a_text_layer_that_passes_is_the_pages_text(tmp_path):
    path = tmp_path / "text.pdf"
    path.write_bytes(text_page(WORDS, 400, 100))
    (page,) = there_and_back(
        request_of(source(path), replace(PAGE, text_layer="auto", gate=GATE), None, frozenset())
    ).pages
    assert page.text == "The quick surveyor measured an old bridge."
    assert page.page.flags == ("text_layer",)
    assert 0.9 < page.quality <= 1
    assert not page.page.units


def test_a_text_layer_that_does_not_pass_is_drawn_or_fails_with_the_reason(tmp_path):
    path = tmp_path / "unseen.pdf"
    path.write_bytes(text_page(WORDS.replace(b"BT", b"3 Tr BT"), 400, 100))  # text that is not drawn
    auto = draw(source(path), replace(PAGE, text_layer="auto", gate=GATE), None, frozenset())
    assert auto.pages[0].text is None
    only = draw(source(path), replace(PAGE, text_layer="only", gate=GATE), None, frozenset())
    assert "page-text-not-visible" in only.pages[0].page.error
    image = write_page(tmp_path / "p.png", "word")
    only = draw(source(image), replace(PAGE, text_layer="only", gate=GATE), None, frozenset())
    assert "the file is an image" in only.pages[0].page.error
