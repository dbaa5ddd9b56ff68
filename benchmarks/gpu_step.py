"""Training steps of Qwen3-1.7B and 4B on one GPU: speed, share of the peak, memory; beside plain transformers.

    python benchmarks/gpu_step.py [--sizes 1.7b,4b] [--cases 0,1] [--minutes 9] [--out FILE.json]     (make gpu has it)

Random weights; pages drawn here (A4 at 150 dpi down to receipts) through the run's own data path: some 65,000 tokens in
rows of 8,192, as the presets have them. One step is all rows, forward, backward and update. Cases:

    transformers  everything trained, written plainly: SDPA, two samples padded to one length, full logits, bf16 weights
                  and moments (torch's fused AdamW), gradient checkpointing
    finetune      the preset: everything trained, packed; `, compiled` with --torch_compile; `, fp32 weights` with AdamW
    lora          the preset

Tokens are real ones, padding left out. MFU is `parsit.train.rates`' (causal attention, no input embedding, no
recompute, `lm_head` where there is a label), and beside it the same with attention counted in full. The estimate is
`parsit.train.memory`'s, the peak what torch allocated. Prints a table and writes the rows to `--out` as they come.

`--rehearse` runs every case at miniature size wherever it is, and writes nothing: it shows that they run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image, ImageDraw
from torch.nn.utils import clip_grad_norm_

from parsit import hf
from parsit.config import Architecture, TrainConfig, load_architecture, load_preset
from parsit.data.dataset import DataSet, in_memory
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapters import AdapterSettings, add_adapters
from parsit.model.flops import StepFlops, step_flops
from parsit.processing.collate import Batch
from parsit.processing.processor import ParsitProcessor
from parsit.train.adapters import set_trainable
from parsit.train.compiled import compile_layers
from parsit.train.memory import GB, BatchSize, Placement, estimate
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import checkpoint_activations
from parsit.train.rates import StepWork, mfu, peak_flops_of
from parsit.train.strategies.base import Strategy
from parsit.train.trial import make_batch, micro_batches_of
from parsit.train.world import World
from parsit.types import ImageRef, Sample, Turn

PAGE_SIZES = ((1240, 1754), (1240, 1754), (1240, 877), (700, 1000), (500, 900), (640, 360))
TOKENS = 65_536
WORDS = ("invoice", "total", "date", "of", "delivery", "the", "amount", "due", "4,217.90", "page", "and", "number")
MINIATURE_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 4096}  # fmt: skip
MINIATURE_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                    "image_size": 112}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A way of training: a preset's stage with other flags, or written plainly with transformers."""

    name: str
    stage: str
    flags: dict[str, Any] = field(default_factory=dict)
    plain: bool = False


CASES = (
    Case("transformers", "finetune", {"packing": False, "per_device_train_batch_size": 2}, plain=True),
    Case("finetune", "finetune"),
    Case("finetune, compiled", "finetune", {"torch_compile": True}),
    Case("lora", "lora"),
    Case("lora, compiled", "lora", {"torch_compile": True}),
    Case("finetune, fp32 weights", "finetune", {"optim": "adamw"}),
)


def page(draw: random.Random, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """A page of so many pixels with words on it, and the words."""
    image = Image.new("RGB", size, "white")
    text = " ".join(draw.choices(WORDS, k=size[0] * size[1] // 4000))
    canvas = ImageDraw.Draw(image)
    for line in range(0, len(text), 100):
        canvas.text((40, 40 + line // 3), text[line : line + 100], fill="black")
    return image, text


def pages(processor: ParsitProcessor, longest: int, tokens: int) -> DataSet:
    """Pages with their text until there are so many tokens."""
    draw = random.Random(0)
    samples, count = [], 0
    while count < tokens:
        image, text = page(draw, PAGE_SIZES[len(samples) % len(PAGE_SIZES)])
        turns = (Turn("user", (ImageRef(image), "Read this page as Markdown.")), Turn("assistant", (text,)))
        length = len(processor.encode(turns).input_ids)
        assert length <= longest, f"a page of {length} tokens does not fit {longest}"
        samples.append(Sample(str(len(samples)), turns, f"page {len(samples)}"))
        count += length
    return in_memory(samples, processor, longest)


# Both sizes have the same tiles and tokens: pages are drawn once, and each way of batching them is made once.
_batches: dict[bool, list[Batch]] = {}


def batches_of(
    config: TrainConfig, processor: ParsitProcessor, model: ParsitForConditionalGeneration, tokens: int
) -> list[Batch]:
    """One epoch's micro-batches, as the run's loader makes them, in host memory."""
    if config.packing not in _batches:
        data = pages(processor, config.model_max_length, tokens)
        made = micro_batches_of(config, data, model)
        _batches[config.packing] = [make_batch(config, data, processor, made, samples) for samples in made.epoch(0)]
    return _batches[config.packing]


def prepare(
    architecture: Architecture, processor: ParsitProcessor, config: TrainConfig, device: torch.device
) -> ParsitForConditionalGeneration:
    """A model with random weights on the device, adapters and all."""
    with device:
        model = hf.new_model(architecture, processor, seed=0)
    if config.lora_enable:
        add_adapters(model, AdapterSettings(**{f.name: getattr(config, f.name) for f in fields(AdapterSettings)}), 0)
    set_trainable(model, config.tunable_parts)
    return model.train()


def our_step(
    model: ParsitForConditionalGeneration, config: TrainConfig, batches: list[Batch], device: torch.device
) -> Callable[[], float]:
    """A step as the training loop makes it."""
    if config.gradient_checkpointing:
        checkpoint_activations(model, None)
    model.enable_packing()
    if config.torch_compile:
        compile_layers(model)
    strategy = Strategy(Objective(model, 0.0).train(), config, World(device=device))
    counts = StepCounts.of(batches)

    def step() -> float:
        losses = [strategy.backward(batch, counts, last=batch is batches[-1]) for batch in batches]
        strategy.update(1.0, lambda norm: None)
        return sum(float(share.language) for share in losses)

    return step


def plain_step(
    model: ParsitForConditionalGeneration, config: TrainConfig, batches: list[Batch], device: torch.device
) -> Callable[[], float]:
    """The same computation as one writes it with transformers alone."""
    model.bfloat16()
    checkpoint_activations(model, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    items = sum(batch.num_supervised for batch in batches)

    def step() -> float:
        losses = []
        for batch in (one.to(device) for one in batches):
            embeds, _ = model.embed(batch.input_ids, batch.pixel_values, batch.image_sizes, batch.image_positions)
            loss = model.language_model(
                inputs_embeds=embeds, attention_mask=batch.attention_mask, labels=batch.labels, num_items_in_batch=items
            ).loss
            loss.backward()
            losses.append(loss.detach())
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(sum(losses))

    return step


def measure(case: Case, architecture: Architecture, config: TrainConfig, tokens: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    device = device_here()
    processor = hf.new_processor(architecture)
    model = prepare(architecture, processor, config, device)
    batches = batches_of(config, processor, model, tokens)
    flops, work = step_flops(model), StepWork.of(batches, model.layout)
    largest = max((BatchSize.of(batch) for batch in batches), key=lambda size: (size.positions, size.tiles))
    estimated = estimate(model, config, Placement(), largest, bf16=True).total
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = (plain_step if case.plain else our_step)(model, config, batches, device)
    seconds, losses = [], []
    for _ in range(rounds + 2):  # the first two warm up, and compile
        started = time.perf_counter()
        losses.append(step())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    row: dict[str, Any] = {"step_s": statistics.median(seconds[2:]), "first_step_s": seconds[0], "loss": losses[-1]}
    row |= {"tokens": work.tokens, "tokens_per_s": work.tokens / row["step_s"], "labels": work.labels}
    row |= {"tiles": work.tiles, "micro_batches": len(batches)}
    peak = peak_flops_of(device)
    row["mfu"] = mfu(work, flops, row["step_s"], peak)
    row["mfu_full_attention"] = mfu(work, full_attention(flops), row["step_s"], peak)
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated(device) / GB
        row["reserved_gb"] = torch.cuda.max_memory_reserved(device) / GB
    row["estimate_gb"] = None if case.plain else estimated / GB
    return row


def device_here() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def full_attention(flops: StepFlops) -> StepFlops:
    """The other convention: products of queries with keys that the causal mask hides are counted too."""
    return replace(flops, per_token_squared=2 * flops.per_token_squared)


def configuration(
    size: str, stage: str, flags: dict[str, Any], rehearse: bool
) -> tuple[Architecture, TrainConfig, int]:
    """A preset's architecture and stage with other flags, without its pretrained parts, and the tokens of a step."""
    values = load_preset(f"qwen3-{size}/{stage}")
    architecture = load_architecture(values["architecture"])
    # Any tokenizer's ids are rows of the same tables; the tiny one is at hand everywhere.
    architecture = replace(architecture, tokenizer="tiny", vision_tower=None, model_name_or_path=None)
    tokens = TOKENS
    fixed: dict[str, Any] = {"output_dir": "unused", "bf16": "true", "dataloader_num_workers": 0}
    if rehearse:
        architecture = shrunk(architecture, MINIATURE_TEXT, MINIATURE_VISION)
        tokens, fixed["model_max_length"] = 3000, 1500
    return architecture, TrainConfig(**(values | flags | fixed)), tokens


def shrunk(architecture: Architecture, text: dict[str, Any], vision: dict[str, Any]) -> Architecture:
    """The architecture with other numbers in its language model and tower."""
    text, vision = architecture.text_config | text, architecture.vision_config | vision
    return replace(architecture, text_config=text, vision_config=vision)


def run_case(case: Case, size: str, rehearse: bool, rounds: int) -> dict[str, Any]:
    """`measure`, or why there is nothing to measure."""
    architecture, config, tokens = configuration(size, case.stage, case.flags, rehearse)
    try:
        return measure(case, architecture, config, tokens, rounds)
    except torch.OutOfMemoryError as error:
        return {"error": "out of memory: " + str(error).splitlines()[0]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


COLUMNS = {"step": ("step_s", "{:.2f} s"), "tokens/s": ("tokens_per_s", "{:,.0f}"), "MFU": ("mfu", "{:.1%}"),
           "full attention": ("mfu_full_attention", "{:.1%}"), "peak GB": ("peak_gb", "{:.1f}"),
           "estimate": ("estimate_gb", "{:.1f}")}  # fmt: skip


def tell(row: dict[str, Any]) -> None:
    """A line of the table."""
    cells = [form.format(row[key]) if row.get(key) is not None else "-" for key, form in COLUMNS.values()]
    name = f"{row['size']} {row['case']}"
    print(name.ljust(32) + (row["error"] if "error" in row else "".join(cell.rjust(16) for cell in cells)), flush=True)


def about(device: torch.device) -> dict[str, str]:
    """What a figure depends on besides the code."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


def write(out: Path | None, device: torch.device, rows: list[dict[str, Any]]) -> None:
    """The rows so far, whole; written after each, so that what was measured stays."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(about(device) | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


def arguments_of(description: str | None, add: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """A GPU benchmark's command line: its own flags, `--out` and `--rehearse`; without a GPU only a rehearsal runs."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as `parsit train` sets it
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add(parser)
    parser.add_argument("--out", type=Path, help="write the rows there as JSON")
    parser.add_argument("--rehearse", action="store_true", help="miniature models, wherever it is")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.rehearse:
        parser.exit(1, f"{parser.prog}: no GPU is visible; --rehearse shows on a CPU that every case runs\n")
    return arguments


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="1.7b,4b")
    parser.add_argument("--cases", default=",".join(str(number) for number in range(len(CASES))), help="by number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no case that may end later")


def main() -> None:
    arguments = arguments_of(__doc__, add_flags)
    chosen = [CASES[int(number)] for number in arguments.cases.split(",")]
    started, longest, rows = time.monotonic(), 0.0, []
    print(" " * 32 + "".join(name.rjust(16) for name in COLUMNS))
    for case in chosen:
        for size in arguments.sizes.split(","):
            begun = time.monotonic()
            if begun + longest > started + 60 * arguments.minutes:
                row: dict[str, Any] = {"error": f"left out: {arguments.minutes:g} minutes are over"}
            else:
                row = run_case(case, size, arguments.rehearse, arguments.rounds)
            longest = max(longest, time.monotonic() - begun)
            rows.append({"size": size, "case": case.name, **row})
            tell(rows[-1])
            write(arguments.out, device_here(), rows)


if __name__ == "__main__":
    main()
