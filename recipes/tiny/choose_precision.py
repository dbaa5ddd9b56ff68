"""Measure whether this processor trains `tiny` faster in bfloat16 or in float32, and print the winner's `--bf16`.

    python recipes/tiny/choose_precision.py --data crops/train.jsonl

Processors differ by an order of magnitude (AMX, AVX512-BF16, neither), and at this width casts cost more on some than
narrow products save. Each precision trains some steps of the tower alone, twice and in turn; what counts is the median
of the samples per second of metrics.jsonl without its first steps. The figures go to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import parsit

STEPS = 40
WARM_UP = 10
IN_TURN = ("false", "true", "true", "false")


def samples_per_second(data: Path, bf16: str, folder: Path, steps: int) -> list[float]:
    """Of each step of a short run behind its first ones."""
    flags = {"max_steps": steps, "save_steps": steps, "bf16": bf16, "logging_steps": steps}
    parsit.fit(parsit.TrainConfig.from_preset("tiny/tower", data=data, output_dir=folder, **flags))
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [entry["samples_per_s"] for entry in entries[min(WARM_UP, steps // 2) :]]


def choose(data: Path, steps: int = STEPS) -> str:
    """`true` or `false` for `--bf16`."""
    rates: dict[str, list[float]] = {"false": [], "true": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, bf16 in enumerate(IN_TURN):
            rates[bf16] += samples_per_second(data, bf16, Path(folder) / str(number), steps)
    medians = {bf16: statistics.median(found) for bf16, found in rates.items()}
    for bf16, median in medians.items():
        print(f"--bf16 {bf16}: {median:.0f} samples/s", file=sys.stderr)
    return max(medians, key=lambda bf16: medians[bf16])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    print(choose(arguments.data, arguments.steps))
