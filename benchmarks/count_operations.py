"""How many operations a training step of `tiny/scratch` is: what a small model's step costs on a GPU, launch by launch.

    python benchmarks/count_operations.py [--crops 64]

Crops drawn here, one word each. Counts what torch's dispatcher is asked for: images to tokens alone (tower, projector,
gathering), forward and backward pass, and the update.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw
from torch.utils._python_dispatch import TorchDispatchMode

from parsit import hf
from parsit.config import TrainConfig, load_architecture, load_preset
from parsit.processing.collate import Batch, collate
from parsit.processing.processor import ParsitProcessor
from parsit.train.objective import Objective, StepCounts
from parsit.train.strategies.base import Strategy
from parsit.train.world import World
from parsit.types import GlyphBox, ImageRef, Turn


class Operations(TorchDispatchMode):
    """Counts them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def crops(processor: ParsitProcessor, count: int) -> Batch:
    """A batch of line crops with a number each, of widths that differ."""
    features = []
    for number in range(count):
        text = str(number * 7919)
        image = Image.new("RGB", (60 + 20 * (number % 7), 28), "white")
        ImageDraw.Draw(image).text((4, 8), text, fill="black")
        glyphs = tuple(GlyphBox(c, 4 + 6 * i, 8, 10 + 6 * i, 19) for i, c in enumerate(text))
        turns = (Turn("user", (ImageRef(image, glyphs), "\nRead the text.")), Turn("assistant", (text,)))
        features.append(processor.encode(turns, with_glyphs=True))
    return collate(features, processor.chat_tokens.pad)


def counted(name: str, work: Callable[[], object]) -> None:
    """Print how many operations `work` is, and the most frequent ones."""
    with Operations() as operations:
        work()
    most = ", ".join(f"{op.removeprefix('aten.')} {count}" for op, count in operations.counts.most_common(5))
    print(f"{name.ljust(24)}{operations.counts.total():8,}   {most}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=64)
    arguments = parser.parse_args()
    architecture = load_architecture("tiny")
    processor = hf.new_processor(architecture)
    batch = crops(processor, arguments.crops)
    values = {name: value for name, value in load_preset("tiny/scratch").items() if name != "architecture"}
    model = hf.new_model(architecture, processor, seed=0).train()
    strategy = Strategy(Objective(model, 1.0), TrainConfig(output_dir="unused", **values), World())
    counts = StepCounts.of([batch])
    counted("images to tokens", lambda: model.embed(batch.input_ids, batch.pixel_values, batch.image_sizes))
    counted("forward and backward", lambda: strategy.backward(batch, counts, last=True))
    counted("update", lambda: strategy.update(1.0, lambda norm: None))


if __name__ == "__main__":
    main()
