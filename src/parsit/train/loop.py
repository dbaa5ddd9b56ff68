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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from parsit.config import TrainConfig
from parsit.data.dataset import DataSet
from parsit.data.loader import Loader
from parsit.data.plan import Packed, Padded, Plan, Work
from parsit.model import ParsitForConditionalGeneration
from parsit.model.flops import step_flops
from parsit.processing.collate import Batch
from parsit.processing.processor import ParsitProcessor
from parsit.train.checkpoint import (
    SavedState,
    TrainState,
    checkpoint_path,
    load_state,
    prune,
    save_checkpoint,
    write_best,
)
from parsit.train.left_out import LeftOut
from parsit.train.metrics import Log, Throughput, peak_memory_bytes
from parsit.train.objective import Losses, Objective, StepCounts
from parsit.train.optimizer import groups_of, learning_rate_factor
from parsit.train.parts import set_tunable
from parsit.train.strategy import SingleDevice
from parsit.types import InputError, ParsitError


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
) -> TrainResult:
    """Train `model` as `config` says.

    Args:
        config: the resolved configuration; `output_dir` is set.
        model: the model, with the weights of `resume_from` where that is given.
        processor: its processor.
        training: what is trained on.
        validation: what is validated on, if anything.
        resume_from: a verified checkpoint to go on from.

    Raises:
        ParsitError: a loss or gradient that is not finite; nothing was updated with it.
        InputError: the checkpoint belongs to other data, or a sample cannot be read.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    assert config.output_dir is not None
    run = _Run(config, model, processor, training, validation)
    state = run.restore(resume_from) if resume_from else TrainState(0, run.fingerprint)
    output_dir = Path(config.output_dir)
    saved_at = state.step if resume_from else -1
    eval_loss = None
    tensorboard = config.report_to == "tensorboard"
    with (
        Log(output_dir, state.step, run.total_steps, config.logging_steps, tensorboard) as log,
        _stop_signals() as stopped,
    ):
        run.left_out.begin(state.step, log.say)
        batches = run.training_batches(state.step)
        for step in range(state.step, run.total_steps):
            entry = run.step(step, batches)
            state = replace(state, step=step + 1)
            last = state.step == run.total_steps
            if validation is not None and (last or (config.eval_steps and state.step % config.eval_steps == 0)):
                eval_loss = run.validate()
                entry["eval_loss"] = eval_loss
                is_best = state.best_eval_loss is None or eval_loss < state.best_eval_loss
                log.say(f"step {state.step}: validation loss {eval_loss:.4f}" + (" (best so far)" if is_best else ""))
                if is_best:
                    state = replace(state, best_eval_loss=eval_loss, best_step=state.step)
            log.write(entry)
            if last or stopped or state.step % config.save_steps == 0 or state.best_step == state.step:
                log.sync()
                run.save(output_dir, state)
                saved_at = state.step
            if stopped and not last:
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
    ) -> None:
        self.config, self.model, self.processor = config, model, processor
        self.training, self.validation = training, validation
        torch.manual_seed(config.seed)
        set_tunable(model, config.tunable_parts)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        objective = Objective(model, config.glyph_loss_weight)
        self.strategy = SingleDevice(objective, groups_of(objective, config), config)
        self.objective = objective.train()
        if config.packing:
            model.enable_packing()
        self.plan = Plan(_micro_batches(config, training, _work(model)), config.gradient_accumulation_steps)
        whole = round(config.num_train_epochs * self.plan.steps_per_epoch)
        self.total_steps = config.max_steps if config.max_steps > 0 else max(whole, 1)
        self.fingerprint = _fingerprint(training, config)
        self.throughput = Throughput()
        self.left_out = LeftOut(Path(str(config.output_dir)), training, config.max_bad_fraction)

    def training_batches(self, first_step: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step from `first_step` on; what had to be left out of them is told."""
        loader = Loader(
            self.training,
            self.processor,
            self.plan,
            self.total_steps,
            packed=self.config.packing,
            num_workers=self.config.dataloader_num_workers,
            prefetch_factor=self.config.dataloader_prefetch_factor,
            with_glyphs=bool(self.config.glyph_loss_weight),
        )
        loader.load_state_dict({"step": first_step})
        for step, loaded in enumerate(loader, first_step + 1):
            self.left_out.add(step, [finding for one in loaded for finding in one.left_out])
            yield [one.batch for one in loaded]

    def step(self, step: int, batches: Iterator[list[Batch]]) -> dict[str, float]:
        """One optimizer step; returns its entry for metrics.jsonl."""
        started = time.perf_counter()
        step_batches = next(batches)
        waited = time.perf_counter() - started
        counts = StepCounts.of(step_batches)
        losses = []
        for batch in step_batches:
            share = self.strategy.forward(batch, counts)
            share.total.backward()
            losses.append(share)
        language, glyph = _sum_losses(losses)
        norm = float(self.strategy.clip())
        self._require_finite(step, language, glyph, norm)
        self.strategy.step(learning_rate_factor(step, self.total_steps, self.config))
        self.throughput.add(step_batches, waited)
        rates = self.strategy.learning_rates
        entry = {"step": step + 1, "loss": language, "grad_norm": norm, "learning_rate": max(rates.values())}
        if glyph is not None:
            entry["glyph_loss"] = glyph
        entry |= {"supervised_tokens": counts.supervised, **self.throughput.take()}
        entry["left_out"] = len(self.left_out)
        entry["peak_memory_bytes"] = peak_memory_bytes(self.strategy.device)
        return entry

    def _require_finite(self, step: int, language: float, glyph: float | None, norm: float) -> None:
        values = {"loss": language, "glyph_loss": glyph or 0.0, "grad_norm": norm}
        broken = [f"{name} is {value}" for name, value in values.items() if value - value != 0]
        if broken:
            raise ParsitError(
                f"step {step + 1}: {', '.join(broken)}; stopped before the update. The weights are those of "
                f"step {step}: lower --learning_rate, check the data of this step, or resume from the last checkpoint"
            )

    @torch.no_grad()
    def validate(self) -> float:
        """Nats per supervised token over the validation set."""
        assert self.validation is not None
        self.objective.eval()
        data = self.validation
        plan = Plan(Padded(data.num_tokens, data.num_tiles, self.config.per_device_eval_batch_size), 1)
        nats, tokens = 0.0, 0
        for (loaded,) in Loader(data, self.processor, plan, plan.steps_per_epoch):
            self.left_out.require_none(loaded.left_out)
            batch = loaded.batch
            with self.strategy.autocast():
                output = self.model(**batch.to(self.strategy.device).model_inputs(), num_items_in_batch=1)
            nats += float(output.loss)
            tokens += batch.num_supervised
        self.objective.train()
        return nats / max(tokens, 1)

    def save(self, output_dir: Path, state: TrainState) -> None:
        """Write a checkpoint, then say which is best and delete what is too old."""
        own = {key: value for key, value in self.objective.state_dict().items() if not key.startswith("model.")}
        saved = SavedState(state, self.strategy.optimizer_tensors(), own, _rng_tensors())
        try:
            save_checkpoint(output_dir, saved, self.config.to_yaml(), self._save_model)
        except OSError as error:
            raise ParsitError(
                f"{output_dir}: cannot write the checkpoint of step {state.step} ({error}); earlier ones are untouched"
            ) from error
        write_best(output_dir, state)
        prune(output_dir, self.config.save_total_limit, state.best_step)

    def _save_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def restore(self, checkpoint: Path) -> TrainState:
        """Put the run where the checkpoint stands (the model's weights are loaded already).

        Raises:
            InputError: the checkpoint was made with other data, or trains other parameters.
        """
        saved = load_state(checkpoint)
        if saved.state.data_fingerprint != self.fingerprint:
            raise InputError(
                f"{checkpoint}: was trained on other data, batch size, accumulation or seed: going on would repeat or "
                "skip samples; give the same ones, or start a new --output_dir with --model_name_or_path"
            )
        try:
            self.strategy.load_optimizer_tensors(saved.optimizer)
        except KeyError as error:
            raise InputError(
                f"{checkpoint}: has no optimizer state for {error}: --mm_tunable_parts or --glyph_loss_weight changed"
            ) from error
        self.objective.load_state_dict(saved.objective, strict=False)
        torch.set_rng_state(saved.rng["cpu"])
        if "cuda" in saved.rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved.rng["cuda"])
        return saved.state


def _sum_losses(losses: list[Losses]) -> tuple[float, float | None]:
    """The step's language-model loss and glyph loss."""
    glyphs = [share.glyph for share in losses if share.glyph is not None]
    return sum(float(share.language) for share in losses), sum(float(g) for g in glyphs) if glyphs else None


def _rng_tensors() -> dict[str, torch.Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _work(model: ParsitForConditionalGeneration) -> Work:
    flops = step_flops(model)
    return Work(flops.per_token, flops.per_token_squared, flops.per_tile)


def _micro_batches(config: TrainConfig, data: DataSet, work: Work) -> Packed | Padded:
    size = config.per_device_train_batch_size
    if not config.packing:
        return Padded(data.num_tokens, data.num_tiles, size, config.seed, work)
    max_tokens = size * config.model_max_length
    return Packed(data.num_tokens, data.num_tiles, max_tokens, config.max_tiles_per_pack, config.seed, work)


def _fingerprint(training: DataSet, config: TrainConfig) -> str:
    """A digest of all that decides which sample is read at which step."""
    order = (config.seed, config.per_device_train_batch_size, config.gradient_accumulation_steps)
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
