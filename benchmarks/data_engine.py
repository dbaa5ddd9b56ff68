"""What the data engine costs: index, packs, packed training, resuming, waiting for data.

    python benchmarks/data_engine.py --data DIR [--samples 1000000] [--rounds 5]

DIR is a folder of line crops: `parsit data synth --out DIR --unit line --pages 120 --seed 7`. Prints tables, and writes
the numbers to benchmarks/results/data_engine.json. Rates are medians over rounds in which the ways take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "data_engine.json"
WORDS = ["invoice", "total", "amount", "due", "date", "of", "delivery", "paid", "by", "transfer", "to", "account"]


def short_texts(path: Path, count: int) -> None:
    """A JSONL file of short conversations without images."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = " ".join(rng.choice(WORDS, 8))
            answer = " ".join(rng.choice(WORDS, 12)) + f" {number}"
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            file.write(json.dumps({"id": str(number), "conversations": turns}) + "\n")


def index_in_child(data: Path, cache: Path, workers: int) -> dict[str, float]:
    """Seconds and peak memory of opening a data set in a process of its own."""
    command = [sys.executable, __file__, "--child", str(data), "--workers", str(workers)]
    environment = {**os.environ, "PARSIT_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def child(data: Path, workers: int) -> None:
    from parsit.data.dataset import DataLimits, open_data
    from parsit.data.sources import read_sources
    from parsit.hf import processor_named

    processor = processor_named("tiny")
    sources = read_sources([data])
    started = time.perf_counter()
    found = open_data(sources, processor, DataLimits(512), workers=workers)
    seconds = time.perf_counter() - started
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if workers > 1 else 0
    memory = (own + workers * largest_child) * 1024
    print(json.dumps({"seconds": seconds, "samples": len(found), "memory_bytes": memory}))


def measure_index(folder: Path, crops: Path, samples: int) -> dict[str, Any]:
    texts = folder / "texts.jsonl"
    short_texts(texts, samples)
    rows = []
    for name, data, workers in (
        ("short texts, 1 process", texts, 1),
        (f"short texts, {os.cpu_count()} processes", texts, os.cpu_count() or 1),
        ("line crops with images and glyphs, 1 process", crops / "train.jsonl", 1),
    ):
        cache = folder / f"cache-{len(rows)}"
        built = index_in_child(data, cache, workers)
        opened = index_in_child(data, cache, workers)
        rows.append({"name": name, "samples": built["samples"], "samples_per_s": built["samples"] / built["seconds"],
                     "memory_gb": built["memory_bytes"] / 1e9, "open_s": opened["seconds"]})  # fmt: skip
    table("index", rows)
    return {"index": rows, "texts": str(texts), "cache": str(folder / "cache-1")}


def first_fit(tokens: np.ndarray, max_tokens: int) -> int:
    """How many packs first-fit needs, in the order in which the samples come."""
    free = np.empty(len(tokens), np.int64)
    used = 0
    for need in tokens:
        fits = np.flatnonzero(free[:used] >= need)
        if len(fits):
            free[fits[0]] -= need
        else:
            free[used] = max_tokens - need
            used += 1
    return used


def measure_fill(crops: Path) -> dict[str, Any]:
    from parsit.data.dataset import DataLimits, open_data
    from parsit.data.plan import Packed, Padded
    from parsit.data.sources import read_sources
    from parsit.hf import processor_named

    rng = np.random.default_rng(3)
    pages = np.clip(np.exp(rng.normal(6.6, 0.9, 20_000)).astype(int) + 100, 120, 4096)
    data = open_data(read_sources([crops / "train.jsonl"]), processor_named("tiny"), DataLimits(512))
    rows = []
    for name, tokens, tiles, limit in (
        ("log-normal, median 835 tokens, packs of 4,096", pages, np.clip(pages // 250, 0, 13), 4096),
        ("line crops, packs of 512", data.num_tokens, data.num_tiles, 512),
    ):
        batches = Padded(tokens, tiles, 8).epoch(0)
        shuffled = rng.permutation(len(tokens))
        plain = sum(int(tokens[shuffled[i : i + 8]].max()) * len(shuffled[i : i + 8]) for i in range(0, len(tokens), 8))
        grouped = sum(int(tokens[batch].max()) * len(batch) for batch in batches)
        started = time.perf_counter()
        packed = Packed(tokens, tiles, limit)
        rows.append({"name": name, "padded": tokens.sum() / plain, "padded_by_length": tokens.sum() / grouped,
                     "first_fit": tokens.sum() / (first_fit(tokens, limit) * limit), "best_fit": packed.fill,
                     "best_fit_s_per_million": (time.perf_counter() - started) / len(tokens) * 1e6})  # fmt: skip
    table("share of positions that are not padding", rows)
    return {"fill": rows}


def measure_training(crops: Path, rounds: int) -> dict[str, Any]:
    """The same samples padded in random order, padded by length, and packed; one process, tiny preset."""
    from parsit import hf
    from parsit.config import TrainConfig, load_architecture, load_preset
    from parsit.data.dataset import in_memory
    from parsit.data.files import read_files
    from parsit.data.loader import Loader
    from parsit.data.plan import Packed, Padded, Plan
    from parsit.train.objective import Objective, StepCounts
    from parsit.train.strategies.base import Strategy
    from parsit.train.world import World

    architecture = load_architecture("tiny")
    processor = hf.new_processor(architecture)
    data = in_memory(read_files([crops / "train.jsonl"])[:384], processor, 512)
    rng = np.random.default_rng(0)

    class Shuffled(Padded):
        def epoch(self, number: int) -> list[np.ndarray]:
            order = rng.permutation(len(self.num_tokens))
            return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    mean = int(data.num_tokens.mean() * 16)
    ways = {
        "padded, random order": (Shuffled(data.num_tokens, data.num_tiles, 16), False),
        "padded, by length": (Padded(data.num_tokens, data.num_tiles, 16), False),
        "packed": (Packed(data.num_tokens, data.num_tiles, mean), True),
    }
    config = TrainConfig(**load_preset("tiny") | {"output_dir": "unused"})
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for name, (units, packed) in list(ways.items()) * (rounds + 1):
        model = hf.new_model(architecture, processor, 0)
        objective = Objective(model, config.glyph_loss_weight).train()
        strategy = Strategy(objective, config, World())
        if packed:
            model.enable_packing()
        plan = Plan(units, 1)
        batches = [
            loaded.batch
            for (loaded,) in Loader(data, processor, plan, plan.steps_per_epoch, packed=packed, with_glyphs=True)
        ]
        started = time.perf_counter()
        for batch in batches:
            strategy.backward(batch, StepCounts.of([batch]), last=True)
            strategy.update(1.0, lambda norm: None)
        rates[name].append(len(data) / (time.perf_counter() - started))
    base = rates["padded, random order"][1:]  # the first round warms up
    rows = [
        {"name": name, "samples_per_s": statistics.median(values[1:]),
         "against_random_order": statistics.median(a / b for a, b in zip(values[1:], base, strict=True))}
        for name, values in rates.items()
    ]  # fmt: skip
    table("training, tiny preset, the same 384 line crops", rows)
    return {"training": rows}


def measure_resume(texts: Path, cache: Path, rounds: int) -> dict[str, Any]:
    """Seconds from a position to its first batch, with the index open and the packs made."""
    os.environ["PARSIT_CACHE"] = str(cache)
    from parsit.data.dataset import DataLimits, open_data
    from parsit.data.loader import Loader
    from parsit.data.plan import Packed, Plan
    from parsit.data.sources import read_sources
    from parsit.hf import processor_named

    processor = processor_named("tiny")
    data = open_data(read_sources([texts]), processor, DataLimits(512))
    started = time.perf_counter()
    units = Packed(data.num_tokens, data.num_tiles, 4096)
    seconds = time.perf_counter() - started

    def first_batch(step: int) -> float:
        plan = Plan(units, 8)
        loader = Loader(data, processor, plan, step + 1, packed=True)
        started = time.perf_counter()
        loader.load_state_dict({"step": step})
        next(iter(loader))
        return time.perf_counter() - started

    first_batch(10)
    times = {step: [] for step in (10, 1_000_000)}
    for _ in range(rounds):
        for step, values in times.items():
            values.append(first_batch(step))
    rows = [{"name": f"step {step:,}", "seconds": statistics.median(values)} for step, values in times.items()]
    table(f"resuming over {len(data):,} samples ({seconds:.1f} s to pack them)", rows)
    return {"resume": rows, "pack_s": seconds}


def measure_wait(crops: Path, folder: Path) -> dict[str, Any]:
    """The share of time that the tiny preset's training waits for data, as the run itself logs it."""
    out = folder / "run"
    command = [sys.executable, "-m", "parsit.cli", "train", "tiny", "--data", str(crops / "train.jsonl")]
    command += ["--output_dir", str(out), "--max_steps", "150", "--save_steps", "150"]
    subprocess.run(command, check=True, capture_output=True)
    entries = [json.loads(line) for line in (out / "metrics.jsonl").open()][10:]
    waits = [entry["data_wait"] for entry in entries]
    rows = [{"name": "tiny, 1 worker, steps 11 to 150", "data_wait": statistics.mean(waits),
             "samples_per_s": statistics.median(entry["samples_per_s"] for entry in entries)}]  # fmt: skip
    table("waiting for data", rows)
    return {"wait": rows}


def table(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    names = list(rows[0])
    cells = [names, *([show(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(names))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def show(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.workers)
        return
    if not arguments.data:
        parser.error("--data is needed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = measure_index(folder, arguments.data, arguments.samples)
        parts: list[Callable[[], dict[str, Any]]] = [
            lambda: measure_resume(Path(index["texts"]), Path(index["cache"]), arguments.rounds),
            lambda: measure_fill(arguments.data),
            lambda: measure_training(arguments.data, arguments.rounds),
            lambda: measure_wait(arguments.data, folder),
        ]
        numbers = {"index": index["index"]}
        for part in parts:
            numbers |= part()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(numbers, indent=2, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
