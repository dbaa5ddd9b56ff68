"""What TIFFs and headers can say about pixels: other depths, white as zero, thumbnails, pixels that are not square."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from parsit.processing.images import image_size, load_image, open_image, page_frames
from parsit.types import InputError

SHORT, LONG = 3, 4


def tiff(*pictures: tuple[bytes, dict[int, int]], order: str = "<") -> bytes:
    """A TIFF of uncompressed strips by hand: each picture's bytes, and its tags; 256 to 277 as in TIFF 6.0."""
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    for number, (pixels, tags) in enumerate(pictures):
        every = {259: 1, 277: 1, 278: tags[257], 279: len(pixels), **tags}
        size = 2 + 12 * (len(every) + 1) + 4
        every[273] = len(data) + size
        entries = [
            struct.pack(f"{order}HHL", tag, LONG, 1) + struct.pack(f"{order}L", value)
            for tag, value in sorted(every.items())
        ]
        following = 0 if number == len(pictures) - 1 else len(data) + size + len(pixels)
        data += struct.pack(f"{order}H", len(every)) + b"".join(entries) + struct.pack(f"{order}L", following) + pixels
    return data


def grey(data: bytes) -> list[int]:
    return np.asarray(load_image(data))[0, :, 0].tolist()


VALUES = [0, 17, 2048, 4095]


def packed_12(values: list[int]) -> bytes:
    bits = "".join(f"{value:012b}" for value in values)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_12_bits():
    picture = {256: 4, 257: 1, 258: 12}
    expected = [round(value * 255 / 4095) for value in VALUES]
    assert grey(tiff((packed_12(VALUES), {**picture, 262: 1}))) == expected
    with pytest.raises(
        InputError, match="no image of a known format"
    ):  # Pillow knows no such file: refused, not guessed
        load_image(tiff((packed_12(VALUES), {**picture, 262: 1}), order=">"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_of_either_polarity(order):
    values = [0, 1000, 40000, 65535]
    pixels = struct.pack(f"{order}4H", *values)
    expected = [round(value / 257) for value in values]
    assert grey(tiff((pixels, {256: 4, 257: 1, 258: 16, 262: 1}), order=order)) == expected
    inverse = tiff((pixels, {256: 4, 257: 1, 258: 16, 262: 0}), order=order)
    if order == "<":
        assert grey(inverse) == [255 - value for value in expected]
    else:  # Pillow knows no such file: refused, not guessed
        with pytest.raises(InputError, match="no image of a known format"):
            load_image(inverse)


def test_floats_of_either_polarity():
    pixels = struct.pack("<4f", 0.0, 0.25, 0.5, 1.0)
    tags = {256: 4, 257: 1, 258: 32, 339: 3}
    assert grey(tiff((pixels, {**tags, 262: 1}))) == [0, 64, 128, 255]
    assert grey(tiff((pixels, {**tags, 262: 0}))) == [255, 191, 127, 0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fewer_bits_of_either_polarity(bits):
    values = [0, 1, 2**bits - 1, 0, 1, 2**bits - 1, 0, 1]
    pixels = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(bits, "big")
    expected = [round(value * 255 / (2**bits - 1)) for value in values]
    tags = {256: 8, 257: 1, 258: bits}
    assert grey(tiff((pixels, {**tags, 262: 1}))) == expected
    assert grey(tiff((pixels, {**tags, 262: 0}))) == [255 - value for value in expected]


def plain(width: int, height: int, value: int, **tags: int) -> tuple[bytes, dict[int, int]]:
    return bytes([value]) * (width * height), {
        256: width, 257: height, 258: 8, 262: 1, **{int(tag[1:]): number for tag, number in tags.items()}
    }  # fmt: skip


THUMBNAIL, MASK, PAGE = 1, 4, 2


@pytest.mark.parametrize(
    ("pictures", "pages"),
    [
        ([plain(40, 50, 9), plain(4, 5, 9, t254=THUMBNAIL)], [0]),
        ([plain(4, 5, 9, t254=THUMBNAIL), plain(40, 50, 9)], [1]),
        ([plain(40, 50, 9, t254=PAGE), plain(4, 5, 9, t254=THUMBNAIL | PAGE), plain(40, 51, 9, t254=PAGE)], [0, 2]),
        ([plain(40, 50, 9), plain(40, 50, 9, t254=MASK)], [0]),
        ([plain(40, 50, 9, t255=1), plain(4, 5, 9, t255=2)], [0]),
        ([plain(4, 5, 9, t254=THUMBNAIL)], [0]),
    ],
)
def test_thumbnails_and_masks_are_no_pages(pictures, pages):
    data = tiff(*pictures)
    with open_image(data, max_pixels=None) as image:
        assert page_frames(image, "a.tif") == pages
    first = pictures[pages[0]][1]
    assert image_size(data) == load_image(data).size == (first[256], first[257])


def saved(image: Image.Image, name: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
@pytest.mark.parametrize(
    ("dpi", "size"),
    [
        ((204, 98), (60, 42)),
        ((98, 204), (125, 20)),
        ((200, 100), (60, 40)),
        ((204, 196), (60, 20)),
        ((300, 300), (60, 20)),
        ((300, 1), (60, 20)),
        ((0, 98), (60, 20)),
    ],
)
def test_pixels_are_square(mode, dpi, size):
    image = Image.new(mode, (60, 20), "white")
    encoded = [saved(image, "TIFF", dpi=dpi)]
    if mode != "1":
        encoded += [saved(image, "PNG", dpi=dpi), saved(image, "JPEG", dpi=dpi)]
    for data in encoded:
        loaded = load_image(data)
        assert image_size(data) == loaded.size == load_image(loaded).size == size


def test_a_turned_picture_is_squared_along_its_own_sides():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    data = saved(Image.new("L", (60, 20), "white"), "TIFF", tiffinfo=tags, dpi=(200, 100))
    assert image_size(data) == load_image(data).size == (40, 60)
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.new("L", (60, 20), "white"), "JPEG", exif=exif, dpi=(200, 100))
    assert image_size(data) == load_image(data).size == (40, 60)


def test_a_fax(tmp_path):
    path = Path(__file__).parents[1] / "parse" / "data" / "fax-204x98.tif"
    assert image_size(path) == load_image(path).size == (600, 300)
