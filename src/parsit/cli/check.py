"""`parsit check PRESET[/STAGE] …`: the flags of `parsit train`, and every check before a run, without training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from parsit.cli.train import parse
from parsit.types import InputError, ParsitError, UsageError

if TYPE_CHECKING:
    from parsit.config import Architecture, TrainConfig
    from parsit.data.dataset import DataSet
    from parsit.model import ParsitForConditionalGeneration
    from parsit.processing.collate import Batch
    from parsit.processing.processor import ParsitProcessor
    from parsit.train.checks import Check
    from parsit.train.trial import Trial
    from parsit.train.world import World

Result = TypeVar("Result")

USAGE = """usage: parsit check PRESET[/STAGE] --data FILE --output_dir DIR [--max_memory_gb GB] [--no_step] [flags]

Look for what would stop a training run: packages, device, disk, data, tokens, trained parts, memory; then compute one
step on the largest micro-batch, with the processes and the way of sharding that the run will have. Nothing is written
but the data's index.

  --max_memory_gb GB   memory of a GPU (10^9 bytes); by default what this machine's has
  --no_step            leave the step out: no process is started, --num_processes N estimates for N GPUs
  flags                those of `parsit train` (`parsit train --help`)

Exit codes: 0 nothing found, 1 a check failed, 2 wrong usage."""


def main(argv: list[str]) -> int:
    """Run the verb: in this process, or in those that the run would have."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    flags, max_memory_gb, with_step = own_flags(argv)
    config = parse(flags)
    from parsit.cli.launch import is_peer_lost, num_processes, run_processes, set_defaults
    from parsit.train.world import join, leave, place_in_environment

    processes = 1 if place_in_environment() else num_processes(config.num_processes)
    step = _Step(with_step, _missing_gpus(processes))
    set_defaults(processes)
    if processes > 1 and step.is_tried:
        code = run_processes(["check", *argv], processes)
        return code if code in (0, 1, 2, 130) else 1  # one that was killed has failed
    world = join()
    report = _Report(world.is_first)
    try:
        return report.end(_look(config, world, max(processes, world.size), max_memory_gb, step, report))
    except _FailedError as failed:
        report.add(failed.check)
        return report.end("")
    except ParsitError:
        if world.is_first:
            raise
        return 1  # the first process has said it
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        os._exit(1)  # nothing is left to part from in good order
    finally:
        leave()


def own_flags(argv: list[str]) -> tuple[list[str], float | None, bool]:
    """(the flags of `parsit train`, --max_memory_gb, whether to try a step).

    Raises:
        UsageError: --max_memory_gb without a number above 0.
    """
    rest, limit, with_step = [], None, True
    words = iter(argv)
    for word in words:
        name, _, value = word.partition("=")
        if name == "--max_memory_gb":
            value = value or next(words, "")
            try:
                limit = float(value)
            except ValueError:
                limit = 0.0
            if not limit > 0:
                raise UsageError(f"--max_memory_gb is {value!r}: it must be a number above 0")
        elif word == "--no_step":
            with_step = False
        else:
            rest.append(word)
    return rest, limit, with_step


@dataclass(frozen=True, slots=True)
class _Step:
    """Whether a step is `wanted`, and what stands in its way, if anything."""

    wanted: bool
    obstacle: str

    @property
    def is_tried(self) -> bool:
        return self.wanted and not self.obstacle


class _FailedError(Exception):
    """A check without which no other can be made."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.detail)
        self.check = check


class _Report:
    """The checks as they come; only the first process `speaks`."""

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks
        self.failed: list[str] = []

    def add(self, check: Check) -> None:
        """Tell a check."""
        if not check.ok:
            self.failed.append(check.name)
        self._tell(f"{'ok    ' if check.ok else 'FAILED'}  {check.name:<11}{check.detail}")
        if not check.ok and check.remedy:
            self._tell(f"{'':19}do: {check.remedy}")

    def end(self, outlook: str) -> int:
        """Tell how it ended; the exit code."""
        self._tell(f"not ready: {', '.join(self.failed)}" if self.failed else f"ready: {outlook}")
        return 1 if self.failed else 0

    def _tell(self, line: str) -> None:
        if self.speaks:
            # At once: what comes next may be the end of this process.
            print(line, flush=True)


def _missing_gpus(processes: int) -> str:
    """Why so many processes cannot be started here; empty: they can."""
    import torch

    gpus = torch.cuda.device_count()
    if not gpus or processes <= gpus:
        return ""
    return f"{processes} processes need as many GPUs, this machine has {gpus}"


def _agreed(world: World, name: str, remedy: str, work: Callable[[], Result]) -> Result:
    """What `work` gives here, if every process could do it: none goes on and waits for one that could not.

    Raises:
        _FailedError: the first process's fault that could not.
    """
    from parsit.train.checks import Check

    done, fault = [], None
    try:
        done.append(work())
    except InputError as error:
        fault = str(error)
    faults = [one for one in world.gather(fault) if one is not None]
    if faults:
        raise _FailedError(Check(name, False, faults[0], remedy))
    return done[0]


def _model(
    config: TrainConfig, architecture: Architecture, processor: ParsitProcessor, start: Path | None, world: World
) -> ParsitForConditionalGeneration:
    """The model as a new run would begin with it, adapters and all; nothing is written."""
    from parsit.cli.train import give_adapters, in_fp32, starting_model

    model = starting_model(config, architecture, processor, start)
    if config.lora_enable:
        give_adapters(model, config, world)
    else:
        in_fp32(model)
    return model


def _look(
    config: TrainConfig, world: World, ranks: int, max_memory_gb: float | None, step: _Step, report: _Report
) -> str:
    """Make all checks; what will be trained for how long, where they pass.

    Args:
        config: the run's configuration.
        world: the processes that look.
        ranks: how many the run will have.
        max_memory_gb: memory of a GPU, if it was given.
        step: whether one is tried.
        report: told the checks.

    Raises:
        _FailedError: a check without which no other can be made.
    """
    from parsit import hf
    from parsit.cli.console import quiet_libraries
    from parsit.cli.train import architecture_of, data_set, parsit_folder, require_given_flags
    from parsit.config import layer_range
    from parsit.train import trial as trials
    from parsit.train.adapters import set_trainable
    from parsit.train.checks import Check
    from parsit.train.memory import Placement
    from parsit.train.preflight import preflight
    from parsit.train.world import World

    quiet_libraries()
    architecture = architecture_of(config)
    start = parsit_folder(config.model_name_or_path)

    def opened() -> tuple[ParsitForConditionalGeneration, ParsitProcessor]:
        processor = hf.load_processor(start) if start else hf.new_processor(architecture)
        return _model(config, architecture, processor, start, world), processor

    def data(paths: list[str], what: str) -> DataSet:
        remedy = "`parsit data validate` lists every fault; is --image_folder right?"
        return _agreed(world, "data", remedy, lambda: data_set(paths, config, processor, what, world))

    model, processor = _agreed(world, "model", "mend it, or name another --model_name_or_path", opened)
    require_given_flags(config, model, processor)
    vision_layers = layer_range(config.mm_tunable_vision_layers, "mm_tunable_vision_layers")
    set_trainable(model, config.tunable_parts, vision_layers)
    training = data(config.data or [], "training")
    if config.eval_data:
        data(config.eval_data, "validation")
    report.add(Check("data", True, training.describe()))
    run_world = World(size=ranks, device=world.device)
    for check in world.on_first(lambda: preflight(config, model, processor, training, run_world, max_memory_gb)):
        report.add(check)
    micro_batches = trials.micro_batches_of(config, training, model)
    trial = None
    if step.is_tried and not report.failed:
        samples = trials.largest(micro_batches, config.seed)
        batch = _agreed(
            world,
            "step",
            "`parsit data validate` lists every fault",
            lambda: trials.make_batch(config, training, processor, micro_batches, samples),
        )
        trial = _try(config, model, batch, micro_batches.work(samples), world, report)
    elif step.wanted and not report.failed:
        report.add(Check("step", True, f"not tried: {step.obstacle}"))
    return trials.outlook(config, micro_batches, Placement.of(config, ranks), trial)


def _try(
    config: TrainConfig,
    model: ParsitForConditionalGeneration,
    batch: Batch,
    work: float,
    world: World,
    report: _Report,
) -> Trial | None:
    """The step, on all processes at once. Where it breaks off on one of several, this does not return: all end."""
    from parsit.cli.launch import LastWord
    from parsit.train.trial import check_step

    word = LastWord(world) if world.size > 1 else None
    with redirect_stdout(sys.stderr):  # DeepSpeed prints, and stdout is the answer
        check, trial = check_step(config, model, batch, work, world)
    if trial is None and word:
        if word.is_mine():
            report = _Report(speaks=True)
            report.add(check)
            report.end("")
        word.end()
    report.add(check)
    return trial
