"""A whole run in this process: prepare, look for what would stop it, train. What `parsit train` does, from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from parsit.config import TrainConfig
from parsit.files.run_folder import clear_leftovers
from parsit.files.run_lock import run_lock
from parsit.train.host_memory import keep_freed_memory
from parsit.train.loop import OnStep, TrainResult, train
from parsit.train.preflight import require_ready
from parsit.train.prepare import Bars, Prepared, no_bars, prepare
from parsit.train.requests import Requests
from parsit.train.trial import is_out_of_memory
from parsit.train.world import World, join, leave, place_in_environment
from parsit.types import ParsitError, UsageError


def set_device_defaults() -> None:
    """Settings of the device, for what the user has not set; before anything is on it.

    `expandable_segments` lets CUDA's allocator grow its blocks, where batches of changing length would leave holes.
    Without a GPU DeepSpeed, where it is installed, would guess aloud what to run on.
    """
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        keep_freed_memory()


def set_tf32(choice: str, device: torch.device) -> None:
    """Compute products of fp32 numbers in TF32 or not, on a GPU; `auto` and a CPU leave torch as it is set.

    Under bfloat16 hardly a product of fp32 numbers is left; with `--bf16 false` it is all of them.
    """
    if choice == "auto" or device.type != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = choice == "true"


class MemoryFullError(ParsitError):
    """The memory of this process's device did not hold a step; of several processes perhaps this one's alone."""

    def __init__(self, world: World, error: RuntimeError) -> None:
        where = f"process {world.rank}: " if world.size > 1 else ""
        super().__init__(
            f"{where}out of memory: {str(error).splitlines()[0]}: --gradient_checkpointing true, a smaller "
            "--per_device_train_batch_size or --model_max_length (`parsit check` tries the largest step); the same "
            "command goes on from the last checkpoint"
        )


def run(
    config: TrainConfig,
    world: World,
    *,
    bars: Bars = no_bars,
    say: Callable[[str], None] = lambda line: None,
    on_prepared: Callable[[Prepared], None] = lambda prepared: None,
    on_step: OnStep = lambda run, step: None,
) -> TrainResult:
    """Prepare and train, as one of the processes of a run.

    Args:
        config: the resolved configuration; `data` and `output_dir` are set.
        world: the processes; all call this at once.
        bars: makes progress bars, on the first process.
        say: told a line at a time, on the first process.
        on_prepared: called on the first process with what will be trained.
        on_step: called with the run and the number of steps done, before the first step and after each.

    Raises:
        UsageError: flags that contradict each other, a checkpoint or a model.
        InputError: data or a model that cannot be used, or a check before the run that failed.
        MemoryFullError: the device's memory ran out, on this process.
        ParsitError: a loss or gradient that is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    set_tf32(config.tf32, world.device)
    requests = Requests(config.max_hours)
    with _own_folder(config, world, say):
        prepared = prepare(config, world, bars=bars, say=say)
        if world.is_first:
            on_prepared(prepared)
        require_ready(prepared, say)
        try:
            result = train(prepared, on_step, requests)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryFullError(world, error) from error
    if world.is_first and result.is_whole:
        ending = f", validation loss {result.eval_loss:.4f}" if result.eval_loss is not None else ""
        say(f"trained {result.steps} steps{ending}; saved {result.checkpoint}")
    return result


@contextmanager
def _own_folder(config: TrainConfig, world: World, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of the run's folder, and clear what killed saves left there. All processes call this at once.

    Raises:
        InputError: another run is writing into it.
        ParsitError: it cannot be written.
    """
    output_dir = Path(str(config.output_dir))
    with ExitStack() as held:

        def take() -> list[Path]:
            held.enter_context(run_lock(output_dir, say))
            return clear_leftovers(output_dir)

        for path in world.on_first(take):
            say(f"{path}: was whole but not in its place, as the save was cut short; put there")
        yield


def fit(config: TrainConfig, on_step: OnStep = lambda run, step: None) -> TrainResult:
    """Train as `parsit train` does: data and model are checked first, and a run that was cut short goes on.

    In one process, or as one of those that torchrun, srun or `accelerate launch` started.

    Args:
        config: the run's settings, such as `TrainConfig.from_preset("tiny/scratch", data=[…], output_dir=…)`.
        on_step: called with the run and the number of steps done, before the first step and after each.

    Returns:
        The last checkpoint, the steps done, and the last validation loss.

    Raises:
        UsageError: settings that contradict each other, a checkpoint or a model, or that ask for several processes
            where none were started.
        InputError: data or a model that cannot be used, or a check before the run that failed.
        ParsitError: a loss or gradient that is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    for flag in ("data", "output_dir"):
        if not getattr(config, flag):
            raise UsageError(f"{flag} is not set: a run needs it")
    if place_in_environment() is None and (processes := config.num_processes or torch.cuda.device_count()) > 1:
        raise UsageError(
            f"the run has {processes} processes and a Python program is one: start it with `torchrun --nproc_per_node "
            f"{processes} YOUR_PROGRAM.py`, use `parsit train`, or set num_processes=1"
        )
    set_device_defaults()
    world = join(config.ddp_timeout)
    try:
        return run(config, world, on_step=on_step)
    finally:
        leave()
