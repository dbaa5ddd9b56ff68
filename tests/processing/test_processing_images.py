"""Every way an image can be stored, against pixel values that are known from the formats' definitions."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parsit.processing.images import FORMATS, image_size, load_image
from parsit.types import InputError

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def pixels(source, **options) -> list[tuple[int, ...]]:
    image = load_image(source, **options)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, chunks: tuple[tuple[bytes, bytes], ...] = ()):
    """A PNG written from the specification, without Pillow."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    middle = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "gif", "ppm"])
def test_each_format_of_the_list_is_read(tmp_path, suffix):
    path = saved(tmp_path / f"page.{suffix}", Image.new("RGB", (30, 20), RED))
    image = load_image(path)
    assert image.size == image_size(path) == (30, 20)
    assert np.abs(np.asarray(image, dtype=int) - RED).max() <= 2  # JPEG and WebP round


def test_the_suffix_does_not_matter(tmp_path):
    assert image_size(saved(tmp_path / "page.pdf", Image.new("RGB", (3, 2)), format="PNG")) == (3, 2)


@pytest.mark.parametrize("form", ["ICO", "TGA", "EPS", "JPEG2000"])
def test_a_format_off_the_list_is_refused(tmp_path, form):
    path = saved(tmp_path / "page", Image.new("RGB", (32, 32)), format=form)
    with pytest.raises(InputError, match="no image of a known format"):
        load_image(path)
    assert form not in FORMATS


# Orientation → where the stored top left corner is seen: EXIF 2.32, table of tag 274.
CORNER_IS_SEEN_AT = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}
RIGHT_OF_CORNER_IS_SEEN = {1: "right", 2: "left", 3: "left", 4: "right", 5: "below", 6: "below", 7: "above", 8: "above"}


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_page_upright(tmp_path, suffix, orientation):
    stored = Image.new("RGB", (32, 16), WHITE)
    stored.paste(BLACK, (0, 0, 16, 8))  # a black bar in the corner, longer to the right than it is high
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path / f"page.{suffix}", stored, exif=exif, **options)
    image = load_image(path)
    assert image.size == image_size(path) == ((32, 16) if orientation < 5 else (16, 32))
    seen = np.asarray(image.convert("L")) < 128
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    corner = ("t" if rows[0] == 0 else "b") + ("l" if columns[0] == 0 else "r")
    assert corner == CORNER_IS_SEEN_AT[orientation]
    assert (len(columns) > len(rows)) == (RIGHT_OF_CORNER_IS_SEEN[orientation] in ("left", "right"))


def test_a_nonsense_orientation_leaves_the_page_alone():
    stream, exif = io.BytesIO(), Image.Exif()
    exif[274] = 250
    Image.new("RGB", (30, 20)).save(stream, "JPEG", exif=exif)
    assert load_image(stream.getvalue()).size == image_size(stream.getvalue()) == (30, 20)


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (128, 0), (129, 1), (32768, 128), (40000, 156), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(value, grey):
    data = png(2, 1, depth=16, colour=0, rows=b"\0" + struct.pack(">HH", value, 65535))
    assert pixels(data) == [(grey,) * 3, WHITE]


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_8_bit_grey_in_more_bits_is_an_error_and_not_a_black_page(tmp_path, kind):
    for suffix in ("tif", "png") if kind is np.uint16 else ("tif",):
        path = saved(tmp_path / f"g.{suffix}", Image.fromarray(np.array([[0, 100, 255]], dtype=kind)))
        with pytest.raises(InputError, match="grey values up to 255 in more than 8 bits, all black; save it with 8"):
            load_image(path)
        assert pixels(saved(tmp_path / f"b.{suffix}", Image.fromarray(np.zeros((1, 2), dtype=kind)))) == [BLACK] * 2


def test_16_bit_grey_of_either_byte_order(tmp_path):
    for order in "<>":
        mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
        tags = [(256, 3, 2), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 3, 8), (277, 3, 1), (279, 3, 4)]
        data = mark + struct.pack(order + "I", 12) + struct.pack(order + "HH", 0, 65535)
        data += struct.pack(order + "H", len(tags))
        data += b"".join(struct.pack(order + "HHIHH", tag, kind, 1, value, 0) for tag, kind, value in tags)
        assert pixels(data + bytes(4)) == [BLACK, WHITE]


def test_16_bit_colour_keeps_the_high_byte():
    data = png(1, 1, depth=16, colour=2, rows=b"\0" + struct.pack(">HHH", 0xFFFF, 0x8012, 0x00FF))
    assert pixels(data) == [(255, 128, 0)]


def test_32_bit_integers_are_16_bit_grey(tmp_path):
    path = saved(tmp_path / "i.tif", Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.int32)))
    assert pixels(path) == [BLACK, (128,) * 3, WHITE]


def test_floats_run_from_black_to_white(tmp_path):
    path = saved(tmp_path / "f.tif", Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)))
    assert pixels(path) == [BLACK, (128,) * 3, WHITE]


@pytest.mark.parametrize("values", [[-1, 0], [0, 65536]])
def test_integers_outside_the_range_are_an_error(tmp_path, values):
    path = saved(tmp_path / "i.tif", Image.fromarray(np.array([values], dtype=np.int32)))
    with pytest.raises(InputError, match=f"from {values[0]} to {values[1]}"):
        load_image(path)


@pytest.mark.parametrize("value", [-0.5, 255.0, float("nan")])
def test_floats_outside_the_range_are_an_error(tmp_path, value):
    path = saved(tmp_path / "f.tif", Image.fromarray(np.array([[0.5, value]], dtype=np.float32)))
    with pytest.raises(InputError, match="outside 0 to 1"):
        load_image(path)


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.new("1", (2, 1), 1)
    image.putpixel((0, 0), 0)
    for suffix in ("png", "tif", "bmp"):
        assert pixels(saved(tmp_path / f"b.{suffix}", image)) == [BLACK, WHITE]


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels(saved(tmp_path / "p.png", image)) == [RED, (0, 0, 255)]


def test_a_transparent_palette_colour_is_paper(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for suffix in ("png", "gif"):
        assert pixels(saved(tmp_path / f"p.{suffix}", image, transparency=1)) == [RED, WHITE]


def test_half_transparent_palette_colour_is_mixed_with_paper(tmp_path):
    data = png(
        2, 1, depth=8, colour=3, rows=b"\0\0\1",
        chunks=((b"PLTE", bytes([255, 0, 0, 0, 0, 0])), (b"tRNS", bytes([0, 128]))),
    )  # fmt: skip
    assert pixels(data) == [WHITE, (127, 127, 127)]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"), [(8, 0, b"\0\xff", b"\0\0"), (1, 0, b"\x40", b"\0\0")]
)
def test_a_transparent_grey_is_paper(depth, colour, row, transparent):
    data = png(2, 1, depth=depth, colour=colour, rows=b"\0" + row, chunks=((b"tRNS", transparent),))
    assert pixels(data) == [WHITE, WHITE]


def test_alpha_is_composited_on_white(tmp_path):
    colours = Image.new("RGBA", (3, 1))
    colours.putdata([(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)])
    assert pixels(saved(tmp_path / "rgba.png", colours)) == [RED, WHITE, (127, 127, 127)]
    greys = Image.new("LA", (3, 1))
    greys.putdata([(0, 255), (0, 0), (0, 128)])
    assert pixels(saved(tmp_path / "la.png", greys)) == [BLACK, WHITE, (127, 127, 127)]


@pytest.mark.parametrize(("straight", "mode"), [("LA", "La"), ("RGBA", "RGBa")])
def test_premultiplied_alpha(straight, mode):
    image = Image.new("RGBA", (2, 1), "black")
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert pixels(image.convert(straight).convert(mode)) == [BLACK, WHITE]


def test_palette_with_alpha():
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (0, 0))
    assert pixels(image) == [RED, WHITE]


# Cyan, magenta, yellow and black ink, and none: what a printer would put on paper.
INKS = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)]
SEEN = [(0, 255, 255), (255, 0, 255), (255, 255, 0), BLACK, WHITE]


def test_cmyk_tiff_is_ink(tmp_path):
    image = Image.new("CMYK", (5, 1))
    image.putdata(INKS)
    assert pixels(saved(tmp_path / "cmyk.tif", image)) == SEEN


def test_cmyk_jpeg_with_adobes_inverted_values(tmp_path):
    image = Image.new("CMYK", (5, 1))
    image.putdata(INKS)
    image = image.resize((80, 16), Image.Resampling.NEAREST)
    path = saved(tmp_path / "cmyk.jpg", image, quality=100, subsampling=0)
    stored = Image.open(path)
    assert stored.info["adobe"]  # the marker that stands for inverted values
    read = np.asarray(load_image(path), dtype=int)[8, 8::16]
    assert np.abs(read - np.array(SEEN)).max() <= 3


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "webp", "png"):
        options = {"lossless": True} if suffix == "webp" else {}
        path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
        assert pixels(path)[0] == RED


def test_frames_of_a_tiff_have_their_own_size_and_limit(tmp_path):
    frames = [Image.new("RGB", (4, 4), "red"), Image.new("L", (40, 50), 7)]
    path = saved(tmp_path / "two.tif", frames[0], save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((0, 0)) == RED
    assert load_image(path, frame=1).size == (40, 50)
    with pytest.raises(InputError, match="2,000 pixels, the limit is 1,999"):
        load_image(path, frame=1, max_pixels=1999)
    with pytest.raises(InputError, match="no frame 2"):
        load_image(path, frame=2)


def test_an_opened_image_is_not_changed():
    image = Image.new("RGB", (2, 2), "red")
    load_image(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == RED


def test_a_bomb_is_refused_by_its_header(tmp_path):
    for side, count in ((10_000, "100,000,000"), (60_000, "3,600,000,000")):
        path = tmp_path / "bomb.png"
        path.write_bytes(png(side, side, depth=8, colour=2, rows=bytes(100)))
        with pytest.raises(InputError, match=rf"bomb.png is too large: .*{count} pixels, the limit is 89,478,485"):
            load_image(path)


def test_the_limit_is_exact(tmp_path):
    path = saved(tmp_path / "page.png", Image.new("L", (100, 50)))
    assert load_image(path, max_pixels=5000).size == (100, 50)
    with pytest.raises(InputError, match="100 × 50 = 5,000 pixels, the limit is 4,999"):
        load_image(path, max_pixels=4999)


def test_the_size_comes_from_the_header_alone():
    assert image_size(png(9_000, 12_000, depth=8, colour=0, rows=b"")) == (9_000, 12_000)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "gif", "ppm"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"page.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=f"page.{suffix}"):
        load_image(path)


def test_what_is_no_image_says_so(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("This is not an image.")
    expected = {
        "empty.png": "is empty",
        "text.png": "no image of a known format",
        "missing.png": "no such file",
        ".": "is a folder",
        "a\0b": "cannot be opened",
    }
    for name, reason in expected.items():
        for function in (load_image, image_size):
            with pytest.raises(InputError, match=reason) as caught:
                function(tmp_path / name)
            assert str(tmp_path) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_bytes_that_are_no_image_say_so():
    for data in (b"", b"x"):
        with pytest.raises(InputError, match="image of"):
            load_image(data)
