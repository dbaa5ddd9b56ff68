"""Pages from real files: what is drawn, what is refused and with which line, and what a failure costs."""

import os
import signal
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from parsit.parse.pages import PageError, PageFile, ReadingLimits, text_layer
from parsit.parse.selection import parse_selection
from parsit.types import InputError
from pdf_support import ENDLESS

BAR = b"72 72 144 36 re f"  # a black bar from (1, 1) inch, 2 inches wide and half an inch high


def message(path: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        PageFile(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dpi", [72, 150])
def test_a_pdf_page_is_drawn_to_scale(pages_pdf, dpi):
    with PageFile(pages_pdf([(612, 792, BAR)]), dpi=dpi) as file:
        page = file.page(1)
    assert (page.image.mode, page.image.size, page.flags) == ("RGB", (round(8.5 * dpi), 11 * dpi), ())
    black = np.asarray(page.image.convert("L")) < 128
    rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
    assert (columns[0], columns[-1] + 1) == pytest.approx((dpi, 3 * dpi), abs=1)
    assert (rows[0], rows[-1] + 1) == pytest.approx((9.5 * dpi, 10 * dpi), abs=1)


def test_pages_come_by_number_in_any_order(pages_pdf):
    with PageFile(pages_pdf([(72 * n, 72, BAR) for n in range(1, 6)]), dpi=72) as file:
        assert file.page_count == 5
        assert file.numbers() == [1, 2, 3, 4, 5]
        assert file.numbers(parse_selection("4,1-2")) == [4, 1, 2]
        assert [file.page(number).image.width for number in (4, 1, 2)] == [288, 72, 144]
        with pytest.raises(InputError, match="has 5 pages; --pages asks for page 6"):
            file.numbers(parse_selection("2,6"))


def test_text_typed_into_a_form_field_is_drawn(write_pdf):
    look = b"0.5 0.5 1 rg 0 0 100 20 re f"
    pdf = write_pdf([
        b"<</Type /Catalog /Pages 2 0 R /AcroForm <</Fields [4 0 R]>>>>",
        b"<</Type /Pages /Count 1 /Kids [3 0 R]>>",
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Annots [4 0 R]>>",
        b"<</Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Ada) /F 4 /Rect [50 50 150 70] /AP <</N 5 0 R>>>>",
        b"<</Type /XObject /Subtype /Form /BBox [0 0 100 20] /Length %d>>\nstream\n%s\nendstream" % (len(look), look),
    ])  # fmt: skip
    with PageFile(pdf, dpi=72) as file:
        red, green, blue = file.page(1).image.getpixel((100, 40))
    assert blue > red
    assert blue > green


def test_images_and_multi_page_tiff(tmp_path):
    frames = [Image.new("RGB", (40 + n, 30), "white") for n in range(3)]
    frames[2].paste("black", (10, 10, 30, 20))
    frames[0].save(tmp_path / "scan.tif", save_all=True, append_images=frames[1:], compression="tiff_lzw")
    with PageFile(tmp_path / "scan.tif") as file:
        pages = [file.page(number) for number in file.numbers()]
    assert [page.image.size for page in pages] == [(40, 30), (41, 30), (42, 30)]
    assert [page.flags for page in pages] == [("blank",), ("blank",), ()]
    for name in ("one.png", "one.jpg", "one.webp"):
        frames[2].save(tmp_path / name)
        with PageFile(tmp_path / name) as file:
            assert (file.page_count, file.page(1).image.size, file.text_layer(1)) == (1, (42, 30), "")


def test_the_pages_of_a_turned_tiff_are_all_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    frames = [Image.new("RGB", (40, 30), "white") for _ in range(3)]
    frames[0].save(tmp_path / "scan.tif", save_all=True, append_images=frames[1:], exif=exif)
    with PageFile(tmp_path / "scan.tif") as file:
        sizes = [file.page(number).image.size for number in (1, 2, 3, 1)]
    with Image.open(tmp_path / "scan.tif") as stored:
        turned = []
        for n in (0, 1, 2, 0):
            stored.seek(n)
            turned.append((30, 40) if stored.getexif().get(274, 1) == 6 or stored.size == (30, 40) else (40, 30))
    assert sizes == turned


def test_the_content_says_what_a_file_is(tmp_path, pages_pdf):
    pdf = pages_pdf([(72, 72, BAR)], name="looks-like.png")
    with PageFile(pdf) as file:
        assert file.page(1).image.size == (150, 150)
    Image.new("RGB", (7, 5)).save(tmp_path / "looks-like.pdf", format="PNG")
    with PageFile(tmp_path / "looks-like.pdf") as file:
        assert file.page(1).image.size == (7, 5)


def test_the_text_layer_is_in_reading_order(report):
    lines = text_layer(report, 2).splitlines()
    assert lines[:4] == ["Invoice 4711", "Item Quantity Price", "Screws, zinc-plated 12 3.40", "Washers 100 1.20"]
    assert text_layer(report, 3) == ""
    with pytest.raises(InputError, match="has 4 pages"):
        text_layer(report, 5)


def test_a_hyphen_at_the_end_of_a_line_stays_one(typeset):
    pdf = typeset("#set page(width: 60pt, height: 90pt, margin: 5pt)\n#set text(hyphenate: true)\nincomprehensible")
    lines = text_layer(pdf, 1).splitlines()
    assert len(lines) > 1
    assert all(line.strip().endswith("-") for line in lines[:-1])
    assert "".join(line.strip().removesuffix("-") for line in lines) == "incomprehensible"


def test_what_cannot_be_read_says_so_in_one_line(tmp_path, report, write_pdf):
    (tmp_path / "empty.pdf").touch()
    (tmp_path / "letter.pdf").write_text("Dear Sir or Madam")
    (tmp_path / "corrupt.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 20)
    (tmp_path / "cut.pdf").write_bytes(report.read_bytes()[:3000])
    expected = {
        "missing.pdf": "no such file",
        ".": "is a folder",
        "empty.pdf": "is empty",
        "letter.pdf": "neither a PDF nor an image",
        "corrupt.pdf": "damaged PDF",
        "cut.pdf": "damaged PDF",
    }
    for name, reason in expected.items():
        assert reason in message(tmp_path / name)
        assert str(tmp_path) in message(tmp_path / name)
    no_pages = write_pdf([b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count 0 /Kids []>>"])
    assert "without pages" in message(no_pages)


def test_an_encrypted_pdf_says_so(write_pdf):
    # The standard handler; the password's check value is nobody's.
    handler = b"<</Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s>>>" % (b"11" * 32, b"22" * 32)
    catalog = b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count 0 /Kids []>>"
    trailer = b"/Encrypt %s /ID [<00><00>]" % handler
    assert "is encrypted" in message(write_pdf(list(catalog), trailer=trailer))


def test_twenty_thousand_pages_are_read_only_on_request(pages_pdf):
    pdf = pages_pdf([(72, 72, b"")] * 20_000)
    with PageFile(pdf) as file:
        with pytest.raises(InputError, match=r"has 20,000 pages; more than 1,000 are read only when chosen.*--pages"):
            file.numbers()
        assert file.numbers(parse_selection("19999-20000")) == [19_999, 20_000]
        assert file.page(20_000).image.size == (150, 150)


def test_a_file_over_the_limit_is_refused(report):
    size = report.stat().st_size
    assert f"{size:,} bytes" in message(report, limits=ReadingLimits(max_file_bytes=size - 1))


def test_a_huge_page_is_scaled_down_and_flagged(pages_pdf):
    limit = 4_000_000
    pdf = pages_pdf([(14_400, 14_400, b"3600 3600 7200 7200 re f"), (72, 720_000, BAR), (72, 72, BAR)])
    with PageFile(pdf, limits=ReadingLimits(max_page_pixels=limit)) as file:
        square, strip, small = (file.page(number) for number in (1, 2, 3))
    assert square.flags == ("reduced",)
    assert "reduced" in strip.flags
    assert square.image.width == square.image.height
    assert limit * 0.98 < square.image.width * square.image.height <= limit
    assert square.image.getpixel((square.image.width // 2,) * 2) == (0, 0, 0)
    assert strip.image.width * strip.image.height <= limit
    assert "reduced" not in small.flags


def test_a_huge_image_is_scaled_down_and_flagged(tmp_path):
    Image.new("L", (3000, 1000), 200).save(tmp_path / "wide.png")
    with PageFile(tmp_path / "wide.png", limits=ReadingLimits(max_page_pixels=30_000)) as file:
        page = file.page(1)
    assert (page.image.size, page.flags) == ((300, 100), ("blank", "reduced"))


def test_an_image_bomb_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(png + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    assert "2,500,000,000 pixels, the limit is 89,478,485" in message(tmp_path / "bomb.png")


def test_a_cut_off_tiff_fails_at_the_page_that_is_cut(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    frames = [Image.fromarray(noise)] * 2
    path = tmp_path / "scan.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(path.read_bytes()[:-5000])
    with PageFile(path) as file:
        assert file.page(1).image.size == (60, 60)
        with pytest.raises(PageError, match=r"scan.tif, page 2: .*damaged or cut off"):
            file.page(2)


@pytest.mark.slow
def test_a_page_that_takes_too_long_costs_only_itself(pages_pdf):
    pdf = pages_pdf([(72, 72, BAR), (999, 999, ENDLESS), (144, 72, BAR)])
    with PageFile(pdf, limits=ReadingLimits(timeout_s=5)) as file:
        assert file.page(1).image.size == (150, 150)
        with pytest.raises(PageError, match="page 2: the PDF renderer took longer than 5 s"):
            file.page(2)
        assert file.page(3).image.size == (300, 150)


def worker_id(file: PageFile) -> int:
    assert file._pdf is not None
    assert file._pdf._process is not None
    return file._pdf._process.pid


def test_a_worker_that_is_killed_is_replaced(pages_pdf):
    with PageFile(pages_pdf([(72, 72, BAR), (144, 72, BAR)])) as file:
        first = worker_id(file)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(PageError, match=r"page 1: the PDF renderer crashed \(SIGKILL\)"):
            file.page(1)
        assert file.page(1).image.size == (150, 150)
        assert file.page(2).image.size == (300, 150)
        assert worker_id(file) != first


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's address space")
def test_a_page_that_needs_too_much_memory_costs_only_itself(pages_pdf):
    pdf = pages_pdf([(72, 72, BAR), (14_400, 14_400, BAR), (144, 72, BAR)])
    limits = ReadingLimits(max_page_pixels=900_000_000, max_memory_bytes=500 << 20)
    with PageFile(pdf, limits=limits) as file:
        assert file.page(1).image.size == (150, 150)
        with pytest.raises(PageError, match=r"page 2: (not enough memory|the PDF renderer crashed)"):
            file.page(2)
        assert file.page(3).image.size == (300, 150)


def test_no_worker_is_left_behind(report):
    with PageFile(report) as file:
        file.page(1)
        worker = worker_id(file)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.slow
def test_a_long_pdf_is_never_in_memory_as_a_whole(pages_pdf):
    resource = pytest.importorskip("resource")
    pdf = pages_pdf([(612, 792, BAR)] * 12)
    with PageFile(pdf, dpi=200) as file:
        file.page(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in file.numbers():
            file.page(number)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    one_page_kib = 1700 * 2200 * 3 / 1024
    assert grown_kib < 3 * one_page_kib


DATA = Path(__file__).with_name("data")


def test_a_picture_that_mentions_a_pdf_is_a_picture(tmp_path):
    with PageFile(DATA / "comment-names-pdf.jpg") as file, Image.open(DATA / "comment-names-pdf.jpg") as image:
        assert file.page(1).image.size == image.size
    text = PngImagePlugin.PngInfo()
    text.add_text("Source", "page 3 of report %PDF-1.7")
    Image.new("L", (30, 20), "white").save(tmp_path / "a.png", pnginfo=text)
    Image.new("L", (30, 20), "white").save(tmp_path / "a.gif", comment=b"%PDF-1.7")
    Image.new("L", (30, 20), "white").save(tmp_path / "a.tif", description="%PDF-1.7")
    (tmp_path / "a.pgm").write_bytes(b"P5\n# from %PDF-1.4\n30 20\n255\n" + bytes([255]) * 600)
    for name in ("a.png", "a.gif", "a.tif", "a.pgm"):
        with PageFile(tmp_path / name) as file:
            assert file.page(1).image.size == (30, 20), name


def test_a_pdf_behind_other_bytes_is_a_pdf(report, tmp_path):
    (tmp_path / "mail.pdf").write_bytes(b"Content-Type: application/pdf\r\n\r\n" + report.read_bytes())
    with PageFile(tmp_path / "mail.pdf") as file:
        assert file.page_count == 4


def test_the_pages_of_a_tiff_in_any_order_without_its_thumbnails(tmp_path):
    pictures = [Image.new("L", (width, 50), "white") for width in (40, 4, 60)]
    infos = [TiffImagePlugin.ImageFileDirectory_v2() for _ in pictures]
    infos[1][254] = 1
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "scan.tif", True) as writer:
        for picture, info in zip(pictures, infos, strict=True):
            picture.save(writer, "TIFF", tiffinfo=info)
            writer.newFrame()
    with PageFile(tmp_path / "scan.tif") as file:
        assert file.page_count == 2
        assert [file.page(number).image.width for number in (2, 1, 2, 1)] == [60, 40, 60, 40]


def test_a_fax_is_read_with_square_pixels():
    with PageFile(DATA / "fax-204x98.tif") as file:
        assert file.page(1).image.size == (600, 300)


def test_text_that_cannot_be_drawn_is_flagged(report):
    with PageFile(DATA / "cjk-font-missing.pdf") as file:
        assert file.page(1).flags == ("blank", "text_not_drawn")
        assert len("".join(file.text_layer(1).split())) == 65
    with PageFile(report) as file:
        assert not any("text_not_drawn" in file.page(number).flags for number in range(1, 5))


def font_pdf(write_pdf, text: bytes, mode: int, *more: bytes):
    """A page with a drawn line in Helvetica and `text` in a Japanese font that is not in the file."""
    content = b"BT /H 12 Tf 20 150 Td (Drawn as always 1234) Tj ET BT %d Tr /J 12 Tf 20 100 Td %s Tj ET" % (mode, text)
    objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count 1 /Kids [3 0 R]>>"]
    fonts = b"<</Font <</H 5 0 R /J 6 0 R>>>>"
    objects.append(b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources %s>>" % fonts)
    objects.append(b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content))
    objects.append(b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>")
    objects.append(
        b"<</Type /Font /Subtype /Type0 /BaseFont /HeiseiMin-W3 /Encoding /UniJIS-UCS2-H /DescendantFonts [7 0 R]>>"
    )
    objects.append(
        b"<</Type /Font /Subtype /CIDFontType0 /BaseFont /HeiseiMin-W3 /CIDSystemInfo"
        b" <</Registry (Adobe) /Ordering (Japan1) /Supplement 2>> /FontDescriptor 8 0 R>>"
    )
    objects.append(b"<</Type /FontDescriptor /FontName /HeiseiMin-W3 /Flags 4 /FontBBox [0 -200 1000 900]>>")
    return write_pdf(objects)


@pytest.mark.parametrize(("mode", "flags"), [(0, ("text_not_drawn",)), (3, ())])
def test_a_line_among_others_that_cannot_be_drawn_is_flagged(write_pdf, mode, flags):
    path = font_pdf(write_pdf, b"<65E5672C8A9E>", mode)
    with PageFile(path) as file:
        assert file.page(1).flags == flags


@pytest.mark.parametrize(("count", "pages"), [(1, 3), (2, 3), (3, 3), (0, 3)])
def test_a_pdf_whose_count_of_pages_is_too_low_loses_none(write_pdf, count, pages):
    objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count %d /Kids [3 0 R 6 0 R]>>" % count]
    inner = b"<</Type/Pages /Parent 2 0 R /Count %d /Kids [4 0 R 5 0 R]>>" % min(count, 2)
    page = b"<</Type /Page /Parent %d 0 R /MediaBox [0 0 %d 99]>>"
    objects += [inner, page % (3, 10), page % (3, 20), page % (2, 30)]
    with PageFile(write_pdf(objects), dpi=72) as file:
        assert file.page_count == pages
        assert [file.page(number).image.width for number in range(1, pages + 1)] == [10, 20, 30]


def test_pages_that_were_taken_out_of_a_pdf_stay_out(write_pdf):
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 %d 99]>>"
    objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count 1 /Kids [3 0 R]>>", page % 10, page % 20]
    with PageFile(write_pdf(objects), dpi=72) as file:
        assert file.page_count == 1


def test_a_page_that_shows_nothing_of_itself_fails_with_the_reason(pages_pdf):
    path = pages_pdf([(72, 72, BAR), (144, 72, BAR)])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"/MediaBox [0 0 144 72]", b"/CropBox [900 9 999 99]/MediaBox [0 0 144 72]"))
    with PageFile(path) as file:
        with pytest.raises(PageError, match=r"page 2: the page has no size: its CropBox lies outside its MediaBox$"):
            file.page(2)
        assert file.page(1).image.size == (150, 150)
