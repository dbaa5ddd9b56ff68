"""`parsit check PRESET[/STAGE] …`: the flags of `parsit train`, and every check before a run, without training."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parsit.cli.run_flags import parse_run, run_parser
from parsit.types import ParsitError, UsageError

if TYPE_CHECKING:
    from parsit.config import TrainConfig
    from parsit.processing.collate import Batch
    from parsit.train.checks import Check
    from parsit.train.prepare import Prepared
    from parsit.train.trial import Trial
    from parsit.train.world import World

DESCRIPTION = """Look for what would stop a training run: packages, device, disk, data, tokens, trained parts, memory;
then compute one step on the largest micro-batch, with the processes and the way of sharding that the run will have.
Nothing is written but the data's index. Exit codes: 0 nothing found, 1 a check failed, 2 wrong usage.
The flags are those of `parsit train`, and two more."""

OWN = ("max_memory_gb", "no_step")

# What to do where the run cannot be prepared, or its largest micro-batch not be read.
REMEDIES = {
    "data": "`parsit data validate` lists every fault; is --image_folder right?",
    "model": "mend it, or name another --model_name_or_path",
    "step": "`parsit data validate` lists every fault",
}


def parse(argv: list[str]) -> tuple[TrainConfig, float | None, bool]:
    """(the run's configuration, memory of a GPU in 10^9 bytes if it was given, whether to try a step).

    Raises:
        UsageError: an unknown preset, flag or value, or no memory at all.
    """
    parser = run_parser("parsit check", DESCRIPTION, OWN)
    parser.add_argument(
        "--max_memory_gb",
        type=float,
        metavar="GB",
        help="memory of a GPU (10^9 bytes); by default what this machine's has",
    )
    parser.add_argument(
        "--no_step",
        action="store_true",
        help="leave the step out: no process is started, --num_processes N estimates for N GPUs",
    )
    config, own = parse_run(parser, argv, OWN)
    limit = own["max_memory_gb"]
    if limit is not None and not limit > 0:
        raise UsageError(f"--max_memory_gb is {limit}: it must be more than 0")
    return config, limit, not own["no_step"]


def main(argv: list[str]) -> int:
    """Run the verb: in this process, or in those that the run would have."""
    config, max_memory_gb, with_step = parse(argv)
    from parsit.cli.launch import is_peer_lost, num_processes, run_processes, set_defaults
    from parsit.train.agreement import PreparationError
    from parsit.train.checks import Check
    from parsit.train.world import join, leave, place_in_environment

    processes = 1 if place_in_environment() else num_processes(config.num_processes)
    step = _Step(with_step, _missing_gpus(processes))
    set_defaults(processes)
    if processes > 1 and step.is_tried:
        code = run_processes(["check", *argv], processes)
        return code if code in (0, 1, 2, 130) else 1  # one that was killed has failed
    world = join(config.ddp_timeout)
    report = _Report(world.is_first)
    try:
        return report.end(_look(config, world, max(processes, world.size), max_memory_gb, step, report))
    except PreparationError as failed:
        report.add(Check(failed.stage, False, str(failed), REMEDIES[failed.stage]))
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


@dataclass(frozen=True, slots=True)
class _Step:
    """Whether a step is `wanted`, and what stands in its way, if anything."""

    wanted: bool
    obstacle: str

    @property
    def is_tried(self) -> bool:
        return self.wanted and not self.obstacle


class _Report:
    """The checks as they come; only the first process `speaks`."""

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks
        self.failed: list[str] = []

    def add(self, check: Check) -> None:
        """Tell a check."""
        if not check.ok:
            self.failed.append(check.name)
        word = "FAILED" if not check.ok else "warn  " if check.warns else "ok    "
        self._tell(f"{word}  {check.name:<11}{check.detail}")
        if (check.warns or not check.ok) and check.remedy:
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
        PreparationError: data or a model without which no other check can be made.
    """
    from parsit.cli.console import bars, quiet_libraries, say
    from parsit.train import trial as trials
    from parsit.train.agreement import agreed
    from parsit.train.batches import micro_batches_of
    from parsit.train.checks import Check
    from parsit.train.fit import set_tf32
    from parsit.train.memory import Placement
    from parsit.train.preflight import preflight
    from parsit.train.prepare import prepare
    from parsit.train.world import World

    quiet_libraries()
    set_tf32(config.tf32, world.device)
    run = prepare(config, world, bars=bars, say=say, dry=True)
    report.add(Check("data", True, run.training.describe()))
    run_world = World(size=ranks, device=world.device)
    for check in world.on_first(lambda: preflight(run, run_world, max_memory_gb)):
        report.add(check)
    micro_batches = micro_batches_of(config, run.training, run.model)
    trial = None
    if step.is_tried and not report.failed:
        samples = trials.largest(micro_batches, config.seed)
        batch = agreed(
            world, "step", lambda: trials.make_batch(config, run.training, run.processor, micro_batches, samples)
        )
        trial = _try(run, batch, micro_batches.work(samples), report)
    elif step.wanted and not report.failed:
        report.add(Check("step", True, f"not tried: {step.obstacle}"))
    return trials.outlook(config, micro_batches, Placement.of(config, ranks), trial)


def _try(run: Prepared, batch: Batch, work: float, report: _Report) -> Trial | None:
    """The step, on all processes at once. Where it breaks off on one of several, this does not return: all end."""
    from parsit.cli.launch import LastWord
    from parsit.train.trial import check_step

    word = LastWord(run.world) if run.world.size > 1 else None
    with redirect_stdout(sys.stderr):  # DeepSpeed prints, and stdout is the answer
        check, trial = check_step(run.config, run.model, batch, work, run.world)
    if trial is None and word:
        if word.is_mine():
            report = _Report(speaks=True)
            report.add(check)
            report.end("")
        word.end()
    report.add(check)
    return trial
