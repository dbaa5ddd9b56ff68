"""Measure whether this processor trains `tiny` faster in bfloat16 or in float32, and print the winner's `--bf16`.

    python recipes/tiny/choose_precision.py --data crops/train.jsonl

Processors differ by an order of magnitude (AMX, AVX512-BF16, neither), and at this width casts cost more on some than
narrow products save. Each precision trains some steps of the tower alone, twice and in turn; what counts is the median
step without the first ones, in processor time: by the clock the choice was other programs' on a machine that is shared.
On a GPU, which the processor waits for, it is the clock. The figures go to stderr.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

import parsit

STEPS = 40
WARM_UP = 10
IN_TURN = ("false", "true", "true", "false")


def seconds_per_step(data: Path, bf16: str, folder: Path, steps: int) -> list[float]:
    """Of each step of a short run behind its first ones."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    flags = {"max_steps": steps, "save_steps": steps, "bf16": bf16, "logging_steps": steps}
    ends: list[float] = []
    config = parsit.TrainConfig.from_preset("tiny/tower", data=data, output_dir=folder, **flags)
    parsit.fit(config, on_step=lambda run, step: ends.append(clock()))
    return [end - start for start, end in pairwise(ends)][min(WARM_UP, steps // 2) :]


def choose(data: Path, steps: int = STEPS) -> str:
    """`true` or `false` for `--bf16`."""
    taken: dict[str, list[float]] = {"false": [], "true": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, bf16 in enumerate(IN_TURN):
            taken[bf16] += seconds_per_step(data, bf16, Path(folder) / str(number), steps)
    medians = {bf16: statistics.median(found) for bf16, found in taken.items()}
    for bf16, median in medians.items():
        print(f"--bf16 {bf16}: {1000 * median:.0f} ms a step", file=sys.stderr)
    return min(medians, key=lambda bf16: medians[bf16])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    print(choose(arguments.data, arguments.steps))
