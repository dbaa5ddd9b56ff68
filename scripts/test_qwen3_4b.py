"""Do Qwen3-1.7B and Qwen3-4B fit Parsit on this machine? Without training data.

python scripts/test_qwen3_4b.py [--sizes 1.7B 4B] [--offline]

With a Hub: the real parts are fetched (12 GB), loaded strictly and run on an image and text. `--offline`: the models at
full depth without memory, their parameters counted against the published numbers, and then two layers of each with
random weights run on an image and text: under a minute on one core, and 4 GB. Exit code 0: all is well, 1: not all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from PIL import Image, ImageDraw

from parsit import hf
from parsit.cli.console import quiet_libraries
from parsit.config import Architecture, load_architecture
from parsit.model import ParsitForConditionalGeneration
from parsit.model.summary import summarize
from parsit.processing.image_processor import ParsitImageProcessor
from parsit.types import ParsitError

SIZES = {"1.7B": "qwen3-1.7b", "4B": "qwen3-4b"}
# Qwen's published counts, tied embeddings once, and SigLIP2-so400m's without the last layer and the pooling head, which
# Parsit does not build.
PARAMETERS = {
    "qwen3-1.7b": {"language_model": 1_720_574_976, "vision_tower": 397_745_440, "projector": 6_561_792},
    "qwen3-4b": {"language_model": 4_022_468_096, "vision_tower": 397_745_440, "projector": 9_512_960},
}


class CheckError(Exception):
    """Something does not fit."""


def require(holds: bool, problem: str) -> None:
    if not holds:
        raise CheckError(problem)


def page() -> Image.Image:
    image = Image.new("RGB", (420, 300), "white")
    ImageDraw.Draw(image).text((20, 20), "Total 42.00", fill="black")
    return image


def check_counts(architecture: Architecture) -> str:
    summary = summarize(hf.meta_model(hf.config_of(architecture)))
    for part, expected in PARAMETERS[architecture.name].items():
        found = summary.parts[part]
        require(found == expected, f"{part} has {found:,} parameters instead of {expected:,}")
    require(summary.page_tokens + 1024 <= summary.context, f"a page of {summary.page_tokens:,} tokens does not fit")
    return f"{summary.total:,} parameters; a page is {summary.page_tokens:,} of {summary.context:,} tokens"


def two_layers(architecture: Architecture) -> Architecture:
    """The same widths and vocabulary, two layers deep."""
    return replace(
        architecture,
        text_config=architecture.text_config | {"num_hidden_layers": 2},
        vision_config=architecture.vision_config | {"num_hidden_layers": 3},  # the last one is not built
    )


def check_layers(architecture: Architecture) -> str:
    config = hf.config_of(two_layers(architecture))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = ParsitForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    vision = architecture.vision_config
    names = ("image_aspect_ratio", "image_grid_pinpoints", "mm_patch_merge_type", "mm_spatial_pool_stride")
    joined = {name: architecture.multimodal[name] for name in (*names, "mm_spatial_pool_mode")}
    images = ParsitImageProcessor(image_size=vision["image_size"], patch_size=vision["patch_size"], **joined)
    features = images([page()])
    (height, width), *_ = features["image_sizes"].tolist()
    count = images.layout.num_image_tokens(width, height)
    ids = torch.cat([torch.arange(20), torch.full((count,), config.image_token_id), torch.arange(30)])[None]
    return run(model, ids, features["pixel_values"], features["image_sizes"], count)


def check_whole(architecture: Architecture) -> str:
    processor = hf.new_processor(architecture)
    model = hf.model_from_parts(
        architecture, processor, 0, architecture.vision_tower, architecture.model_name_or_path
    ).to(torch.bfloat16)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": page()}, {"type": "text", "text": "\nRead."}]}],
        add_generation_prompt=True,
        tokenize=True,
    )
    count = int((text["input_ids"] == model.config.image_token_id).sum())
    return run(model, text["input_ids"], text["pixel_values"], text["image_sizes"], count)


@torch.no_grad()
def run(
    model: ParsitForConditionalGeneration, ids: torch.Tensor, pixels: torch.Tensor, sizes: torch.Tensor, count: int
) -> str:
    """Forward with logits and with a loss; what comes out is finite, and depends on the image."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.eval().to(device)
    ids, pixels, sizes = ids.to(device), pixels.to(device), sizes.to(device)
    logits = model(input_ids=ids, pixel_values=pixels, image_sizes=sizes, logits_to_keep=1).logits
    vocabulary = model.config.text_config.vocab_size
    require(logits.shape == (1, 1, vocabulary), f"logits have the shape {tuple(logits.shape)}")
    require(bool(logits.isfinite().all()), "logits are not finite")
    other = model(input_ids=ids, pixel_values=pixels * 0, image_sizes=sizes, logits_to_keep=1).logits
    require(not torch.equal(logits, other), "the logits do not depend on the image")
    labels = torch.where(ids == model.config.image_token_id, -100, ids)
    loss = float(model(input_ids=ids, pixel_values=pixels, image_sizes=sizes, labels=labels).loss)
    require(0 < loss < 100, f"the loss is {loss}")
    return f"{pixels.shape[0]} tiles, {count} image tokens, loss {loss:.2f} on {device.type}"


def checks(size: str, offline: bool) -> Iterator[tuple[str, bool, str]]:
    """(what, whether it holds, details), one after the other."""
    architecture = load_architecture(SIZES[size])
    named = {"full depth, parameters": check_counts}
    named |= {"two layers, forward": check_layers} if offline else {"pretrained parts, forward": check_whole}
    for name, check in named.items():
        started = time.monotonic()
        try:
            yield name, True, f"{check(architecture)} ({time.monotonic() - started:.0f} s)"
        except (CheckError, ParsitError, ValueError, RuntimeError) as error:
            yield name, False, " ".join(str(error).split())


def main() -> int:
    parser = argparse.ArgumentParser(description="Check Qwen3-1.7B and Qwen3-4B without training data.")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--offline", action="store_true", help="without a Hub, with random weights")
    args = parser.parse_args()
    quiet_libraries()
    all_well = True
    for size in args.sizes:
        for name, holds, detail in checks(size, args.offline):
            all_well &= holds
            print(f"{'ok    ' if holds else 'FAILED'} Qwen3-{size}: {name}: {detail}", flush=True)
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
