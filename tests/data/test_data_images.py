"""Images from their headers: the size that training gets, and each way to be broken by its code."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parsit.data import images
from parsit.data.faults import DataFault
from parsit.data.images import check_image
from parsit.processing.images import image_size, load_image
from parsit.types import FileSlice, InputError

FORMATS = {
    "png": {},
    "jpg": {"quality": 95},
    "progressive.jpg": {"progressive": True},
    "gif": {},
    "webp": {"quality": 90},
    "lossless.webp": {"lossless": True},
    "bmp": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "ppm": {},
    "pgm": {},
    "pbm": {},
}


def noise(width: int = 90, height: int = 60) -> Image.Image:
    """Pixels that no format compresses to nothing, so that a cut is a cut of pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(name: str, image: Image.Image | None = None) -> bytes:
    image = image or noise()
    modes = {"pgm": "L", "pbm": "1"}
    file = io.BytesIO()
    ending = name.rsplit(".", 1)[-1]
    form = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM", "pbm": "PPM"}.get(ending, ending.upper())
    image.convert(modes.get(ending, "RGB")).save(file, form, **FORMATS[name])
    return file.getvalue()


def code_of(source: Path | FileSlice | bytes, **options) -> str:
    with pytest.raises(DataFault) as caught:
        check_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_image_passes_with_its_size_from_wherever_it_comes(tmp_path, name, deep):
    data = encoded(name)
    path = tmp_path / name
    path.write_bytes(data)
    shard = tmp_path / "shard.tar"
    shard.write_bytes(b"x" * 512 + data + b"y" * 100)
    for source in (path, data, FileSlice(shard, 512, len(data))):
        assert check_image(source, deep=deep) == image_size(source) == load_image(source).size == (90, 60)


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_image_is_not_decoded(monkeypatch, name):
    monkeypatch.setattr(images, "decode_image", lambda *_: pytest.fail("decoded"))
    check_image(encoded(name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
def test_a_cut_off_image_is_found(tmp_path, name, kept):
    data = encoded(name)
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * kept)])
    for source in (path, path.read_bytes(), FileSlice(path, 0, path.stat().st_size)):
        assert code_of(source) == "image-cut-off"
    with pytest.raises(InputError):
        load_image(path)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [8, 12, 20])
def test_a_header_without_the_rest_is_broken_not_unknown(name, kept):
    assert code_of(encoded(name)[:kept]) in ("image-cut-off", "image-damaged")


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_behind_the_end_do_no_harm(name):
    for tail in (b"\0", b"\0" * 5000, b"made by a camera " * 1000):
        assert check_image(encoded(name) + tail) == (90, 60)


@pytest.mark.parametrize("end", [b"\0\0", b""])
def test_a_jpeg_without_its_end_marker_passes_if_its_pixels_are_there(end):
    data = encoded("jpg")
    assert data.endswith(b"\xff\xd9")
    source = data[:-2] + end
    try:
        load_image(source)
    except InputError:
        assert code_of(source) == "image-cut-off"
    else:
        assert check_image(source) == (90, 60)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photo():
    photo, thumbnail = encoded("jpg"), encoded("jpg", noise(16, 16))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = photo[:2] + segment + photo[2:]
    assert check_image(whole) == (90, 60)
    assert code_of(whole[: len(segment) + 900]) == "image-cut-off"


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"page.{suffix}"
    noise(32, 16).save(path, exif=exif)
    assert check_image(path) == load_image(path).size == ((32, 16) if orientation < 5 else (16, 32))


@pytest.mark.parametrize("name", ["png", "deflate.tif"])
def test_damage_in_the_middle_is_found_by_a_deep_look(name):
    data = bytearray(encoded(name))
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    assert check_image(bytes(data)) == (90, 60)
    assert code_of(bytes(data), deep=True) == "image-damaged"


def test_what_is_no_image_file(tmp_path):
    assert code_of(tmp_path / "none.png") == "image-missing"
    (tmp_path / "file").write_text("x")
    assert code_of(tmp_path / "file" / "none.png") == "image-missing"
    assert code_of(tmp_path) == "image-not-a-file"
    os.mkfifo(tmp_path / "pipe")
    assert code_of(tmp_path / "pipe") == "image-not-a-file"
    assert code_of(tmp_path / "a\0b") == "image-unreadable"
    assert code_of(tmp_path / ("a" * 300)) == "image-unreadable"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert code_of(tmp_path / "loop") == "image-unreadable"
    (tmp_path / "empty.png").write_bytes(b"")
    assert code_of(tmp_path / "empty.png") == "image-empty"
    assert code_of(b"") == "image-empty"
    assert code_of(b"<svg></svg>") == "image-unknown-format"
    assert code_of(b"\0" * 100) == "image-unknown-format"


def test_a_file_without_permission():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o755)
        path = Path(folder) / "a.png"
        path.write_bytes(encoded("png"))
        path.chmod(0)
        is_root = os.geteuid() == 0
        if is_root:  # who may read everything: be nobody for a moment
            os.seteuid(65534)
        try:
            assert code_of(path) == "image-unreadable"
        finally:
            if is_root:
                os.seteuid(0)


def test_a_slice_that_its_file_does_not_have(tmp_path):
    shard = tmp_path / "shard.tar"
    shard.write_bytes(encoded("png"))
    assert code_of(FileSlice(shard, 0, shard.stat().st_size + 1)) == "image-cut-off"
    assert code_of(FileSlice(shard, 10**9, 10)) == "image-cut-off"
    assert code_of(FileSlice(tmp_path / "none.tar", 0, 10)) == "image-missing"
    assert code_of(FileSlice(shard, 0, 0)) == "image-empty"
    assert code_of(FileSlice(shard, 0, 2**31)) == "image-too-large"


def header_of_png(width: int, height: int) -> bytes:
    data = bytearray(encoded("png", noise(8, 8)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_they_are_decoded(width, height):
    assert code_of(header_of_png(width, height), deep=True) == "image-too-large"


def test_a_file_of_more_than_a_gibibyte_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(encoded("png"))
        file.truncate(2**30 + 1)
    assert code_of(path) == "image-too-large"


def test_links_may_not_leave_the_image_folder(tmp_path):
    root, outside = tmp_path / "images", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    for folder in (root, root / "a", outside):
        (folder / "x.png").write_bytes(encoded("png"))
    (root / "file.png").symlink_to(outside / "x.png")
    (root / "folder").symlink_to(outside)
    (root / "inside.png").symlink_to("a/x.png")
    assert code_of(root / "file.png", root=root) == "image-symlink-leaves-root"
    assert code_of(root / "folder" / "x.png", root=root) == "image-symlink-leaves-root"
    for name in ("x.png", "a/x.png", "inside.png"):
        assert check_image(root / name, root) == (90, 60)
    assert check_image(root / "file.png") == (90, 60)
    # A sibling whose name begins like the root's is not inside it.
    (tmp_path / "images-more").mkdir()
    (tmp_path / "images-more" / "x.png").write_bytes(encoded("png"))
    (root / "sibling").symlink_to(tmp_path / "images-more")
    assert code_of(root / "sibling" / "x.png", root=root) == "image-symlink-leaves-root"
    # The root itself may be a link.
    (tmp_path / "link").symlink_to(root)
    assert check_image(tmp_path / "link" / "x.png", tmp_path / "link") == (90, 60)


def test_relative_names_mean_what_they_do_in_the_working_folder_of_now(tmp_path, monkeypatch):
    for folder in ("first", "second"):
        (tmp_path / folder / "data").mkdir(parents=True)
        noise().save(tmp_path / folder / "data" / "a.png")
    (tmp_path / "images").symlink_to(tmp_path / "second")
    for folder in ("first", "second", "images"):
        monkeypatch.chdir(tmp_path / folder)
        assert check_image(Path("data/a.png"), Path("data")) == (90, 60)
        assert check_image(Path("data/a.png"), tmp_path / folder / "data") == (90, 60)


def test_a_slice_of_a_file_loads_like_the_file(tmp_path):
    data = encoded("png")
    shard = tmp_path / "shard.tar"
    shard.write_bytes(b"x" * 512 + data)
    assert load_image(FileSlice(shard, 512, len(data))).tobytes() == load_image(data).tobytes()
    for broken, message in (
        (FileSlice(shard, 512, len(data) + 1), "is cut off"),
        (FileSlice(shard, 512, 0), "is empty"),
        (FileSlice(tmp_path / "none", 0, 5), "cannot be read"),
        (FileSlice(shard, 0, 100), "no image of a known format"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_image(broken)
        assert f"{broken.path} at byte {broken.offset}" in str(caught.value)
