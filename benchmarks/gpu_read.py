"""Reading pages on one GPU: how fast the prompt is read (prefill), how fast tokens come (decode), pages a second.

    python benchmarks/gpu_read.py [--out FILE.json]     (make gpu has it)

Random weights in bfloat16; drawn A4 pages at 150 dpi through the model's own processor and `generate`. Answers have a
fixed number of tokens, as random weights do not end one. Prefill is a call for one token (tower, projector and prompt),
decode what each further token takes. Making tiles and ids of a page is the CPU's work and timed by itself.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_step import PAGE_SIZES, about, arguments_of, configuration, device_here, page, write

from parsit import hf
from parsit.processing.collate import Batch, collate
from parsit.types import ImageRef, Turn

BATCHES = {"1.7b": (1, 8, 32), "4b": (1, 8)}


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds, the device's work included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def prompts(processor: Any, count: int, size: tuple[int, int]) -> tuple[Batch, float]:
    """Pages as a batch of prompts, and the seconds that one took to encode."""
    draw = random.Random(1)
    turns = [(Turn("user", (ImageRef(page(draw, size)[0]), "Read this page as Markdown.")),) for _ in range(count)]
    started = time.perf_counter()
    features = [processor.encode(one, add_generation_prompt=True) for one in turns]
    seconds = (time.perf_counter() - started) / count
    return collate(features, processor.chat_tokens.pad, padding_side="left"), seconds


def measure(model: Any, processor: Any, count: int, tokens: int, rounds: int, size: tuple[int, int]) -> dict[str, Any]:
    """One row: a batch of `count` pages, answers of `tokens` tokens."""
    device = model.device
    batch, encode_s = prompts(processor, count, size)

    def read(new: int) -> None:
        inputs = batch.to(device).model_inputs(with_labels=False)
        ids = model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        assert ids.shape[1] == batch.input_ids.shape[1] + new

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    read(2)
    prefill = statistics.median(timed(lambda: read(1), device) for _ in range(rounds))
    whole = timed(lambda: read(tokens), device)
    row = {"batch": count, "prompt_tokens": batch.num_tokens, "new_tokens": tokens, "encode_s_per_page": encode_s}
    row |= {"prefill_s": prefill, "prefill_tokens_per_s": batch.num_tokens / prefill}
    row |= {"decode_tokens_per_s": count * (tokens - 1) / (whole - prefill), "pages_per_s": count / whole}
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return row


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="1.7b,4b")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer")
    parser.add_argument("--rounds", type=int, default=3)


def main() -> None:
    arguments = arguments_of(__doc__, add_flags)
    device, rows = device_here(), []
    tokens, size = (6, (300, 200)) if arguments.rehearse else (arguments.tokens, PAGE_SIZES[0])
    print(about(device))
    heads = ("prefill tokens/s", "decode tokens/s", "pages/s")
    print(f"answers of {tokens} tokens".ljust(24) + "".join(head.rjust(18) for head in heads))
    for name in arguments.sizes.split(","):
        architecture, _, _ = configuration(name, "finetune", {}, arguments.rehearse)
        processor = hf.new_processor(architecture)
        with device:
            model = hf.new_model(architecture, processor, seed=0).to(torch.bfloat16).eval()
        for count in (1, 2) if arguments.rehearse else BATCHES[name]:
            rows.append({"size": name, **measure(model, processor, count, tokens, arguments.rounds, size)})
            cells = [f"{rows[-1][key]:,.1f}" for key in ("prefill_tokens_per_s", "decode_tokens_per_s", "pages_per_s")]
            print(f"{name}, {count} at a time".ljust(24) + "".join(cell.rjust(18) for cell in cells), flush=True)
            write(arguments.out, device, rows)
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
