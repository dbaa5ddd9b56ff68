"""The time of a training step on this machine's CPU, against what its matrix products alone would allow.

    make bench-train                      (python benchmarks/train_step.py [--rounds 5] [--nanovlm CHECKOUT])

Shapes: ViT-S/16-224 and SmolLM2-135M, everything trained, random weights, batches of 4 × 256 and 4 × 512 positions with
one image each and every text position supervised. The ceiling is the rate of bf16 matrix products of the step's own
shapes, measured in the same run; a step's share of it counts the model's operations (parsit.model.flops: causal
attention, no input embedding, no recompute). Each shape is timed with plain and with compiled layers (--torch_compile),
with malloc as `parsit train` sets it; with --nanovlm so is nanoVLM's step of the same shapes, plain and compiled as a
whole. All take turns in each round, and shares and ratios are medians over the rounds in processor time, as other
programs may have the processors. Prints a table and writes benchmarks/results/train_step.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# As every verb of Parsit: threads that wait for each other sleep, so that processor time is work.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

import torch
import torch.nn.functional as F
from nanovlm_step import nanovlm_step

from parsit.config import TrainConfig
from parsit.model import ParsitConfig, ParsitForConditionalGeneration
from parsit.model.flops import step_flops
from parsit.processing.collate import Batch
from parsit.processing.image_processor import PixelScale
from parsit.train.compiled import compile_layers
from parsit.train.host_memory import keep_freed_memory
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import set_tunable
from parsit.train.strategies.base import Strategy
from parsit.train.world import World

RESULTS = Path(__file__).parent / "results" / "train_step.json"
IMAGE_TOKEN = 1
ROWS, SHUFFLE = 4, 2
LAYERS_IN_CEILING = 8  # enough that it takes some tenths of a second
VISION = {"model_type": "siglip_vision_model", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12,
          "num_attention_heads": 6, "image_size": 224, "patch_size": 16}  # fmt: skip
TEXT = {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "tie_word_embeddings": True}  # fmt: skip


def model() -> ParsitForConditionalGeneration:
    config = ParsitConfig(
        VISION, TEXT, image_token_id=IMAGE_TOKEN, image_aspect_ratio="pad", mm_patch_merge_type="flat",
        mm_pixel_shuffle=SHUFFLE, mm_vision_select_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    return ParsitForConditionalGeneration(config)


def batch(rows: int, length: int) -> Batch:
    """Rows of 49 image tokens and text, which is supervised."""
    generator = torch.Generator().manual_seed(0)
    tokens = (VISION["image_size"] // VISION["patch_size"] // SHUFFLE) ** 2
    ids = torch.randint(2, TEXT["vocab_size"], (rows, length), generator=generator)
    ids[:, :tokens] = IMAGE_TOKEN
    labels = ids.clone()
    labels[:, :tokens] = -100
    side = VISION["image_size"]
    return Batch(
        input_ids=ids,
        labels=labels,
        image_positions=(ids == IMAGE_TOKEN).flatten().nonzero()[:, 0],
        label_positions=(F.pad(labels[:, 1:], (0, 1), value=-100) != -100).flatten().nonzero()[:, 0],
        pixels=torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8, generator=generator),
        scale=PixelScale((0.5,) * 3, (0.5,) * 3),
        image_sizes=torch.tensor([[side, side]] * rows),
        attention_mask=torch.ones_like(ids),
        num_samples=rows,
    )


def parsit_step(made: ParsitForConditionalGeneration, bf16: str) -> Callable[[Batch], None]:
    config = TrainConfig(bf16=bf16, learning_rate=1e-4, output_dir="unused")
    set_tunable(made, config.tunable_parts)
    compile_layers(made)
    strategy = Strategy(Objective(made, 0.0).train(), config, World())

    def step(data: Batch) -> None:
        strategy.backward(data, StepCounts.of([data]), last=True)
        strategy.update(1.0, lambda norm: None)

    return step


def products(rows: int, length: int, dtype: torch.dtype) -> tuple[Callable[[], None], float]:
    """One decoder layer's matrix products, forward and backward, with nothing between them; and their operations."""
    positions, width, inner = rows * length, TEXT["hidden_size"], TEXT["intermediate_size"]
    shapes = [(width, width), (width, width // 3), (width, width // 3), (width, width), (width, inner), (width, inner),
              (inner, width)] * LAYERS_IN_CEILING  # fmt: skip
    pairs = [[torch.randn(shape, dtype=dtype) for shape in ((positions, a), (a, b), (positions, b))] for a, b in shapes]

    def multiply() -> None:
        for x, w, g in pairs:
            torch.mm(x, w)
            torch.mm(g, w.t())
            torch.mm(x.t(), g)

    return multiply, 6.0 * positions * sum(a * b for a, b in shapes)


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds that something took, by the clock and of the processors."""

    clock: float
    processor: float


def take_turns(ways: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[Timed]]:
    """How long each way takes in each round, one after another; layers are compiled where its name says so."""
    found: dict[str, list[Timed]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first warms up
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            with torch.compiler.set_stance("default" if name.endswith("compiled") else "force_eager"):
                way()
            if number:
                found[name].append(Timed(time.perf_counter() - clock, time.process_time() - processor))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--layers", choices=("eager", "compiled"), nargs="+", default=["eager", "compiled"])
    parser.add_argument("--bf16", choices=("true", "false"), default="true")
    parser.add_argument("--malloc", choices=("kept", "glibc"), default="kept", help="what `parsit train` sets, or not")
    parser.add_argument("--depth", type=int, default=30, help="layers of the decoder, and at most 12 of the tower")
    parser.add_argument("--nanovlm", type=Path, metavar="CHECKOUT", help="a clone of github.com/huggingface/nanoVLM")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="where the numbers go")
    arguments = parser.parse_args()
    if arguments.malloc == "kept":
        keep_freed_memory()
    VISION["num_hidden_layers"], TEXT["num_hidden_layers"] = min(arguments.depth, 12), arguments.depth
    made, bf16 = model(), arguments.bf16 == "true"
    flops = step_flops(made)
    ours = parsit_step(made, arguments.bf16)
    theirs = nanovlm_step(arguments.nanovlm, VISION, TEXT, SHUFFLE, IMAGE_TOKEN, bf16) if arguments.nanovlm else None
    rows = []
    for length in arguments.lengths:
        data = batch(ROWS, length)
        multiply, top_work = products(ROWS, length, torch.bfloat16 if bf16 else torch.float32)
        ways: dict[str, Callable[[], None]] = {"ceiling": multiply}
        for layers in arguments.layers:
            ways[f"parsit {layers}"] = partial(ours, data)
            if theirs:
                ways[f"nanovlm {layers}"] = partial(theirs, data.input_ids, data.labels, data.pixel_values)
        found = take_turns(ways, arguments.rounds)
        work = ROWS * (flops.per_token * length + flops.per_token_squared * length**2 + flops.per_tile)
        work += flops.per_label * data.num_supervised
        rows += [row_of(name, length, found, work, top_work) for name in ways if name != "ceiling"]
    tell(rows, arguments.malloc, arguments.out)


def row_of(name: str, length: int, found: dict[str, list[Timed]], work: float, top_work: float) -> dict[str, Any]:
    """Medians over the rounds; shares and ratios are of processor time, round by round."""
    seconds = statistics.median(timed.clock for timed in found[name])
    row = {"batch": f"{ROWS} x {length}", "step": name, "step_s": seconds, "positions_per_s": ROWS * length / seconds}
    row["processor_s"] = statistics.median(timed.processor for timed in found[name])
    row |= {"tflops": work / seconds / 1e12, "share": work / top_work * times(found, "ceiling", name)}
    theirs = name.replace("parsit", "nanovlm")
    return row | ({"times_nanovlm": times(found, theirs, name)} if theirs in found and theirs != name else {})


def times(found: dict[str, list[Timed]], longer: str, shorter: str) -> float:
    """How many times as long one way takes as another."""
    pairs = zip(found[longer], found[shorter], strict=True)
    return statistics.median(one.processor / other.processor for one, other in pairs)


def tell(rows: list[dict[str, Any]], malloc: str, out: Path) -> None:
    """Print the table and write it as JSON."""
    width = 18
    print(f"malloc: {malloc}, {torch.get_num_threads()} threads")
    print("".join(name.rjust(width) for name in rows[0]))
    for row in rows:
        print("".join((v if isinstance(v, str) else f"{v:,.3f}").rjust(width) for v in row.values()))
    out.parent.mkdir(exist_ok=True)
    about = {"threads": torch.get_num_threads(), "malloc": malloc}
    out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
