"""The training run, top to bottom.

    begin:    objective -> groups -> strategy; where to resume (`parsit.train.prepare` made what is trained)
    step:     batches -> counts of what is supervised -> forward, backward -> norm -> check -> update
    after:    entry in metrics.jsonl; now and then validation and a checkpoint

A step's loss is the sum over its batches of summed losses over the step's counts (design D5), so
accumulation does not change the gradient. What is not finite stops the run before the update.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from parsit.config import layer_range
from parsit.data.faults import Finding
from parsit.data.loader import Loaded, Loader
from parsit.data.plan import Plan
from parsit.files.run_folder import checkpoint_path, prune
from parsit.model.adapter_files import save_adapters
from parsit.model.flops import step_flops
from parsit.processing.collate import Batch
from parsit.train.batches import micro_batches_of, num_steps, order_digest, validation_batches
from parsit.train.checkpoint import (
    STATE_FOLDER,
    SavedState,
    TrainState,
    begin_checkpoint,
    finish_checkpoint,
    load_state,
    save_model,
    write_best,
)
from parsit.train.compiled import compile_layers
from parsit.train.left_out import LeftOut
from parsit.train.metrics import Log, Throughput, peak_memory_bytes
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import learning_rate_factor
from parsit.train.parts import checkpoint_activations, trainable
from parsit.train.prepare import Prepared
from parsit.train.rates import StepWork, mfu, peak_flops_of
from parsit.train.readings import ReadSamples
from parsit.train.resume import best_so_far, changed_schedule
from parsit.train.strategies import choose
from parsit.train.trackers import tracker
from parsit.types import InputError, ParsitError

# What asks a run to stop: a person, a scheduler, a terminal that closes.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Two signals within so many seconds are one request.
SAME_REQUEST_S = 2.0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: its last checkpoint, the steps done, the last validation loss (None without validation)."""

    checkpoint: Path
    steps: int
    eval_loss: float | None


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's `entry` for metrics.jsonl, and whether any process was asked to stop: all `stop` after this step."""

    entry: dict[str, float]
    stop: bool


# Called with the run and the number of steps done, before the first step and after each; by all processes.
OnStep = Callable[["Run", int], None]


def train(prepared: Prepared, on_step: OnStep = lambda run, step: None) -> TrainResult:
    """Train a model to the end of its run. All processes call this at once.

    Args:
        prepared: what is trained, on what, from where on.
        on_step: called with the run and the number of steps done, before the first step and after each.

    Raises:
        ParsitError: a loss or gradient that is not finite; nothing was updated with it.
        InputError: the checkpoint belongs to other data, or a sample cannot be read.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    config = prepared.config
    run = Run(prepared)
    state = run.restore(prepared.checkpoint) if prepared.checkpoint else TrainState(0, run.fingerprint)
    output_dir = Path(str(config.output_dir))
    saved_at = state.step if prepared.checkpoint else -1
    eval_loss = None
    tell = tracker(config.report_to if run.world.is_first else "none", output_dir, config.run_name, state.step)
    tell.start(asdict(config), prepared.parts)
    with (
        Log(output_dir, state.step, run.total_steps, config.logging_steps, tell, run.world.is_first) as log,
        _stop_signals() as stopped,
    ):
        run.left_out.begin(state.step, log.say, run.world.is_first)
        if prepared.checkpoint and (jump := changed_schedule(config, prepared.checkpoint, run.plan, state.step)):
            log.say(jump)
        state = best_so_far(state, config, run.validation, log.say)
        on_step(run, state.step)
        batches = run.training_batches(state.step)
        for step in range(state.step, run.total_steps):
            result = run.step(step, batches, bool(stopped))
            entry = result.entry
            state = replace(state, step=step + 1)
            last = state.step == run.total_steps
            if run.validation is not None and (last or (config.eval_steps and state.step % config.eval_steps == 0)):
                eval_loss = run.validate()
                entry["eval_loss"] = eval_loss
                is_best = state.best_eval_loss is None or eval_loss < state.best_eval_loss
                log.say(f"step {state.step}: validation loss {eval_loss:.4f}" + (" (best so far)" if is_best else ""))
                if is_best:
                    state = replace(state, best_eval_loss=eval_loss, best_step=state.step)
            if prepared.read_samples and state.step % config.sample_steps == 0:
                readings, entry["sample_cer"] = run.read(prepared.read_samples)
                log.text(state.step, "samples", readings)
            log.write(entry)
            if last or result.stop or state.step % config.save_steps == 0 or state.best_step == state.step:
                log.sync()
                run.strategy.check_replicas(log.say)
                run.save(output_dir, state)
                saved_at = state.step
            on_step(run, state.step)
            if result.stop and not last:
                log.say(f"stopped by a signal; saved {checkpoint_path(output_dir, saved_at)}; the same command goes on")
                raise KeyboardInterrupt
    return TrainResult(checkpoint_path(output_dir, saved_at), state.step, eval_loss)


class Run:
    """The parts of one run, put together in the order that matters: frozen or freed before the optimizer exists."""

    def __init__(self, prepared: Prepared) -> None:
        config, model, world = prepared.config, prepared.model, prepared.world
        self.config, self.model, self.processor, self.world = config, model, prepared.processor, world
        self.base = prepared.base
        self.training, self.validation = prepared.training, prepared.validation
        torch.manual_seed(config.seed)
        if config.gradient_checkpointing:
            layers = layer_range(config.gradient_checkpointing_layers, "gradient_checkpointing_layers")
            checkpoint_activations(model, layers)
        micro_batches = micro_batches_of(config, self.training, model)
        objective = Objective(model, config.glyph_loss_weight)
        self.flops = step_flops(model)
        trained = trainable(objective).keys()
        if config.packing:
            model.enable_packing()
        if config.torch_compile:
            compile_layers(model)
        self.objective = objective.train()
        self.strategy = choose(objective, config, world)
        assert trainable(objective).keys() == trained, "what is trained may not change once the optimizer exists"
        self.peak_flops = peak_flops_of(self.strategy.device)
        # Neighbouring processes that read the same batches; the first of them speaks for their data.
        self.sharing = world.size // self.strategy.data_size
        self.speaks_for_data = world.rank % self.sharing == 0
        per_step = config.gradient_accumulation_steps * self.strategy.data_size
        self.plan = Plan(micro_batches, per_step)
        self.total_steps = num_steps(config, self.plan)
        self.fingerprint = order_digest(config, self.training, per_step)
        self.throughput = Throughput()
        self.left_out = LeftOut(Path(str(config.output_dir)), self.training, config.max_bad_fraction)

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

    def step(self, step: int, batches: Iterator[list[Loaded]], stopped: bool) -> StepResult:
        """One optimizer step.

        Args:
            step: steps done before.
            batches: the micro-batches of one step after another.
            stopped: this process was asked to stop.
        """
        started = time.perf_counter()
        loaded = next(batches)
        waited = time.perf_counter() - started
        step_batches = [one.batch for one in loaded]
        findings = [finding for one in loaded for finding in one.left_out]
        work = StepWork.of(step_batches, self.model.layout)
        counts, stop = self._agree(step + 1, step_batches, findings, stopped)
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
        return StepResult(entry, stop)

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
        data, strategy, config = self.validation, self.strategy, self.config
        plan = Plan(validation_batches(config, data, self.model), strategy.data_size)
        loader = Loader(
            data,
            self.processor,
            plan,
            plan.steps_per_epoch,
            packed=config.packing,
            num_workers=config.dataloader_num_workers,
            prefetch_factor=config.dataloader_prefetch_factor,
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


def _rng_tensors() -> dict[str, torch.Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


@contextmanager
def _stop_signals() -> Iterator[list[float]]:
    """A list that is empty until a request to stop comes; another one, a while later, interrupts at once.

    One request may come twice: to the whole process group, and handed on by what started this process. Outside the main
    thread, which alone hears of signals, the list stays empty; so it does for what is ignored (`nohup`, `&`).
    """
    received: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: object) -> None:
        if received and time.monotonic() > received[0] + SAME_REQUEST_S:
            raise KeyboardInterrupt
        received.append(time.monotonic())

    heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heard}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
