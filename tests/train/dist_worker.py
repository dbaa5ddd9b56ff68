"""One process of a distributed run on the miniature model; `dist_support` starts several.

    dist_worker.py JOB.json

A job is {"architecture", "start" (a Parsit folder), "data" (JSONL), "runs": [{"name", "flags", …}], "out"}. Runs follow
each other in the same processes. Each rank writes what it saw to OUT/NAME-rank.json: where weights lie, and errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from parsit import hf
from parsit.cli.train import _model, sampler
from parsit.config import TrainConfig, load_architecture
from parsit.data.dataset import in_memory
from parsit.data.files import read_files
from parsit.train import find_newest, loop
from parsit.train.checkpoint import list_checkpoints
from parsit.train.world import World, join, leave
from parsit.types import ParsitError


def placement(run: loop._Run) -> dict[str, object]:
    """How much of the model, and of what is trained of it, lies here: weights held, and weights there are."""
    here = whole = trained_here = trained = 0
    for parameter in run.objective.parameters():
        shard = getattr(parameter, "ds_tensor", None)
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter if shard is None else shard
        elements = getattr(parameter, "ds_numel", parameter.numel())
        here += local.numel()
        whole += elements
        trained_here += local.numel() * parameter.requires_grad
        trained += elements * parameter.requires_grad
    states = [
        state.to_local().numel() if hasattr(state, "to_local") else state.numel()
        for optimizer in run.strategy.optimizers
        for values in optimizer.state.values()
        for key, state in values.items()
        if key == "exp_avg"
    ]
    held = (getattr(p, "ds_tensor", p) for p in run.objective.parameters())
    digest = hashlib.sha256()
    for tensor in (t.to_local() if hasattr(t, "to_local") else t for t in held):
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "strategy": run.strategy.name,
        "here": here,
        "whole": whole,
        "optimizer_here": sum(states),
        "trained_here": trained_here,
        "trained": trained,
        "told": {part.name: part.trainable for part in run.parts},
        "digest": digest.hexdigest(),
    }


def whole_state(run: loop._Run) -> dict[str, torch.Tensor]:
    """A copy of every weight as it is now, on the first process; called by all at once."""
    return {name: tensor.clone() for name, tensor in run.strategy.state_dict().items()}


def do(run_job: dict, job: dict, world: World) -> dict[str, object]:
    out = Path(job["out"]) / run_job["name"]
    out.mkdir(parents=True, exist_ok=True)
    if "goes_on" in run_job and world.is_first:  # with another run of this job, from where that stood at a step
        shutil.copytree(out.with_name(run_job["goes_on"]), out, dirs_exist_ok=True)
        for number, path in list_checkpoints(out):
            if number > run_job["from_step"]:
                shutil.rmtree(path)
    world.barrier()
    flags = {"bf16": "false", "dataloader_num_workers": 0, "eval_steps": 0, "output_dir": str(out)} | run_job["flags"]
    config = TrainConfig(**flags)
    checkpoint = find_newest(out, warn=print)
    start = checkpoint or run_job.get("start", job["start"])
    processor = hf.load_processor(start)
    data = in_memory(read_files([job["data"]]), processor, 512)
    world.barrier()
    broken = Path(run_job["break"]) if "break" in run_job else None  # an image that breaks after it was counted
    whole = broken.read_bytes() if broken else b""
    world.barrier()
    if broken:
        broken.write_bytes(b"broken")
    architecture = load_architecture(config.architecture)
    model, base = _model(config, architecture, processor, Path(start), checkpoint is not None, world)
    before: list[dict[str, torch.Tensor]] = []
    seen: dict[str, Any] = {}
    original = loop._Run.step

    def step(self: loop._Run, number: int, *arguments: object) -> dict[str, float]:
        seen.setdefault("first_step", number + 1)
        if run_job.get("watch") and not before:
            before.append(whole_state(self))
        if number == run_job.get("poison"):
            with torch.no_grad():
                for name, parameter in self.objective.named_parameters():
                    if name.endswith("mm_projector.0.bias"):
                        held = getattr(parameter, "ds_tensor", parameter)
                        (held.to_local() if hasattr(held, "to_local") else held).fill_(float("nan"))
        entry = original(self, number, *arguments)
        seen.update(placement(self))
        if run_job.get("watch") and number == self.total_steps - 1:
            after = whole_state(self)
            seen["moved"] = [name for name, tensor in after.items() if not torch.equal(tensor, before[0][name])]
            seen["stayed"] = [name for name in after if name not in seen["moved"]]
        return entry

    loop._Run.step = step
    started = time.monotonic()
    try:
        validation = data if run_job.get("validate") else None
        reader = sampler(processor, data) if config.sample_steps else None
        loop.train(config, model, processor, data, validation, checkpoint, world, reader, base)
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
    world = join(timeout_s=600)
    for run_job in job["runs"]:
        seen = do(run_job, job, world)
        (Path(job["out"]) / f"{run_job['name']}-{world.rank}.json").write_text(json.dumps(seen))
    leave()


if __name__ == "__main__":
    main()
