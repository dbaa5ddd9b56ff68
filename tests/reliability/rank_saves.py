"""One of two processes that save under FSDP2; what a kill would leave is looked at after every file operation.

    rank_saves.py JOB.json

A job is {"flags", "scenarios": {NAME: [steps there before, their best, step, its best, --save_total_limit]}}.
The first process writes all files, and SIGKILL leaves of them what the system has by then: that is what a copy of the
folder holds which is made there and then, while both processes are in the midst of their save. Prints how many were
looked at.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from kill_support import on_operations
from test_reliability_saves import require_usable, reset, state, write
from transformers.utils.logging import disable_progress_bar

from parsit.cli.process import end
from parsit.config import TrainConfig
from parsit.train.loop import Run
from parsit.train.prepare import prepare
from parsit.train.requests import Asked
from parsit.train.saving import Saver
from parsit.train.world import World, join, leave


def look_at_each(saver: Saver, fingerprint: str, name: str, scenario: list, world: World) -> int:
    """Save as a scenario says; how many states of the folder a kill could have left, all of them usable."""
    before, best_before, step, best, keep = scenario
    folder, looked = saver.output_dir, 0
    problems: list[str] = []
    copy = folder.with_name("copy")
    saver.retention.keep = 0
    if world.is_first:
        shutil.rmtree(folder)
        folder.mkdir()
    world.barrier()
    for earlier in before:
        write(saver, state(fingerprint, earlier, best_before))
    saver.retention.keep = keep

    def look(operation: str) -> None:
        nonlocal looked
        reset(folder, copy)
        try:
            require_usable(copy, before, step, best_before, f"{name}: {operation} ({looked})")
        except BaseException as error:  # what is raised inside a save is the save's own failure
            problems.append(str(error))
        looked += 1

    def save() -> None:
        write(saver, state(fingerprint, step, best))

    if world.is_first:
        copy.mkdir(exist_ok=True)
        on_operations(save, look)
    else:
        save()
    assert not problems, problems[:3]
    return looked


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    disable_progress_bar()
    world = join(timeout_s=600)
    prepared = prepare(TrainConfig(**job["flags"]), world)
    run = Run(prepared)
    assert run.strategy.name == "FSDP2"
    run.left_out.begin(0, print, world.is_first)
    run.step(0, run.training_batches(0), Asked())
    saver = Saver(prepared, run.strategy, run.ema)
    write(saver, state(run.fingerprint, 3, ()))  # a process's first save imports modules: thousands of files
    found = {
        name: look_at_each(saver, run.fingerprint, name, scenario, world) for name, scenario in job["scenarios"].items()
    }
    if world.is_first:
        print(json.dumps(found))
    leave()


if __name__ == "__main__":
    main()
    end(0)
