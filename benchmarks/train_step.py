"""The time of a training step on this machine's CPU, against what its matrix products alone would allow.

    make bench-train                      (python benchmarks/train_step.py [--rounds 5])

Shapes: ViT-S/16-224 and SmolLM2-135M, everything trained, random weights, batches of 4 × 256 and 4 × 512 positions with
one image each and every text position supervised. The ceiling is the rate of bf16 matrix products of the step's own
shapes, measured in the same run; a step's share of it counts the model's operations (parsit.model.flops: causal
attention, no input embedding, no recompute). Each shape is timed with plain and with compiled layers (--torch_compile),
both with malloc as `parsit train` sets it. Prints a table and writes benchmarks/results/train_step.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from parsit.config import TrainConfig
from parsit.model import ParsitConfig, ParsitForConditionalGeneration
from parsit.model.flops import step_flops
from parsit.processing.collate import Batch
from parsit.train.compiled import compile_layers
from parsit.train.host_memory import keep_freed_memory
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import set_tunable
from parsit.train.strategies.base import Strategy
from parsit.train.world import World

RESULTS = Path(__file__).parent / "results" / "train_step.json"
IMAGE_TOKEN = 1
VISION = {"model_type": "siglip_vision_model", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12,
          "num_attention_heads": 6, "image_size": 224, "patch_size": 16}  # fmt: skip
TEXT = {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "tie_word_embeddings": True}  # fmt: skip


def model() -> ParsitForConditionalGeneration:
    config = ParsitConfig(
        VISION, TEXT, image_token_id=IMAGE_TOKEN, image_aspect_ratio="pad", mm_patch_merge_type="flat",
        mm_pixel_shuffle=2, mm_vision_select_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    return ParsitForConditionalGeneration(config)


def batch(rows: int, length: int) -> Batch:
    """Rows of 49 image tokens and text, which is supervised."""
    generator = torch.Generator().manual_seed(0)
    tokens = (VISION["image_size"] // VISION["patch_size"]) ** 2 // 4
    ids = torch.randint(2, TEXT["vocab_size"], (rows, length), generator=generator)
    ids[:, :tokens] = IMAGE_TOKEN
    labels = ids.clone()
    labels[:, :tokens] = -100
    side = VISION["image_size"]
    pixels = torch.randn(rows, 3, side, side, generator=generator)
    sizes = torch.tensor([[side, side]] * rows)
    return Batch(ids, labels, pixels, sizes, attention_mask=torch.ones_like(ids), num_samples=rows)


def step_seconds(strategy: Strategy, made: Batch, rounds: int) -> float:
    counts = StepCounts.of([made])
    times = []
    for _ in range(rounds + 1):  # the first warms up
        started = time.perf_counter()
        strategy.backward(made, counts, last=True)
        strategy.update(1.0, lambda norm: None)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def ceiling(rows: int, length: int, rounds: int, dtype: torch.dtype) -> float:
    """FLOP/s of one decoder layer's products, forward and backward, with nothing between them."""
    positions, width, inner = rows * length, TEXT["hidden_size"], TEXT["intermediate_size"]
    shapes = [(width, width), (width, width // 3), (width, width // 3), (width, width), (width, inner), (width, inner),
              (inner, width)]  # fmt: skip
    pairs = [[torch.randn(shape, dtype=dtype) for shape in ((positions, a), (a, b), (positions, b))] for a, b in shapes]
    times = []
    for _ in range(rounds * 4 + 1):
        started = time.perf_counter()
        for x, w, g in pairs:
            torch.mm(x, w)
            torch.mm(g, w.t())
            torch.mm(x.t(), g)
        times.append(time.perf_counter() - started)
    return sum(6 * positions * a * b for a, b in shapes) / statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", choices=("true", "false"), default="true")
    parser.add_argument("--malloc", choices=("kept", "glibc"), default="kept", help="what `parsit train` sets, or not")
    arguments = parser.parse_args()
    if arguments.malloc == "kept":
        keep_freed_memory()
    strategies = {}
    for way in ("eager", "compiled"):
        config = TrainConfig(
            bf16=arguments.bf16, learning_rate=1e-4, output_dir="unused", torch_compile=way == "compiled"
        )
        made = model()
        set_tunable(made, config.tunable_parts)
        flops = step_flops(made)
        if config.torch_compile:
            compile_layers(made)
        strategies[way] = Strategy(Objective(made, 0.0).train(), config, World())
    rows = []
    for length in (256, 512):
        data = batch(4, length)
        work = 4 * (flops.per_token * length + flops.per_token_squared * length**2 + flops.per_tile)
        work += flops.per_label * data.num_supervised
        for way, strategy in strategies.items():
            seconds = step_seconds(strategy, data, arguments.rounds)
            top = ceiling(4, length, arguments.rounds, torch.bfloat16)
            row = {"batch": f"4 x {length}", "layers": way, "step_s": seconds, "positions_per_s": 4 * length / seconds}
            row |= {"tflops": work / seconds / 1e12, "ceiling_tflops": top / 1e12, "share": work / seconds / top}
            rows.append(row)
    width = 18
    print(f"malloc: {arguments.malloc}, {torch.get_num_threads()} threads")
    print("".join(name.rjust(width) for name in rows[0]))
    for row in rows:
        print("".join((v if isinstance(v, str) else f"{v:,.3f}").rjust(width) for v in row.values()))
    RESULTS.parent.mkdir(exist_ok=True)
    about = {"threads": torch.get_num_threads(), "malloc": arguments.malloc}
    RESULTS.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
