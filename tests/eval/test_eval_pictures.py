import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from parsit.eval.pictures import picture
from parsit.types import ImageRef


def shown(found):
    return Image.open(io.BytesIO(base64.b64decode(found.uri.split(",", 1)[1]))).convert("RGB")


def test_a_picture_is_bounded_in_pixels_and_bytes():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1000, 3), dtype=np.uint8))
    found = picture(ImageRef(noise), 300, 300)
    assert (found.width, found.height) == (200, 300)
    assert shown(found).size == (200, 300)
    assert found.uri.startswith("data:image/jpeg")
    assert len(found.uri) < 100_000


def test_a_small_crop_is_kept_as_it_is(tmp_path):
    Image.new("RGB", (30, 10), (10, 20, 30)).save(tmp_path / "a.png")
    found = picture(ImageRef(tmp_path / "a.png"), 300, 300)
    assert found.uri.startswith("data:image/png")
    assert shown(found).getpixel((5, 5)) == (10, 20, 30)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rotation_transparency_and_depth_are_shown_as_meant():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert (picture(ImageRef(turned), 99, 99).width, picture(ImageRef(turned), 99, 99).height) == (20, 40)
    clear = encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    assert shown(picture(ImageRef(clear), 99, 99)).getpixel((1, 1)) == (255, 255, 255)
    deep = encoded(Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)))
    assert shown(picture(ImageRef(deep), 99, 99)).getpixel((1, 1))[0] in (127, 128)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(Image.new("L", (400, 400), 7))[:-40]])
def test_what_cannot_be_shown_says_why(content):
    found = picture(ImageRef(content), 99, 99)
    assert found.uri == ""
    assert found.error.startswith("the image cannot be shown")


def test_a_missing_file_says_why(tmp_path):
    assert "none.png" in picture(ImageRef(tmp_path / "none.png"), 99, 99).error


def test_too_many_pixels_are_not_decoded():
    huge = encoded(Image.new("1", (11_000, 10_000)))
    assert "11,000 × 10,000" in picture(ImageRef(huge), 99, 99).error


def test_what_the_model_is_refused_is_not_shown_either(tmp_path):
    """PostScript would be drawn by a program outside; a pipe would never end."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "no image of a known format" in picture(ImageRef(tmp_path / "a.png"), 99, 99).error
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in picture(ImageRef(tmp_path / "pipe.png"), 99, 99).error
