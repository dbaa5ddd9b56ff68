"""One process of a distributed run on the miniature model; `dist_support` starts several.

    dist_worker.py JOB.json

A job is {"architecture", "start" (a Parsit folder), "data" (JSONL), "runs": [{"name", "flags", …}], "out"}. Runs follow
each other in the same processes. Each rank writes what it saw to OUT/NAME-rank.json: where weights lie, and errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parsit.cli.process import end
from parsit.config import TrainConfig
from parsit.files.run_folder import list_checkpoints
from parsit.train import train
from parsit.train.loop import Run
from parsit.train.prepare import prepare
from parsit.train.world import World, join, leave
from parsit.types import ParsitError


def placement(run: Run) -> dict[str, object]:
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
        "digest": digest.hexdigest(),
    }


class Talk(TorchDispatchMode):
    """Counts the collectives of this process, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def whole_state(run: Run) -> dict[str, torch.Tensor]:
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
    flags = {
        "bf16": "false",
        "dataloader_num_workers": 0,
        "eval_steps": 0,
        "output_dir": str(out),
        "data": [job["data"]],
    }
    flags |= {"eval_data": [job["data"]]} if run_job.get("validate") else {}
    flags["model_name_or_path"] = run_job.get("start", job["start"])
    seen: dict[str, Any] = {}
    started = time.monotonic()
    broken = Path(run_job["break"]) if "break" in run_job else None  # an image that breaks after it was counted
    whole = broken.read_bytes() if broken else b""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if "limit" in run_job:  # bytes that a file may have, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (run_job["limit"], hard))
    try:
        prepared = prepare(TrainConfig(**flags | run_job["flags"]), world)
        seen["told"] = {part.name: part.trainable for part in prepared.parts}
        world.barrier()
        if broken:
            broken.write_bytes(b"broken")
        train(prepared, watcher(run_job, seen))
    except ParsitError as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    world.barrier()
    if broken:
        broken.write_bytes(whole)
    world.barrier()
    seen["seconds"] = time.monotonic() - started
    return seen


def watcher(run_job: dict, seen: dict[str, Any]) -> Callable[[Run, int], None]:
    """Puts into `seen` what the job asks for, before the first step and after each; poisons a weight where it says.

    `listen`: how often the second step's processes talk, by operation.
    """
    before: dict[str, torch.Tensor] = {}
    talk = Talk()

    def on_step(run: Run, step: int) -> None:
        if "first_step" not in seen:
            seen["first_step"] = step + 1
            before.update(whole_state(run) if run_job.get("watch") else {})
        else:
            seen.update(placement(run))
        if run_job.get("listen") and step == 1:
            talk.__enter__()
        if run_job.get("listen") and step == 2:
            talk.__exit__(None, None, None)
            seen["talk"] = talk.counts
        if step == run_job.get("poison"):
            poison(run)
        if run_job.get("watch") and step == run.total_steps:
            after = whole_state(run)
            seen["moved"] = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
            seen["stayed"] = [name for name in after if name not in seen["moved"]]

    return on_step


def poison(run: Run) -> None:
    """Make a weight no number, in each process's share of it."""
    with torch.no_grad():
        for name, parameter in run.objective.named_parameters():
            if name.endswith("mm_projector.0.bias"):
                held = getattr(parameter, "ds_tensor", parameter)
                (held.to_local() if hasattr(held, "to_local") else held).fill_(float("nan"))


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
    end(0)
