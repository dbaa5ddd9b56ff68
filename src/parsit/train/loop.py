"""The training run, top to bottom.

    begin:    objective -> groups -> strategy; where to resume (`parsit.train.prepare` made what is trained)
    step:     batches -> counts of what is supervised -> forward, backward -> norm -> check -> update
    after:    entry in metrics.jsonl; now and then validation and a checkpoint

A step's loss is the sum over its batches of summed losses over the step's counts (design D5), so
accumulation does not change the gradient. What is not finite stops the run before the update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from parsit.config import layer_range
from parsit.data.content import content_digest
from parsit.data.faults import Finding
from parsit.data.loader import Loaded, Loader
from parsit.data.plan import Plan
from parsit.model.flops import step_flops
from parsit.processing.collate import Batch
from parsit.train.batches import micro_batches_of, num_steps, order_digest, validation_batches
from parsit.train.best import best_so_far, judged
from parsit.train.checkpoint import TrainState, load_state
from parsit.train.compiled import compile_layers
from parsit.train.ema import Ema
from parsit.train.left_out import LeftOut
from parsit.train.metrics import Log, Throughput, peak_memory_bytes
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import learning_rate_factor
from parsit.train.parts import checkpoint_activations, trainable
from parsit.train.prepare import Prepared
from parsit.train.rates import StepWork, mfu, peak_flops_of
from parsit.train.readings import Readings, ReadSamples
from parsit.train.requests import Asked, Requests
from parsit.train.resume import changed_schedule, changed_settings, how_to_go_on, settle
from parsit.train.saving import Saver
from parsit.train.strategies import choose
from parsit.train.trackers import tracker
from parsit.types import InputError, ParsitError


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: its last checkpoint, the steps done, the last validation loss (None without validation).

    `is_whole`: all its steps are done; else the time that `max_hours` gives was up.
    """

    checkpoint: Path
    steps: int
    eval_loss: float | None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's `entry` for metrics.jsonl, and what any process was `asked` before it: all do it after this step."""

    entry: dict[str, float]
    asked: Asked


# Called with the run and the number of steps done, before the first step and after each; by all processes.
OnStep = Callable[["Run", int], None]


def train(
    prepared: Prepared, on_step: OnStep = lambda run, step: None, requests: Requests | None = None
) -> TrainResult:
    """Train a model to the end of its run. All processes call this at once.

    Args:
        prepared: what is trained, on what, from where on.
        on_step: called with the run and the number of steps done, before the first step and after each.
        requests: what asks the run to stop or to save; None: signals, and `max_hours` from now on.

    Raises:
        ParsitError: a loss or gradient that is not finite; nothing was updated with it.
        SaveError: the checkpoint with which the run ends cannot be written.
        InputError: the checkpoint belongs to other data, or a sample cannot be read.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    config = prepared.config
    requests = requests or Requests(config.max_hours)
    run = Run(prepared)
    state, told = run.begin(prepared.checkpoint)
    output_dir = Path(str(config.output_dir))
    eval_loss = None
    tell = tracker(config.report_to if run.world.is_first else "none", output_dir, config.run_name, state.step)
    tell.start(asdict(config), prepared.parts)
    with (
        Log(output_dir, state.step, run.total_steps, config.logging_steps, tell, run.world.is_first) as log,
        Saver(prepared, run.strategy, run.ema) as saver,
        requests.heard(lambda: log.say(_at_once(saver.newest))),
    ):
        for line in told:
            log.say(line)
        run.left_out.begin(state.step, log.say, run.world.is_first)
        state = best_so_far(state, config, run.validation, log.say)
        on_step(run, state.step)
        batches = run.training_batches(state.step)
        for step in range(state.step, run.total_steps):
            result = run.step(step, batches, requests.take(saver.spare_s))
            saver.report(log)
            asked, last = result.asked, step + 1 == run.total_steps
            state = replace(state, step=step + 1)
            ends = last or asked.ends
            due = ends or asked.save or state.step % config.save_steps == 0
            measured = run.measure(state.step, last, prepared.read_samples, log)
            if due or measured:  # which of the best there are must be known before there is one more
                state = saver.settle(state, log)
            eval_loss = measured.get("eval_loss", eval_loss)
            before, state = state, judged(state, measured, config.keep_best, log.say)
            log.write(result.entry | measured)
            if due or state.step in state.best_steps:
                run.strategy.check_replicas(log.say)
                state = saver.save(state, before, log, goes_on=not ends)
            on_step(run, state.step)
            if asked.save:
                state = saver.settle(state, log)
                log.say(f"step {state.step}: asked to save; the newest checkpoint is {saver.last}")
            if ends and not last:
                why = "by a signal" if asked.stop else f"in time for --max_hours {config.max_hours:g}"
                log.say(f"stopped {why}; saved {saver.last}; {how_to_go_on(config)}")
                if asked.stop:
                    raise KeyboardInterrupt
                break
    assert saver.last is not None, "a run ends with a checkpoint"
    return TrainResult(saver.last, state.step, eval_loss, is_whole=state.step >= run.total_steps)


def _at_once(last: Path | None) -> str:
    lost = f"what came after {last} is lost" if last else "nothing was saved yet: all of it is lost"
    return f"stopped at once by a second signal: {lost}"


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
        objective = Objective.of(model, config)
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
        self.content_fingerprint = world.on_first(lambda: content_digest(self.training.samples))
        self.throughput = Throughput()
        self.ema = Ema(self.strategy, config.ema_decay) if config.ema_decay else None
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
            with_line_texts=bool(self.config.ctc_loss_weight),
            rank=self.strategy.data_rank,
            world_size=self.strategy.data_size,
        )
        loader.load_state_dict({"step": first_step})
        return iter(loader)

    def step(self, step: int, batches: Iterator[list[Loaded]], asked: Asked) -> StepResult:
        """One optimizer step.

        Args:
            step: steps done before.
            batches: the micro-batches of one step after another.
            asked: what this process was asked.
        """
        started = time.perf_counter()
        loaded = next(batches)
        waited = time.perf_counter() - started
        step_batches = [one.batch for one in loaded]
        findings = [finding for one in loaded for finding in one.left_out]
        work = StepWork.of(step_batches, self.model.layout)
        counts, asked = self._agree(step + 1, step_batches, findings, asked)
        losses = [
            self.strategy.backward(batch, counts, last=number == len(step_batches))
            for number, batch in enumerate(step_batches, 1)
        ]
        summed = self._sum_losses(losses)
        self._require_finite(step, summed)
        norm = self.strategy.update(
            learning_rate_factor(step, self.total_steps, self.config),
            lambda norm: self._require_finite(step, {"grad_norm": norm}),
        )
        if self.ema:
            self.ema.update(step + 1)
        self.throughput.add(step_batches, waited)
        rates = self.strategy.learning_rates
        entry = {"step": step + 1, "loss": summed["loss"], "grad_norm": norm, "learning_rate": max(rates.values())}
        entry |= summed
        entry |= {f"grad_norm/{part}": value for part, value in self.strategy.part_norms.items()}
        # Processes that share their data share this work as well.
        used = mfu(work, self.flops, time.perf_counter() - started, self.peak_flops, self.sharing)
        if used is not None:
            entry["mfu"] = used
        entry |= {"supervised_tokens": counts.supervised, **self.throughput.take()}
        entry["left_out"] = len(self.left_out)
        entry["peak_memory_bytes"] = peak_memory_bytes(self.strategy.device)
        return StepResult(entry, asked)

    def _agree(
        self, step: int, batches: list[Batch], findings: list[Finding], asked: Asked
    ) -> tuple[StepCounts, Asked]:
        """What all processes must know before the step: the counts of all, what was left out, what is asked."""
        mine = StepCounts.of(batches)
        counted = self._of_data([mine.supervised, mine.glyphs, mine.characters, len(findings)])
        summed = self.world.sum([*counted, *asked.as_numbers()])
        *counts, left_out = map(int, summed[: len(counted)])
        if left_out:
            self.left_out.add(step, self._all_findings(findings))
        return StepCounts(*counts), Asked.of(summed[len(counted) :])

    def _of_data(self, values: list[float]) -> list[float]:
        """Numbers of this process's data, to be summed over all processes: of those that share data one counts."""
        return values if self.speaks_for_data else [0.0] * len(values)

    def _all_findings(self, findings: list[Finding]) -> list[Finding]:
        """What was left out of all processes' data."""
        mine = findings if self.speaks_for_data else []
        return [finding for part in self.world.gather(mine) for finding in part]

    def _sum_losses(self, losses: list[Losses]) -> dict[str, float]:
        """The step's losses over all processes, as metrics.jsonl calls them: those that the run has."""
        names = {"loss": "language", "glyph_loss": "glyph", "ctc_loss": "ctc"}
        names = {name: field for name, field in names.items() if getattr(losses[0], field) is not None}
        sums = [sum(float(getattr(share, field)) for share in losses) for field in names.values()]
        return dict(zip(names, self.world.sum(self._of_data(sums)), strict=True))

    def _require_finite(self, step: int, values: dict[str, float]) -> None:
        broken = [f"{name} is {value}" for name, value in values.items() if value - value != 0]
        if broken:
            raise ParsitError(
                f"step {step + 1}: {', '.join(broken)}; stopped before the update. The weights are those of "
                f"step {step}: lower --learning_rate, check the data of this step, or resume from the last checkpoint"
            )

    def measure(self, step: int, last: bool, read_samples: ReadSamples | None, log: Log) -> dict[str, float]:
        """What is measured after a step, by its names in metrics.jsonl; with the moving average where there is one.

        Args:
            step: optimizer steps done.
            last: the run ends with this one: all that is measured is measured, but for readings that choose nothing.
            read_samples: what reads some samples, if any.
            log: is given what was read.
        """
        config = self.config
        validates = self.validation is not None and (last or (config.eval_steps and step % config.eval_steps == 0))
        chooses = last and config.best_metric != "loss"
        reads = read_samples if config.sample_steps and (step % config.sample_steps == 0 or chooses) else None
        measured: dict[str, float] = {}
        with self.ema.in_place() if self.ema and (validates or reads) else nullcontext():
            if validates:
                measured["eval_loss"] = self.validate()
            if reads:
                readings = self.read(reads)
                measured |= {"sample_cer": readings.cer, "sample_anls": readings.anls}
                log.text(step, "samples", readings.text)
        return measured

    def read(self, read_samples: ReadSamples) -> Readings:
        """What the model makes of a few samples now. All processes read the same ones, so that none waits."""
        self.objective.eval()
        with self.strategy.reading(), torch.no_grad():
            result = read_samples(self.model)
        self.objective.train()
        return result

    @torch.no_grad()
    def validate(self) -> float:
        """Nats per supervised token over the validation set.

        Where the decoder does not run it is what the tower minimises: the mean of the batches' losses.
        """
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
            with_glyphs=not config.language_loss_weight and bool(config.glyph_loss_weight),
            with_line_texts=not config.language_loss_weight and bool(config.ctc_loss_weight),
            rank=strategy.data_rank,
            world_size=strategy.data_size,
        )
        nats, tokens = 0.0, 0.0
        findings: list[Finding] = []
        for loaded in loader:
            for one in loaded:
                findings += one.left_out
                if config.language_loss_weight:  # counts of one: the sums themselves
                    nats += float(strategy.forward(one.batch, StepCounts(1, 1)).language)
                    tokens += one.batch.num_supervised
                elif one.batch.num_samples:
                    loss = strategy.forward(one.batch, StepCounts.of([one.batch])).total
                    nats += float(loss) * one.batch.num_samples
                    tokens += one.batch.num_samples
        self.objective.train()
        nats, tokens, broken = self.world.sum(self._of_data([nats, tokens, len(findings)]))
        self.left_out.require_none(self._all_findings(findings) if broken else [])
        return nats / max(tokens, 1)

    def begin(self, checkpoint: Path | None) -> tuple[TrainState, list[str]]:
        """Where the run stands before its first step here, and what to say of that.

        Raises:
            InputError, ParsitError: as `restore` and `settle`.
        """
        if checkpoint is None:
            return TrainState(0, self.fingerprint, content_fingerprint=self.content_fingerprint), []
        restored = self.restore(checkpoint)
        state, lines = self.world.on_first(lambda: settle(self.config, checkpoint, restored))
        lines += changed_settings(self.config, checkpoint)
        if self.ema and not self._restore_ema(checkpoint, self.ema):
            lines.append(f"{checkpoint}: has no moving average: it begins with the weights of step {state.step}")
        if jump := changed_schedule(self.config, checkpoint, self.plan, state.step):
            lines.append(jump)
        return replace(state, content_fingerprint=self.content_fingerprint), lines

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
        then, now = saved.state.content_fingerprint, self.content_fingerprint
        if then and then != now:  # earlier versions did not look
            raise InputError(
                f"{checkpoint}: texts or images of the training data are no longer those that it was trained on: give "
                "the same ones, or start a new --output_dir with --model_name_or_path"
            )
        try:
            self.strategy.load_optimizer_tensors(saved.optimizer)
        except KeyError as error:
            raise InputError(
                f"{checkpoint}: has no optimizer state for {error}: --mm_tunable_parts or --glyph_loss_weight changed"
            ) from error
        self.strategy.load_objective(saved.objective)
        rank = self.world.rank if f"cpu-{self.world.rank}" in saved.rng else 0
        torch.set_rng_state(saved.rng[f"cpu-{rank}"])
        if f"cuda-{rank}" in saved.rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved.rng[f"cuda-{rank}"])
        return saved.state

    def _restore_ema(self, checkpoint: Path, ema: Ema) -> bool:
        """Take the moving average of a checkpoint, if it has one. Raises `InputError`."""
        try:
            return ema.load(checkpoint, self.model)
        except KeyError as error:
            raise InputError(f"{checkpoint}: its moving average has no {error}: --mm_tunable_parts changed") from error
