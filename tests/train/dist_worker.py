"""One process of a distributed run on the miniature model; `dist_support` starts several.

    dist_worker.py JOB.json

A job is {"architecture", "start" (a Parsit folder), "data" (JSONL), "runs": [{"name", "flags", …}], "out"}. Runs follow
each other in the same processes. Each rank writes what it saw to OUT/NAME-rank.json: where weights lie, and errors.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from parsit import hf
from parsit.cli.train import sampler
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.data.files import read_files
from parsit.train import find_newest, loop
from parsit.train.world import World, join, leave
from parsit.types import ParsitError


def placement(run: loop._Run) -> dict[str, object]:
    """How much of the model lies here: the share of elements, and the types of what holds them."""
    here = whole = 0
    for parameter in run.objective.parameters():
        shard = getattr(parameter, "ds_tensor", None)
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter if shard is None else shard
        here += local.numel()
        whole += getattr(parameter, "ds_numel", parameter.numel())
    states = [
        state.to_local().numel() if hasattr(state, "to_local") else state.numel()
        for optimizer in run.strategy.optimizers
        for values in optimizer.state.values()
        for key, state in values.items()
        if key == "exp_avg"
    ]
    return {"strategy": run.strategy.name, "here": here, "whole": whole, "optimizer_here": sum(states)}


def do(run_job: dict, job: dict, world: World) -> dict[str, object]:
    out = Path(job["out"]) / run_job["name"]
    out.mkdir(parents=True, exist_ok=True)
    world.barrier()
    flags = {"bf16": "false", "dataloader_num_workers": 0, "eval_steps": 0, "output_dir": str(out)} | run_job["flags"]
    config = TrainConfig(**flags)
    checkpoint = find_newest(out, warn=print)
    start = checkpoint or job["start"]
    processor = hf.load_processor(start)
    data = in_memory(read_files([job["data"]]), processor, 512)
    world.barrier()
    broken = Path(run_job["break"]) if "break" in run_job else None  # an image that breaks after it was counted
    whole = broken.read_bytes() if broken else b""
    world.barrier()
    if broken:
        broken.write_bytes(b"broken")
    model = hf.load_model(start)
    seen: dict[str, object] = {}
    original = loop._Run.step

    def step(self: loop._Run, number: int, *arguments: object) -> dict[str, float]:
        if number == run_job.get("poison"):
            with torch.no_grad():
                for name, parameter in self.objective.named_parameters():
                    if name.endswith("mm_projector.0.bias"):
                        held = getattr(parameter, "ds_tensor", parameter)
                        (held.to_local() if hasattr(held, "to_local") else held).fill_(float("nan"))
        entry = original(self, number, *arguments)
        seen.update(placement(self))
        return entry

    loop._Run.step = step
    started = time.monotonic()
    try:
        validation = data if run_job.get("validate") else None
        reader = sampler(processor, data) if config.sample_steps else None
        loop.train(config, model, processor, data, validation, checkpoint, world, reader)
    except (ParsitError, ValueError) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    finally:
        loop._Run.step = original
    world.barrier()
    if broken:
        broken.write_bytes(whole)
    world.barrier()
    seen["seconds"] = time.monotonic() - started
    return seen


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    world = join(timeout_s=60)
    for run_job in job["runs"]:
        seen = do(run_job, job, world)
        (Path(job["out"]) / f"{run_job['name']}-{world.rank}.json").write_text(json.dumps(seen))
    leave()


if __name__ == "__main__":
    main()
