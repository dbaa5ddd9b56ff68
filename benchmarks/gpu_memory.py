"""The memory estimate of `parsit check` against what training steps take on a GPU.

    python benchmarks/gpu_memory.py [--out FILE.json]     (make gpu has it)

Qwen3-1.7B's and SigLIP2's widths with few layers, random weights, the presets' rows of 8,192 tokens, two micro-batches
and an update. The estimate is `parsit.train.memory`'s; the peak is what torch's allocator had given out at most.
"""

from __future__ import annotations

import argparse
import gc
from typing import Any

import torch
from gpu_step import Case, arguments_of, configuration, device_here, measure, shrunk, write

CASES = (
    Case("finetune", "finetune"),
    Case("finetune, activations kept", "finetune", {"gradient_checkpointing": False}),
    Case("finetune, fp32 weights", "finetune", {"optim": "adamw"}),
    Case("finetune, fp32 weights, activations kept", "finetune", {"optim": "adamw", "gradient_checkpointing": False}),
    Case("lora", "lora"),
    Case("lora, activations kept", "lora", {"gradient_checkpointing": False}),
    Case("pretrain", "pretrain"),
    Case("pretrain, activations kept", "pretrain", {"gradient_checkpointing": False}),
)
FEW_LAYERS = {"num_hidden_layers": 6}


def run_case(case: Case, rehearse: bool) -> dict[str, Any]:
    """One row: estimate, peak, and how far the estimate is off."""
    architecture, config, _ = configuration("1.7b", case.stage, case.flags, rehearse)
    architecture = architecture if rehearse else shrunk(architecture, FEW_LAYERS, FEW_LAYERS)
    row = measure(case, architecture, config, 2 * config.model_max_length, rounds=1)
    if row.get("peak_gb"):
        row["error"] = row["estimate_gb"] / row["peak_gb"] - 1
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", default=",".join(str(number) for number in range(len(CASES))), help="by number")


def main() -> None:
    arguments = arguments_of(__doc__, add_flags)
    rows = []
    print(" " * 44 + "".join(name.rjust(12) for name in ("estimate GB", "peak GB", "error")))
    for case in (CASES[int(number)] for number in arguments.cases.split(",")):
        rows.append({"case": case.name, **run_case(case, arguments.rehearse)})
        cells = [f"{rows[-1]['estimate_gb']:.2f}"]
        cells += [f"{rows[-1]['peak_gb']:.2f}", f"{rows[-1]['error']:+.0%}"] if "error" in rows[-1] else ["-", "-"]
        print(case.name.ljust(44) + "".join(cell.rjust(12) for cell in cells), flush=True)
        write(arguments.out, device_here(), rows)


if __name__ == "__main__":
    main()
