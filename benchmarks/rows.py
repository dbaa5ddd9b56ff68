"""Continuous batching in processor time: answers one at a time against eight at a time, each begun when another ends.

    python benchmarks/rows.py                                     # tiny
    python benchmarks/rows.py --shapes 0.6b --dtype bfloat16 --answers 16 --tokens 16

One thread; seconds are of the processor, so that other programs do not count. A client asks again as soon as it has its
answer; the first token's time is from then on, encoding the prompt included. The first wave is left out.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from serve_load import TEXT_0_6B, crop

from parsit import hf
from parsit.config import load_architecture
from parsit.parse.engine import ModelEngine
from parsit.types import Delta, ImageRef, Sampling, Turn


def closed_loop(engine: ModelEngine, answers: int, tokens: int) -> dict[str, float]:
    """Tokens a second and seconds to the first token, with as many clients as the engine has rows."""
    batch, count, written = engine.new_batch(), 0, 0
    firsts: dict[int, float] = {}

    def ask() -> None:
        nonlocal count
        number, asked = count, time.process_time()

        def listen(delta: Delta) -> None:
            firsts.setdefault(number, time.process_time() - asked)

        image = ImageRef(base64.b64decode(crop(number).partition(",")[2]))
        turns = (Turn("user", (image, "Read.")),)
        drawn = Sampling(temperature=1.0, seed=number)  # a random model would repeat itself and be stopped
        batch.add(engine.new_row(turns, max_new_tokens=tokens, sampling=drawn, on_delta=listen))
        count += 1

    started = time.process_time()
    for _ in range(engine.batch_size):
        ask()
    while batch.active or batch.waiting:
        for row in batch.step():
            assert row.result is not None
            written += row.result.num_tokens
            if count < answers:
                ask()
    seconds = time.process_time() - started
    later = [firsts[number] for number in range(engine.batch_size, count) if number in firsts]
    return {
        "tokens_per_s": round(written / seconds, 1),
        "first_p50_s": round(float(np.percentile(later, 50)), 4),
        "first_p95_s": round(float(np.percentile(later, 95)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", choices=["tiny", "0.6b"], default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    architecture = load_architecture("tiny")
    if options.shapes == "0.6b":
        architecture = replace(architecture, text_config=architecture.text_config | TEXT_0_6B)
    processor = hf.new_processor(architecture)
    dtype = getattr(torch, options.dtype)
    torch.set_default_dtype(dtype)  # so that large weights are never there twice
    model = hf.new_model(architecture, processor, seed=1).to(dtype)
    torch.set_default_dtype(torch.float32)
    table = {}
    for rows in (1, options.rows):
        answers = max(options.answers * rows // options.rows, rows + 1)
        table[f"{rows} rows"] = closed_loop(ModelEngine(model, processor, rows), answers, options.tokens)
        print(f"{rows} rows", table[f"{rows} rows"], flush=True)
    if options.out:
        options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
