from __future__ import annotations

import io
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from parsit.synth.degrade import Damage, draw_damage, encode, wear


def square(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (64, 48), "white")
    image.paste("black", (16, 12, 48, 36))
    return image.convert(mode)


def worn(damage: Damage, seed: int = 0) -> np.ndarray:
    return np.asarray(wear(square(), damage, np.random.default_rng(seed)))


def test_none_leaves_every_pixel():
    damage = draw_damage(Random(1), "none", 150)
    stored = Image.open(io.BytesIO(encode(wear(square(), damage, np.random.default_rng(0)), damage)))
    assert stored.format == "PNG"
    assert np.array_equal(np.asarray(stored), np.asarray(square()))


def test_ink_and_paper_replace_black_and_white():
    pixels = worn(Damage(ink=(10, 20, 30), paper=(250, 240, 230)))
    assert pixels[24, 32].tolist() == [10, 20, 30]
    assert pixels[0, 0].tolist() == [250, 240, 230]


def test_grey_has_one_channel():
    pixels = worn(Damage(gray=True, ink=(10, 20, 30), paper=(250, 240, 230)))
    assert (pixels.ndim, pixels[24, 32], pixels[0, 0]) == (2, 10, 250)


def test_noise_has_its_deviation_and_its_seed():
    damage = Damage(noise=8.0, paper=(128, 128, 128), ink=(128, 128, 128))
    assert worn(damage)[..., 0].std() == pytest.approx(8.0, rel=0.1)
    assert worn(damage)[..., 0].mean() == pytest.approx(128, abs=1)
    assert np.array_equal(worn(damage, 5), worn(damage, 5))
    assert not np.array_equal(worn(damage, 5), worn(damage, 6))


def test_shade_darkens_one_side():
    pixels = worn(Damage(shade=0.2, shade_deg=0.0))[..., 0].astype(int)
    assert pixels[0, 0] > 250
    assert pixels[0, 63] == pytest.approx(255 * 0.8, abs=4)


def test_blur_softens_edges():
    assert set(np.unique(worn(Damage()))) == {0, 255}
    assert len(np.unique(worn(Damage(blur_px=1.0)))) > 4


def test_jpeg_quality_shrinks_the_file():
    noisy = wear(square(), Damage(noise=10.0), np.random.default_rng(0))
    sizes = [len(encode(noisy, Damage(jpeg_quality=quality))) for quality in (40, 95)]
    assert sizes[0] < sizes[1]
    assert Image.open(io.BytesIO(encode(noisy, Damage(jpeg_quality=40)))).format == "JPEG"


def test_full_damage_stays_readable_and_is_seeded():
    draws = [draw_damage(Random(seed), "full", 150) for seed in range(300)]
    assert draws[:5] == [draw_damage(Random(seed), "full", 150) for seed in range(5)]
    assert all(min(damage.paper) - max(damage.ink) > 100 for damage in draws)
    assert any(damage.skew_deg for damage in draws)
    assert max(abs(damage.skew_deg) for damage in draws) <= 1.2
    light = [draw_damage(Random(seed), "light", 150) for seed in range(50)]
    assert all(replace(d, skew_deg=0, blur_px=0, shade=0) == d for d in light)
