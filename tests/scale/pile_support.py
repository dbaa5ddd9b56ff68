"""A random model that reads in milliseconds, and piles for it. Needs no typst: the tests with Ray use it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from parsit.config import Architecture
from pdf_support import text_page

LOUDER = 12.0

MINI = Architecture(
    name="mini-pile",
    description="for piles",
    vision_config={
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
    text_config={
        "model_type": "qwen3",
        "vocab_size": 4096,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    multimodal={"image_grid_pinpoints": "(1x1),(1x2),(2x1)", "mm_vision_select_layer": -2},
    tokenizer="tiny",
    processing={"mm_use_im_start_end": True},
)


def write_model(folder: Path, seed: int = 0) -> Path:
    """A model of random weights."""
    import torch

    from parsit import hf

    processor = hf.new_processor(MINI)
    model = hf.new_model(MINI, processor, seed=seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(LOUDER)  # or it repeats the last token of its prompt
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_page(path: Path, text: str, width: int = 64) -> Path:
    """A picture with a word on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, 32), "white")
    ImageDraw.Draw(image).text((4, 8), text, fill="black")
    image.save(path)
    return path


def write_pile(folder: Path, count: int) -> Path:
    """Pictures in folders, two PDFs, and what cannot be read: one in twenty."""
    for number in range(count):
        name = folder / f"{number % 3}" / f"{number:03}.png"
        write_page(name, f"n{number}", 48 + 16 * (number % 4))
        if number % 20 == 19:
            name.write_bytes(b"\x89PNG\r\n\x1a\n nothing more %d" % number)
    for number in range(2):
        content = b"BT /F 20 Tf 20 40 Td (Page of number %d) Tj ET" % number
        (folder / f"p{number}.pdf").write_bytes(text_page(content, 200, 80))
    return folder


def records_of(folder: Path) -> list[dict]:
    """All records of the only set below a folder, as they lie in its parts, without what depends on time and place."""
    import json

    (found,) = folder.iterdir()
    records = []
    for part in sorted((found / "readings").glob("part-*.jsonl")):
        records += [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()[1:]]
    for record in records:
        del record["seconds"]
    return sorted(records, key=lambda record: record["key"])
