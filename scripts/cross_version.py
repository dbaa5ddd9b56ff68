"""What one transformers version saves, another loads: strictly, and with equal ids, pixels and logits.

    python scripts/cross_version.py save DIR     # under one version
    python scripts/cross_version.py check DIR    # under another

`make test-compat` does both ways between 4.53.2 and the newest. Four architectures: Qwen3 with a
rope base that is not the default, Llama, untied embeddings, and a tower of native resolution.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from parsit import hf
from parsit.config import Architecture, load_architecture
from parsit.types import ImageRef, Turn


def architectures() -> list[Architecture]:
    """Small models of each kind."""
    tiny = load_architecture("tiny")
    small = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
    vision = {**tiny.vision_config, **small}
    qwen = {**tiny.text_config, **small, "head_dim": 16, "rope_theta": 1e6}
    llama = {key: value for key, value in qwen.items() if key != "head_dim"} | {
        "model_type": "llama",
        "rope_theta": 5e5,
    }
    native = {"image_aspect_ratio": "native", "max_image_tokens": 60, "mm_pixel_shuffle": 2}
    naflex = {key: value for key, value in vision.items() if key != "image_size"}
    naflex |= {"model_type": "siglip2_vision_model", "num_patches": 16}
    return [
        replace(tiny, name="native", vision_config=naflex, text_config=qwen, multimodal=native),
        replace(tiny, name="qwen3", vision_config=vision, text_config=qwen),
        replace(tiny, name="llama", vision_config=vision, text_config=llama),
        replace(tiny, name="untied", vision_config=vision, text_config={**qwen, "tie_word_embeddings": False}),
    ]


def turns() -> tuple[Turn, ...]:
    """A conversation with an image and special tokens in its text."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 150, 3), dtype=np.uint8)
    question = (ImageRef(Image.fromarray(pixels)), "Read <|im_end|> this, café 12.")
    return (Turn("user", question), Turn("assistant", ("Überweisung 7",)))


def save(folder: Path) -> None:
    """Random models, their processors, and what they give for one conversation."""
    for architecture in architectures():
        target = folder / architecture.name
        processor = hf.new_processor(architecture)
        model = hf.new_model(architecture, processor, seed=0).eval()
        processor.save_pretrained(target)
        model.save_pretrained(target)
        save_file(outputs(model, processor), target / "expected.safetensors")
        print(f"transformers {transformers.__version__} saved {architecture.name}")


def outputs(model: torch.nn.Module, processor: transformers.ProcessorMixin) -> dict[str, torch.Tensor]:
    """Ids, pixels and logits."""
    features = processor.encode(turns())
    with torch.no_grad():
        logits = model(
            input_ids=features.input_ids[None], pixel_values=features.pixel_values, image_sizes=features.image_sizes
        ).logits
    return {"input_ids": features.input_ids, "pixel_values": features.pixel_values, "logits": logits}


def check(folder: Path) -> None:
    """Load what the other version saved and compare; raises where it differs."""
    for architecture in architectures():
        source = folder / architecture.name
        model = AutoModelForImageTextToText.from_pretrained(source).eval()
        found = outputs(model, AutoProcessor.from_pretrained(source))
        expected = load_file(source / "expected.safetensors")
        assert torch.equal(found["input_ids"], expected["input_ids"]), "ids differ"
        assert torch.equal(found["pixel_values"], expected["pixel_values"]), "pixels differ"
        difference = float((found["logits"] - expected["logits"]).abs().max())
        assert difference <= 1e-5, f"{architecture.name}: logits differ by {difference}"
        print(f"transformers {transformers.__version__} loads {architecture.name}: logits differ by {difference:.1e}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("save", "check"):
        sys.exit(__doc__)
    {"save": save, "check": check}[sys.argv[1]](Path(sys.argv[2]))
