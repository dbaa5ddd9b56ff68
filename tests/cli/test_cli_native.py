"""The verbs on a model of native resolution: what they count and show, that it trains, and that it reads."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from parsit import hf
from parsit.cli.main import dispatch
from parsit.types import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini_native):
    """A model with random weights, and eight pictures of a word, of several sizes."""
    folder = tmp_path_factory.mktemp("native")
    processor = hf.new_processor(mini_native)
    hf.new_model(mini_native, processor, 0).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    records = []
    for number in range(8):
        image = Image.new("RGB", (60 + 20 * number, 30 + 25 * (number % 3)), "white")
        ImageDraw.Draw(image).text((5, 8), f"N{number}", fill="black")
        image.save(folder / f"{number}.png")
        talk = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": f"N{number}"}]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": talk})
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder


def test_info_counts_patches(folder, capsys):
    assert dispatch(["info", str(folder / "model"), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)["a4_150dpi"]
    assert page["image_tokens"] == 56 == 8 * (6 + 1)
    assert (page["patches"], page["grid"]) == (192, [12, 16])
    assert dispatch(["info", str(folder / "model")]) == 0
    assert "56 image tokens (12 x 16 patches, 192 in all" in " ".join(capsys.readouterr().out.split())


def test_the_page_shows_the_image_that_the_tower_gets(folder, tmp_path):
    out = tmp_path / "page.html"
    dispatch(["data", "show", str(folder / "d.jsonl"), "--model", str(folder / "model"), "--n", "1", "--out", str(out)])
    html = out.read_text()
    assert "32 patches</span>" in html  # 60 x 30 pixels become 64 x 32: 8 x 4 patches
    assert "8 × 4 patches, 2 × 2 of them a token" in html
    assert "10 tokens" in html
    pixels = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1]))).convert("L")
    shown = np.asarray(pixels.resize((64, 32), Image.Resampling.BOX)).astype(int)
    expected = Image.open(folder / "0.png").convert("L").resize((64, 32), Image.Resampling.BILINEAR)
    assert np.abs(shown - np.asarray(expected).astype(int))[2:-2, 2:-2].max() < 8  # the edge is outlined


def test_stats_count_patches(folder, capsys):
    dispatch(["data", "stats", str(folder / "d.jsonl"), "--model", str(folder / "model"), "--json"])
    (stats,) = json.loads(capsys.readouterr().out)
    layout = hf.load_processor(folder / "model").image_processor.layout
    sizes = [Image.open(folder / f"{number}.png").size for number in range(8)]
    assert stats["unit"] == "patches"
    assert stats["tiles"]["total"] == sum(layout.plan(*size).num_tiles for size in sizes)


def test_check_finds_it_sound(folder, tmp_path, capsys):
    flags = ["--data", str(folder / "d.jsonl"), "--output_dir", str(tmp_path / "run")]
    flags += ["--model_name_or_path", str(folder / "model"), "--bf16", "false", "--packing", "true"]
    assert dispatch(["check", "tiny", *flags, "--model_max_length", "256"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"most patches \d+; \d images read, [\d,]+ image tokens are as many features", " ".join(out.split())
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_image_tokens", "99"], "--max_image_tokens is 99, but the model in .* was built with 60"),
        (
            ["--image_aspect_ratio", "anyres"],
            "--image_aspect_ratio is anyres, but the model in .* was built with native",
        ),
    ],
)
def test_flags_that_the_model_contradicts_are_refused(folder, tmp_path, flags, message):
    fixed = ["--data", str(folder / "d.jsonl"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UsageError, match=message):
        dispatch(["check", "tiny", *fixed, "--model_name_or_path", str(folder / "model"), *flags])


@pytest.mark.slow
def test_it_reads_a_page_the_same_alone_and_in_a_batch(folder):
    import parsit

    reader = parsit.load(folder / "model")
    pages = [reader.parse(folder / f"{number}.png").to_markdown() for number in (0, 5)]
    assert all(isinstance(page, str) for page in pages)
    torch.manual_seed(1)
    assert pages == [reader.parse(folder / f"{number}.png").to_markdown() for number in (0, 5)]
