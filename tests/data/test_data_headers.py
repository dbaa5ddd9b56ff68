"""Sizes from headers alone: what is said without Pillow is what Pillow says, of whole files and of broken ones."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin

from parsit.data import images
from parsit.data.faults import DataFault
from parsit.data.headers import Header, read_header
from parsit.data.images import check_image
from parsit.processing.images import image_size

SIZE = (18, 12)


def saved(mode: str, form: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*reversed(SIZE), 4), dtype=np.uint8)
    picture = Image.fromarray(pixels, "RGBA")
    for step in [*{"CMYK": ["RGB"], "P": ["RGB"], "I;16": ["L"]}.get(mode, []), mode]:
        picture = picture.convert(step)
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def exif(order: str = "<", **tags: int) -> Image.Exif:
    made = Image.Exif()
    made.endian = order
    for tag, value in tags.items():
        made[int(tag.removeprefix("tag"))] = value
    return made


def texts(**entries: str) -> PngImagePlugin.PngInfo:
    made = PngImagePlugin.PngInfo()
    for key, value in entries.items():
        made.add_text(key, value)
    return made


# What scanners, cameras and programs write every day: read here, without Pillow.
PLAIN = {
    **{f"png {mode}": saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "png 300 dpi": saved("RGB", "PNG", dpi=(300, 300)),
    "png with texts": saved("L", "PNG", pnginfo=texts(Software="a program", Author="somebody")),
    "jpeg grey": saved("L", "JPEG"),
    "jpeg": saved("RGB", "JPEG", quality=95),
    "jpeg of four inks": saved("CMYK", "JPEG"),
    "jpeg progressive": saved("RGB", "JPEG", progressive=True, optimize=True),
    "jpeg 200 dpi": saved("RGB", "JPEG", dpi=(200, 200)),
    "jpeg with a comment": saved("RGB", "JPEG", comment=b"of a scanner"),
    **{
        f"jpeg turned {way} {order}": saved("RGB", "JPEG", exif=exif(order, tag274=way, tag271=5))
        for way, order in product(range(1, 9), "<>")
    },
    "jpeg with a resolution in its exif": saved(
        "RGB", "JPEG", exif=exif(tag274=6, tag282=TiffImagePlugin.IFDRational(72, 1), tag296=2)
    ),
}
# Whole as well, but left to Pillow.
LEFT = {
    "png fax": saved("1", "PNG", dpi=(204, 98)),
    "png turned": saved("RGB", "PNG", exif=exif(tag274=6)),
    "png transparent": saved("P", "PNG", transparency=0),
    "png whose text is a resolution": saved("L", "PNG", pnginfo=texts(dpi="12")),
    "png of several pictures": saved("RGB", "PNG", save_all=True, append_images=[Image.new("RGB", SIZE)]),
    "jpeg fax": saved("L", "JPEG", dpi=(204, 98)),
    "jpeg with xmp": saved("RGB", "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
    "jpeg of several pictures": saved("RGB", "MPO", save_all=True, append_images=[Image.new("RGB", SIZE)]),
    "gif": saved("P", "GIF"),
    "webp": saved("RGB", "WEBP"),
    "tiff": saved("RGB", "TIFF"),
}


def outcome(data: bytes) -> tuple[int, int] | str:
    """The size of an image, or the code of what is wrong with it."""
    try:
        return check_image(data)
    except DataFault as fault:
        return fault.code


def by_pillow(data: bytes) -> tuple[int, int] | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "read_header", lambda head: None)
        return outcome(data)


@pytest.mark.parametrize("name", PLAIN)
def test_an_ordinary_header_is_read_without_pillow(monkeypatch, name):
    expected = image_size(PLAIN[name])
    monkeypatch.setattr(images.Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert check_image(PLAIN[name]) == expected
    assert expected == (SIZE if "turned" not in name or int(name.split()[2]) < 5 else (SIZE[1], SIZE[0])) or (
        name == "jpeg with a resolution in its exif"
    )


@pytest.mark.parametrize("name", LEFT)
def test_what_is_out_of_the_ordinary_is_left_to_pillow(name):
    assert read_header(LEFT[name]) is None
    assert check_image(LEFT[name]) == image_size(LEFT[name])


def test_a_resolution_of_an_odd_type_which_pillow_stumbles_over_is_a_fault_as_before():
    data = PLAIN["jpeg with a resolution in its exif"].replace(b"\x1a\x01\x05\x00", b"\x1a\x01\x01\x00")
    assert outcome(data) == by_pillow(data) == "image-damaged"


@pytest.mark.parametrize("name", [*PLAIN, *LEFT])
def test_a_file_that_is_cut_off_anywhere_has_the_fault_that_pillow_finds(name):
    whole = (PLAIN | LEFT)[name]
    for length in {*range(1, min(len(whole), 700), 7), *range(len(whole) - 12, len(whole))}:
        assert outcome(whole[:length]) == by_pillow(whole[:length]), length


def mend_checksums(data: bytearray) -> None:
    """Give a PNG's chunks the checksums of what they hold."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + struct.unpack_from(">I", data, place)[0]
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3)


@settings(max_examples=600, deadline=None)
@given(name=st.sampled_from(sorted(PLAIN | LEFT)), changes=CHANGES, in_header=st.booleans(), mended=st.booleans())
def test_changed_bytes_change_what_is_said_as_they_change_what_pillow_says(name, changes, in_header, mended):
    data = bytearray((PLAIN | LEFT)[name])
    for place, byte in changes:
        data[place % min(len(data), 180 if in_header else 10**6)] = byte
    if mended and name.startswith("png"):
        mend_checksums(data)
    assert outcome(bytes(data)) == by_pillow(bytes(data))


@pytest.mark.parametrize("name", ["png RGB", "jpeg"])
def test_a_header_of_too_many_pixels_is_refused_as_pillow_would(name):
    data = bytearray(PLAIN[name])
    if name == "jpeg":
        place = data.index(b"\xff\xc0") + 5
        struct.pack_into(">HH", data, place, 12_000, 12_000)
    else:
        struct.pack_into(">II", data, 16, 12_000, 12_000)
        mend_checksums(data)
    assert isinstance(read_header(bytes(data)), Header)
    assert outcome(bytes(data)) == by_pillow(bytes(data)) == "image-too-large"
