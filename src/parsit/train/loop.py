"""The training run, top to bottom.

    prepare:  which parts are trained -> objective -> groups -> strategy; where to resume
    step:     batches -> counts of what is supervised -> forward, backward -> norm -> check -> update
    after:    entry in metrics.jsonl; now and then validation and a checkpoint

A step's loss is the sum over its batches of summed losses over the step's counts (design D5), so
accumulation does not change the gradient. What is not finite stops the run before the update.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from parsit.config import TrainConfig, layer_range
from parsit.data.dataset import DataSet
from parsit.data.faults import Finding
from parsit.data.loader import Loaded, Loader
from parsit.data.plan import Packed, Padded, Plan, Work
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapter_files import BaseModel, save_adapters
from parsit.model.flops import step_flops
from parsit.processing.collate import Batch
from parsit.processing.processor import ParsitProcessor
from parsit.train.adapters import set_trainable
from parsit.train.checkpoint import (
    STATE_FOLDER,
    SavedState,
    TrainState,
    begin_checkpoint,
    checkpoint_path,
    finish_checkpoint,
    load_state,
    prune,
    save_model,
    write_best,
)
from parsit.train.compiled import compile_layers
from parsit.train.left_out import LeftOut
from parsit.train.metrics import Log, Throughput, peak_memory_bytes
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import learning_rate_factor
from parsit.train.parts import checkpoint_activations, trainable
from parsit.train.rates import StepWork, mfu, peak_flops_of
from parsit.train.strategies import choose
from parsit.train.trackers import tracker
from parsit.train.world import World
from parsit.types import InputError, ParsitError

# Reads samples with the model as it is: what it read, as text for a person, and the character error rate.
ReadSamples = Callable[[ParsitForConditionalGeneration], tuple[str, float]]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: its last checkpoint, the steps done, the last validation loss (None without validation)."""

    checkpoint: Path
    steps: int
    eval_loss: float | None


def train(
    config: TrainConfig,
    model: ParsitForConditionalGeneration,
    processor: ParsitProcessor,
    training: DataSet,
    validation: DataSet | None,
    resume_from: Path | None,
    world: World | None = None,
    read_samples: ReadSamples | None = None,
    base: BaseModel | None = None,
) -> TrainResult:
    """Train `model` as `config` says.

    Args:
        config: the resolved configuration; `output_dir` is set.
        model: the model, with the weights of `resume_from` where that is given.
        processor: its processor.
        training: what is trained on.
        validation: what is validated on, if anything.
        resume_from: a verified checkpoint to go on from.
        world: the processes of the run; all call this with the same arguments; None: this one is alone.
        read_samples: reads a few samples with the model as it is, every `sample_steps`.
        base: of a model with adapters: what they were added to; checkpoints then hold what is trained, and its name.

    Raises:
        ParsitError: a loss or gradient that is not finite; nothing was updated with it.
        InputError: the checkpoint belongs to other data, or a sample cannot be read.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    assert config.output_dir is not None
    run = _Run(config, model, processor, training, validation, world or World(device=pick_device()), base)
    state = run.restore(resume_from) if resume_from else TrainState(0, run.fingerprint)
    output_dir = Path(config.output_dir)
    saved_at = state.step if resume_from else -1
    eval_loss = None
    tell = tracker(config.report_to if run.world.is_first else "none", output_dir, config.run_name, state.step)
    tell.start(asdict(config), run.parts)
    with (
        Log(output_dir, state.step, run.total_steps, config.logging_steps, tell, run.world.is_first) as log,
        _stop_signals() as stopped,
    ):
        run.left_out.begin(state.step, log.say, run.world.is_first)
        batches = run.training_batches(state.step)
        for step in range(state.step, run.total_steps):
            entry = run.step(step, batches, bool(stopped))
            stop = run.stop_wanted
            state = replace(state, step=step + 1)
            last = state.step == run.total_steps
            if validation is not None and (last or (config.eval_steps and state.step % config.eval_steps == 0)):
                eval_loss = run.validate()
                entry["eval_loss"] = eval_loss
                is_best = state.best_eval_loss is None or eval_loss < state.best_eval_loss
                log.say(f"step {state.step}: validation loss {eval_loss:.4f}" + (" (best so far)" if is_best else ""))
                if is_best:
                    state = replace(state, best_eval_loss=eval_loss, best_step=state.step)
            if read_samples and config.sample_steps and state.step % config.sample_steps == 0:
                readings, entry["sample_cer"] = run.read(read_samples)
                log.text(state.step, "samples", readings)
            log.write(entry)
            if last or stop or state.step % config.save_steps == 0 or state.best_step == state.step:
                log.sync()
                run.save(output_dir, state)
                saved_at = state.step
            if stop and not last:
                log.say(f"stopped by a signal; saved {checkpoint_path(output_dir, saved_at)}; the same command goes on")
                raise KeyboardInterrupt
    return TrainResult(checkpoint_path(output_dir, saved_at), state.step, eval_loss)


class _Run:
    """The parts of one run, put together in the order that matters: frozen or freed before the optimizer exists."""

    def __init__(
        self,
        config: TrainConfig,
        model: ParsitForConditionalGeneration,
        processor: ParsitProcessor,
        training: DataSet,
        validation: DataSet | None,
        world: World,
        base: BaseModel | None = None,
    ) -> None:
        self.config, self.model, self.processor, self.world = config, model, processor, world
        self.base = base
        self.training, self.validation = training, validation
        torch.manual_seed(config.seed)
        vision_layers = layer_range(config.mm_tunable_vision_layers, "mm_tunable_vision_layers")
        self.parts = set_trainable(model, config.tunable_parts, vision_layers)
        if config.gradient_checkpointing:
            layers = layer_range(config.gradient_checkpointing_layers, "gradient_checkpointing_layers")
            checkpoint_activations(model, layers)
        objective = Objective(model, config.glyph_loss_weight)
        self.flops = step_flops(model)
        trained = trainable(objective).keys()
        if config.packing:
            model.enable_packing()
        if config.torch_compile:
            compile_layers(model)
        work = Work(self.flops.per_token, self.flops.per_token_squared, self.flops.per_tile)
        self.objective = objective.train()
        self.strategy = choose(objective, config, world)
        assert trainable(objective).keys() == trained, "what is trained may not change once the optimizer exists"
        self.peak_flops = peak_flops_of(self.strategy.device)
        # Neighbouring processes that read the same batches; the first of them speaks for their data.
        self.sharing = world.size // self.strategy.data_size
        self.speaks_for_data = world.rank % self.sharing == 0
        per_step = config.gradient_accumulation_steps * self.strategy.data_size
        self.plan = Plan(micro_batches(config, training, work), per_step)
        whole = round(config.num_train_epochs * self.plan.steps_per_epoch)
        self.total_steps = config.max_steps if config.max_steps > 0 else max(whole, 1)
        self.fingerprint = _fingerprint(training, config, per_step)
        self.throughput = Throughput()
        self.left_out = LeftOut(Path(str(config.output_dir)), training, config.max_bad_fraction)

    def training_batches(self, first_step: int) -> Iterator[list[Loaded]]:
        """The micro-batches of this process, step after step from `first_step` on."""
        loader = Loader(
            self.training,
            self.processor,
            self.plan,
            self.total_steps,
            packed=self.config.packing,
            num_workers=self.config.dataloader_num_workers,
            prefetch_factor=self.config.dataloader_prefetch_factor,
            with_glyphs=bool(self.config.glyph_loss_weight),
            rank=self.strategy.data_rank,
            world_size=self.strategy.data_size,
        )
        loader.load_state_dict({"step": first_step})
        return iter(loader)

    def step(self, step: int, batches: Iterator[list[Loaded]], stopped: bool) -> dict[str, float]:
        """One optimizer step; returns its entry for metrics.jsonl.

        Sets `stop_wanted` where any process has been asked to stop: all must leave the loop after the same step.
        """
        started = time.perf_counter()
        loaded = next(batches)
        waited = time.perf_counter() - started
        step_batches = [one.batch for one in loaded]
        findings = [finding for one in loaded for finding in one.left_out]
        work = StepWork.of(step_batches)
        counts, self.stop_wanted = self._agree(step + 1, step_batches, findings, stopped)
        losses = [
            self.strategy.backward(batch, counts, last=number == len(step_batches))
            for number, batch in enumerate(step_batches, 1)
        ]
        language, glyph = self._sum_losses(losses)
        self._require_finite(step, {"loss": language, "glyph_loss": glyph or 0.0})
        norm = self.strategy.update(
            learning_rate_factor(step, self.total_steps, self.config),
            lambda norm: self._require_finite(step, {"grad_norm": norm}),
        )
        self.throughput.add(step_batches, waited)
        rates = self.strategy.learning_rates
        entry = {"step": step + 1, "loss": language, "grad_norm": norm, "learning_rate": max(rates.values())}
        if glyph is not None:
            entry["glyph_loss"] = glyph
        entry |= {f"grad_norm/{part}": value for part, value in self.strategy.part_norms.items()}
        # Processes that share their data share this work as well.
        used = mfu(work, self.flops, time.perf_counter() - started, self.peak_flops, self.sharing)
        if used is not None:
            entry["mfu"] = used
        entry |= {"supervised_tokens": counts.supervised, **self.throughput.take()}
        entry["left_out"] = len(self.left_out)
        entry["peak_memory_bytes"] = peak_memory_bytes(self.strategy.device)
        return entry

    def _agree(
        self, step: int, batches: list[Batch], findings: list[Finding], stopped: bool
    ) -> tuple[StepCounts, bool]:
        """What all processes must know before the step: the counts of all, what was left out, whether to stop."""
        mine = StepCounts.of(batches)
        counted = self._of_data([mine.supervised, mine.glyphs, len(findings)])
        supervised, glyphs, left_out, stops = self.world.sum([*counted, float(stopped)])
        if left_out:
            self.left_out.add(step, self._all_findings(findings))
        return StepCounts(int(supervised), int(glyphs)), stops > 0

    def _of_data(self, values: list[float]) -> list[float]:
        """Numbers of this process's data, to be summed over all processes: of those that share data one counts."""
        return values if self.speaks_for_data else [0.0] * len(values)

    def _all_findings(self, findings: list[Finding]) -> list[Finding]:
        """What was left out of all processes' data."""
        mine = findings if self.speaks_for_data else []
        return [finding for part in self.world.gather(mine) for finding in part]

    def _sum_losses(self, losses: list[Losses]) -> tuple[float, float | None]:
        """The step's language-model loss and glyph loss, over all processes."""
        glyphs = [share.glyph for share in losses if share.glyph is not None]
        sums = [sum(float(share.language) for share in losses), sum(float(glyph) for glyph in glyphs)]
        language, glyph = self.world.sum(self._of_data(sums))
        return language, glyph if glyphs else None

    def _require_finite(self, step: int, values: dict[str, float]) -> None:
        broken = [f"{name} is {value}" for name, value in values.items() if value - value != 0]
        if broken:
            raise ParsitError(
                f"step {step + 1}: {', '.join(broken)}; stopped before the update. The weights are those of "
                f"step {step}: lower --learning_rate, check the data of this step, or resume from the last checkpoint"
            )

    def read(self, read_samples: ReadSamples) -> tuple[str, float]:
        """What the model makes of a few samples now. All processes read the same ones, so that none waits."""
        self.objective.eval()
        with self.strategy.reading(), torch.no_grad():
            result = read_samples(self.model)
        self.objective.train()
        return result

    @torch.no_grad()
    def validate(self) -> float:
        """Nats per supervised token over the validation set."""
        assert self.validation is not None
        self.objective.eval()
        data, strategy = self.validation, self.strategy
        plan = Plan(Padded(data.num_tokens, data.num_tiles, self.config.per_device_eval_batch_size), strategy.data_size)
        loader = Loader(
            data,
            self.processor,
            plan,
            plan.steps_per_epoch,
            rank=strategy.data_rank,
            world_size=strategy.data_size,
        )
        nats, tokens = 0.0, 0.0
        findings: list[Finding] = []
        for loaded in loader:
            for one in loaded:
                findings += one.left_out
                # Counts of one: the sums themselves.
                nats += float(strategy.forward(one.batch, StepCounts(1, 1)).language)
                tokens += one.batch.num_supervised
        self.objective.train()
        nats, tokens, broken = self.world.sum(self._of_data([nats, tokens, len(findings)]))
        self.left_out.require_none(self._all_findings(findings) if broken else [])
        return nats / max(tokens, 1)

    def save(self, output_dir: Path, state: TrainState) -> None:
        """Write a checkpoint, then say which is best and delete what is too old. Called by all processes at once."""
        trained = {name for name, _ in self.strategy.named_trained()}
        wanted = trained.__contains__ if self.base else lambda name: True
        whole = self.strategy.state_dict(wanted)
        own = {name: value for name, value in whole.items() if not name.startswith("model.")}
        rng = {
            f"{key}-{rank}": v for rank, part in enumerate(self.world.gather(_rng_tensors())) for key, v in part.items()
        }
        saved = SavedState(state, self.strategy.optimizer_tensors(), own, rng)
        model_state = {name.removeprefix("model."): value for name, value in whole.items() if name not in own}

        def begin() -> Path:
            return begin_checkpoint(output_dir, state.step)

        def finish() -> None:
            if self.base is None:
                save_model(self.model, draft, model_state)
            else:
                save_adapters(self.model, draft, self.base, model_state)
            self.processor.save_pretrained(draft)
            finish_checkpoint(draft, output_dir, saved, self.config.to_yaml())
            write_best(output_dir, state)
            prune(output_dir, self.config.save_total_limit, state.best_step)

        try:
            draft = self.world.on_first(begin)
            self.strategy.save_own(draft / STATE_FOLDER)
            self.world.barrier()
            self.world.on_first(finish)
        except OSError as error:
            raise ParsitError(
                f"{output_dir}: cannot write the checkpoint of step {state.step} ({error}); earlier ones are untouched"
            ) from error

    def restore(self, checkpoint: Path) -> TrainState:
        """Put the run where the checkpoint stands (the model's weights are loaded already).

        Raises:
            InputError: the checkpoint was made with other data, or trains other parameters.
        """
        saved = load_state(checkpoint)
        if saved.state.data_fingerprint != self.fingerprint:
            raise InputError(
                f"{checkpoint}: was trained on other data, batch size, accumulation, packing or seed: going on would "
                "repeat or skip samples; give the same ones, or start a new --output_dir with --model_name_or_path"
            )
        try:
            if not self.strategy.load_own(checkpoint / STATE_FOLDER):
                self.strategy.load_optimizer_tensors(saved.optimizer)
        except KeyError as error:
            raise InputError(
                f"{checkpoint}: has no optimizer state for {error}: --mm_tunable_parts, --glyph_loss_weight or "
                "--deepspeed changed"
            ) from error
        self.strategy.load_objective(saved.objective)
        rank = self.world.rank if f"cpu-{self.world.rank}" in saved.rng else 0
        torch.set_rng_state(saved.rng[f"cpu-{rank}"])
        if f"cuda-{rank}" in saved.rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved.rng[f"cuda-{rank}"])
        return saved.state


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _rng_tensors() -> dict[str, torch.Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def micro_batches(config: TrainConfig, data: DataSet, work: Work) -> Packed | Padded:
    """How the run puts its samples together."""
    size = config.per_device_train_batch_size
    if not config.packing:
        return Padded(data.num_tokens, data.num_tiles, size, config.seed, work)
    max_tokens = size * config.model_max_length
    return Packed(data.num_tokens, data.num_tiles, max_tokens, config.max_tiles_per_pack, config.seed, work)


def _fingerprint(training: DataSet, config: TrainConfig, per_step: int) -> str:
    """A digest of all that decides which sample is read at which step; accumulation and processes count together."""
    order = (config.seed, config.per_device_train_batch_size, per_step)
    order += (config.packing, config.packing and config.model_max_length, config.max_tiles_per_pack)
    return hashlib.sha256(training.digest + repr(order).encode()).hexdigest()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is empty until SIGINT or SIGTERM comes; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
