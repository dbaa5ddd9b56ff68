"""One real step on the largest micro-batch, with the run's own strategy; and from it, how long the run will take.

Several processes each take the same largest micro-batch: that is the most that any of them will ever have to hold. In
one process the step is taken back afterwards; what a strategy has cut into shares stays as the step left it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch

from parsit.config import TrainConfig, layer_range
from parsit.data.dataset import DataSet
from parsit.data.loader import Loader
from parsit.data.plan import MicroBatches, Plan
from parsit.model import ParsitForConditionalGeneration
from parsit.processing.collate import Batch
from parsit.processing.processor import ParsitProcessor
from parsit.train.batches import micro_batches_of as micro_batches_of  # benchmarks take it from here
from parsit.train.batches import num_steps
from parsit.train.checks import Check
from parsit.train.memory import GB, Placement
from parsit.train.metrics import peak_memory_bytes
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import checkpoint_activations
from parsit.train.strategies import choose
from parsit.train.strategies.base import Strategy
from parsit.train.world import World
from parsit.types import InputError

# Micro-batches whose work is looked at; of more, so many at random.
_LOOKED_AT = 4096


@dataclass(frozen=True, slots=True)
class Trial:
    """What a step on the largest micro-batch took; of several processes, the slowest one's time and the fullest's peak.

    `work`: FLOPs of one micro-batch as the plan estimates them; each process had one, or shared it (`--tp`).
    `loss`: the step's, over all processes. `without_gradient`: trained parameters that none reached.
    """

    seconds: float
    work: float
    peak_bytes: int
    tokens: int
    loss: float
    grad_norm: float
    part_norms: dict[str, float]
    without_gradient: tuple[str, ...]


def largest(micro_batches: MicroBatches, seed: int) -> np.ndarray:
    """The samples of the micro-batch with the most work; of a great many, of those that are looked at."""
    epoch = micro_batches.epoch(0)
    return max((epoch[number] for number in _some(len(epoch), seed)), key=micro_batches.work)


def _some(count: int, seed: int) -> list[int]:
    if count <= _LOOKED_AT:
        return list(range(count))
    return np.random.default_rng(seed).choice(count, _LOOKED_AT, replace=False).tolist()


def make_batch(
    config: TrainConfig, training: DataSet, processor: ParsitProcessor, micro_batches: MicroBatches, samples: np.ndarray
) -> Batch:
    """The samples as the run's loader would hand them over.

    Raises:
        InputError: one of them cannot be read, with its place.
    """
    plan = Plan(micro_batches, config.gradient_accumulation_steps)
    targets = {"with_glyphs": bool(config.glyph_loss_weight), "with_line_texts": bool(config.ctc_loss_weight)}
    loader = Loader(training, processor, plan, 1, packed=config.packing, **targets)
    loaded = loader.collate([loader.dataset[number] for number in samples.tolist()])
    for finding in loaded.left_out:
        raise InputError(f"{finding.place}: {finding.detail}")
    return loaded.batch


def try_step(
    config: TrainConfig,
    model: ParsitForConditionalGeneration,
    batch: Batch,
    work: float,
    world: World | None = None,
) -> Trial:
    """Forward, backward and update as a run does them, through the strategy that it will have.

    Packing and gradient checkpointing stay switched on where the configuration has them, as the run will do itself;
    layers are not compiled, as the step's time would be the compiler's.
    Random numbers are put back, and in one process without DeepSpeed the weights as well.

    Args:
        config: the run's configuration.
        model: the model, its parameters frozen and freed as they will be trained.
        batch: the micro-batch, the same on each process.
        work: its FLOPs as the plan estimates them.
        world: the processes of the run; all call this at once; None: this one is alone.

    Raises:
        torch.OutOfMemoryError: the GPU's memory does not hold it. Other processes may then wait for this one.
        UsageError: the flags do not fit the number of processes.
    """
    cuda = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    world = world or World(device=cuda)
    device = world.device
    if config.gradient_checkpointing:
        checkpoint_activations(
            model, layer_range(config.gradient_checkpointing_layers, "gradient_checkpointing_layers")
        )
    if config.packing:
        model.enable_packing()
    alone = world.size == 1 and not config.deepspeed
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        _weights_put_back(model) if alone else nullcontext(),
    ):
        torch.manual_seed(config.seed)
        objective = Objective.of(model, config).train()
        strategy = choose(objective, config, world)
        return _over_processes(_step(strategy, batch, work), strategy)


def _step(strategy: Strategy, batch: Batch, work: float) -> Trial:
    """The step itself, as this process sees it; `loss` is its share."""
    device, world = strategy.device, strategy.world
    reached: set[str] = set()  # DeepSpeed takes gradients away as soon as they are there
    for name, parameter in strategy.named_trained():
        parameter.register_hook(lambda _, name=name: reached.add(name))
    # All have the same batch, so that the step's counts are known without asking.
    counts = StepCounts(*(count * strategy.data_size for count in astuple(StepCounts.of([batch]))))
    world.barrier()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    loss = float(strategy.backward(batch, counts, last=True).total.detach())
    without = tuple(n for n, p in strategy.named_trained() if p.grad is None and n not in reached)
    norm = strategy.update(1.0, lambda _: None)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return Trial(seconds, work, peak_memory_bytes(device), batch.num_tokens, loss, norm, strategy.part_norms, without)


def _over_processes(mine: Trial, strategy: Strategy) -> Trial:
    """One result for all processes: the sum of their losses, the largest time and the largest peak of memory."""
    trials = strategy.world.gather(mine)
    sharing = len(trials) // strategy.data_size  # processes that have the same share of the loss
    return replace(
        mine,
        seconds=max(trial.seconds for trial in trials),
        peak_bytes=max(trial.peak_bytes for trial in trials),
        loss=sum(trial.loss for trial in trials) / sharing,
        grad_norm=sum(trial.grad_norm for trial in trials) / len(trials),  # one that is not finite shows
        without_gradient=tuple(dict.fromkeys(name for trial in trials for name in trial.without_gradient)),
    )


@contextmanager
def _weights_put_back(model: ParsitForConditionalGeneration) -> Iterator[None]:
    kept = {p: p.detach().cpu().clone() for p in model.parameters() if p.requires_grad}
    training = model.training
    try:
        yield
    finally:
        for parameter, value in kept.items():
            parameter.data = value.to(parameter.device)  # in its own type, whatever the optimizer made of it
            parameter.grad = None
        model.train(training)


def check_step(
    config: TrainConfig,
    model: ParsitForConditionalGeneration,
    batch: Batch,
    work: float,
    world: World | None = None,
) -> tuple[Check, Trial | None]:
    """The step on the largest micro-batch works: it fits, its numbers are finite, every trained part learns.

    The arguments are those of `try_step`.

    Returns:
        The answer, the same on all processes, and the trial. No trial: it broke off on this process, and others may
        wait for it.

    Raises:
        RuntimeError: a collective failed, as where another process ended before the step was over.
        UsageError: the flags do not fit the number of processes.
    """
    size = f"{batch.input_ids.shape[0]} × {batch.input_ids.shape[1]} positions"
    try:
        trial = try_step(config, model, batch, work, world)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        where = f"process {world.rank}: " if world and world.size > 1 else ""
        remedy = "--gradient_checkpointing true, a smaller --per_device_train_batch_size or --model_max_length"
        return Check("step", False, f"{where}out of memory at {size}: {str(error).splitlines()[0]}", remedy), None
    norms = ", ".join(f"{part} {norm:.2g}" for part, norm in trial.part_norms.items()) or f"{trial.grad_norm:.2g}"
    detail = f"{size}: loss {trial.loss:.3f}, gradients {norms}, {trial.seconds:.2f} s, {trial.peak_bytes / GB:.2f} GB"
    if not math.isfinite(trial.loss) or not math.isfinite(trial.grad_norm):
        return Check(
            "step", False, f"not finite: {detail}", "lower --learning_rate, or look at the model's weights"
        ), trial
    if trial.without_gradient:
        names = ", ".join(trial.without_gradient[:3])
        more = f" and {len(trial.without_gradient) - 3} more" if len(trial.without_gradient) > 3 else ""
        remedy = "leave their part out of --mm_tunable_parts, or give data that uses it"
        return Check("step", False, f"no gradient reaches {names}{more}", remedy), trial
    return Check("step", True, detail), trial


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: the GPU's, or the CPU's, for which torch has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


def outlook(config: TrainConfig, micro_batches: MicroBatches, placement: Placement, trial: Trial | None) -> str:
    """What will be trained for how long, in a line. Validation and checkpoints come on top."""
    ranks = placement.data_ranks
    plan = Plan(micro_batches, config.gradient_accumulation_steps * ranks)
    steps = num_steps(config, plan)
    line = f"{steps:,} steps of {config.gradient_accumulation_steps * ranks} micro-batches"
    line += f" ({steps / plan.steps_per_epoch:.2f} passes over the data), {placement}"
    if trial is None:
        return line
    epoch = micro_batches.epoch(0)
    numbers = _some(len(epoch), config.seed)
    work = sum(micro_batches.work(epoch[number]) for number in numbers) / len(numbers) * len(epoch)
    seconds = work * steps / plan.steps_per_epoch * trial.seconds / trial.work / ranks
    return f"{line}: about {_duration(seconds)} at the trial step's speed"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
