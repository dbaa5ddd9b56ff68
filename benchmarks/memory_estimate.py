"""The memory estimate of `parsit check` against what training steps really hold, on a CPU.

    make bench-memory                     (python benchmarks/memory_estimate.py)
    python benchmarks/memory_estimate.py --presets      the estimates alone, for the presets' full rows

A real step of the smol presets (SmolLM2-135M's shapes, drawn pages, packed rows) runs while every storage is noted when
an operation makes it and when it is let go; the largest sum is what a device must hold. The kernels' own scratch space,
the allocator's losses and CUDA's libraries are not in it. Prints a table and writes
benchmarks/results/memory_estimate.json.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_step import batches_of, prepare
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parsit import hf
from parsit.config import TrainConfig, architecture_names, load_architecture, load_preset
from parsit.train.memory import GB, BatchSize, Placement, estimate
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import checkpoint_activations
from parsit.train.strategies.base import Strategy
from parsit.train.world import World

RESULTS = Path(__file__).parent / "results" / "memory_estimate.json"
ROW = 4096
# Others have 46 tiles, two pages and some more; those of 512 px are fewer. At native resolution three pages of patches.
ROWS = {"qwen3-0.6b": BatchSize(8192, 32, 4500), "qwen3-1.7b-native": BatchSize(8192, 3 * 8580, 1500)}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("finetune", {}),
    ("finetune", {"gradient_checkpointing": False}),
    ("finetune", {"optim": "adamw_bf16"}),
    ("finetune", {"optim": "adamw_bf16", "gradient_checkpointing": False}),
    ("finetune", {"bf16": "false"}),
    ("lora", {}),
    ("lora", {"gradient_checkpointing": False}),
    ("pretrain", {}),
)


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that are alive: `now`, and the most there were, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Note a tensor's storage, once, and when it goes."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._live.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return made


@contextmanager
def counting(strategy: Strategy) -> Iterator[LiveBytes]:
    """Count from what there is before a step: weights, and their halves."""
    live = LiveBytes()
    for parameter in strategy.objective.parameters():
        live.add(parameter.data)
    for half in strategy.lower_halves.values():
        live.add(half)
    with live:
        yield live


def measure(stage: str, flags: dict[str, Any]) -> dict[str, Any]:
    """One row: the estimate and the peak of a step, in GB."""
    values = load_preset(f"smol/{stage}")
    architecture = load_architecture(values["architecture"])
    architecture = replace(architecture, tokenizer="tiny", vision_tower=None, model_name_or_path=None)
    fixed: dict[str, Any] = {"output_dir": "unused", "bf16": "true", "model_max_length": ROW}
    fixed |= {"per_device_train_batch_size": 1, "dataloader_num_workers": 0}
    config = TrainConfig(**(values | fixed | flags))
    processor = hf.new_processor(architecture)
    model = prepare(architecture, processor, config, torch.device("cpu"))
    batch = max(batches_of(config, processor, model, 2 * ROW), key=lambda one: one.num_tokens)
    estimated = estimate(model, config, Placement(), BatchSize.of(batch), config.bf16 == "true")
    if config.gradient_checkpointing:
        checkpoint_activations(model, None)
    model.enable_packing()
    strategy = Strategy(Objective(model, 0.0).train(), config, World())
    counts = StepCounts.of([batch])
    with counting(strategy) as live:
        strategy.backward(batch, counts, last=True)
        strategy.update(1.0, lambda norm: None)  # the optimizer's state is made here
        live.peak = live.now
        for last in (False, True):  # the second finds the gradients of the first
            strategy.backward(batch, counts, last)
        strategy.update(1.0, lambda norm: None)
    name = ", ".join([f"smol/{stage}", *(f"{key} {value}" for key, value in flags.items())])
    row = {"case": name, "positions": batch.input_ids.numel(), "labels": batch.num_supervised}
    row |= {"estimate_gb": estimated.total / GB, "peak_gb": live.peak / GB}
    return row | {"error": estimated.total / live.peak - 1, "parts": str(estimated)}


def tell_presets() -> None:
    """The estimates of one GPU, without weights: frozen language models as they come from the Hub, in bfloat16."""
    for size, stage in product(architecture_names()[1:], ("pretrain", "lora", "finetune")):
        row = ROWS.get(size, BatchSize(positions=8192, tiles=46, labels=4500))
        values = load_preset(f"{size}/{stage}")
        optimizers = ("adamw", "adamw_bf16") if stage == "finetune" else (values.get("optim", "adamw"),)
        for optim, checkpointing in product(optimizers, (True, False)):
            flags = {"optim": optim, "gradient_checkpointing": checkpointing}
            config = TrainConfig(**(values | flags))
            architecture = replace(load_architecture(values["architecture"]), tokenizer="tiny")
            model = prepare(architecture, hf.new_processor(architecture), config, torch.device("meta"))
            if stage == "pretrain":
                model.language_model.bfloat16()
            estimated = estimate(model, config, Placement(), row, bf16=True)
            named = f"{size}/{stage} {optim}{'' if checkpointing else ', no gradient checkpointing'}"
            print(f"{named}, {row.tiles} tiles: {estimated}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", action="store_true", help="the estimates alone, for the presets' full rows")
    parser.add_argument("--cases", default=",".join(str(number) for number in range(len(CASES))), help="by number")
    arguments = parser.parse_args()
    if arguments.presets:
        tell_presets()
        return
    rows = []
    print(f"{'case':<64}{'estimate':>10}{'held':>10}{'error':>9}")
    for number in arguments.cases.split(","):
        row = measure(*CASES[int(number)])
        rows.append(row)
        cells = f"{row['estimate_gb']:>7.2f} GB{row['peak_gb']:>7.2f} GB{row['error']:>+9.1%}"
        print(f"{row['case']:<64}{cells}", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)  # after each row, so that what was measured stays
        RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
