"""A run's checkpoints while it goes: gathered, written, the best ones named, old ones deleted; and what fails is said.

With `--async_save` training waits while tensors are gathered and copied, and goes on while a thread of the first
process writes, hashes and syncs them, and then prunes. One save is in flight at most: the next one, a validation that
may name a best checkpoint, a request to save and the run's end wait for it, and only then do all processes learn how it
went.

A save that fails costs its draft alone. Where the run can go on it does, and tries again at the next occasion; where it
ends, the error says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import torch

from parsit.files.hashed import FileEntry
from parsit.files.manifest import EMA_FOLDER
from parsit.files.run_folder import Retention, checkpoint_path
from parsit.model.adapter_files import adapter_files
from parsit.model.model_files import ModelFiles, Tensors, captured
from parsit.train.background import Background, GoOn
from parsit.train.checkpoint import (
    SavedState,
    SaveError,
    TrainState,
    begin_checkpoint,
    failing_as_one,
    finish_checkpoint,
    model_files,
    require_room,
    small_model_files,
    state_files,
    write_best,
)
from parsit.train.ema import Ema, replaced
from parsit.train.metrics import Log
from parsit.train.prepare import Prepared
from parsit.train.strategies.base import Strategy
from parsit.train.world import local

_MODEL = "model."


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a checkpoint holds in tensors, whole, on the first process.

    `model`: the model's state by the model's names, of what is saved of it; `average`: the same with the moving average
    of the weights, empty without one.
    """

    saved: SavedState
    model: Tensors
    average: Tensors

    @property
    def num_bytes(self) -> int:
        """Of the tensors that are written; tied ones count once."""
        groups = (self.model, self.saved.optimizer, self.saved.objective), (self.average,)
        return sum(
            sum({id(t): t.numel() * t.element_size() for tensors in group for t in tensors.values()}.values())
            for group in groups
        )


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A save whose end was not waited for: its state, and the best of the run before it."""

    state: TrainState
    before: TrainState


class Saver:
    """Writes a run's checkpoints; all processes call it at once.

        with Saver(prepared, strategy, ema) as saver:
            state = saver.save(state, before, log, goes_on=True)
            state = saver.settle(state, log, goes_on=False)

    Left by an error it finishes the save in flight first; left by a second signal it gives that up.

    Args:
        prepared: the run.
        strategy: holds its weights and the optimizer's state.
        ema: the moving average of its weights, if it has one.
    """

    def __init__(self, prepared: Prepared, strategy: Strategy, ema: Ema | None = None) -> None:
        self.config, self.world, self.model = prepared.config, prepared.world, prepared.model
        self.processor, self.base, self.strategy, self.ema = prepared.processor, prepared.base, strategy, ema
        self.output_dir = Path(str(prepared.config.output_dir))
        self.retention = Retention(self.output_dir, prepared.config.save_total_limit)
        # The newest checkpoint, to begin with the one that the run goes on from; None: there is none yet.
        self.last: Path | None = prepared.checkpoint
        # The longest that a save took from its beginning to its end; 0 where another process writes.
        self.longest_s = 0.0
        self._small: dict[str, bytes] = {}
        self._background = Background()
        self._in_flight: _InFlight | None = None
        self._is_told = False

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._background.give_up()
            return
        try:
            self._background.wait()
        except SaveError:
            if error is None:
                raise

    @property
    def spare_s(self) -> float:
        """Seconds that a run's end takes besides its step: for the save in flight, and for the last one."""
        return 2 * self.longest_s if self.config.async_save else 0.0

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that is whole now, as far as this process knows."""
        flight = self._in_flight
        if flight and self.world.is_first and self._background.is_done and self._background.error is None:
            return checkpoint_path(self.output_dir, flight.state.step)
        return self.last

    def save(self, state: TrainState, before: TrainState, log: Log, goes_on: bool) -> TrainState:
        """Save, or begin to; the state to go on with. The save before has been settled.

        Args:
            state: where the run stands.
            before: the same with the best as they were before this step, which are the best again if the save fails.
            log: the run's record, which is never behind a checkpoint; told of a failure.
            goes_on: False: the run ends here.

        Raises:
            SaveError: it failed where the run ends.
        """
        assert self._in_flight is None, "the save before was not waited for"
        self._in_flight = _InFlight(state, before)
        try:
            self.begin(state, log.sync)
        except SaveError as error:
            return self._failed(state, error, log, goes_on)
        return state if self.config.async_save and goes_on else self.settle(state, log, goes_on)

    def settle(self, state: TrainState, log: Log, goes_on: bool = True) -> TrainState:
        """Wait for the save in flight; the state to go on with. Arguments and errors are those of `save`."""
        if self._in_flight is None:
            return state
        try:
            self.world.on_first(self._background.wait)
        except SaveError as error:
            return self._failed(state, error, log, goes_on)
        self.last = checkpoint_path(self.output_dir, self._in_flight.state.step)
        self._in_flight = None
        return state

    def report(self, log: Log) -> None:
        """Say at once, on the first process, that the save in flight has failed; `settle` tells the others later."""
        flight, error = self._in_flight, self._background.error
        if flight and isinstance(error, SaveError) and not self._is_told:
            log.say(_told(flight.state.step, error))
            self._is_told = True

    def _failed(self, state: TrainState, error: SaveError, log: Log, goes_on: bool) -> TrainState:
        """Say it, or raise it; what could not be kept is not among the best."""
        flight, is_told = self._in_flight, self._is_told
        assert flight is not None
        self._in_flight, self._is_told = None, False
        if goes_on:
            if not is_told:
                log.say(_told(flight.state.step, error))
            return replace(state, best=flight.before.best)
        rest = f"the steps after {self.last} are lost" if self.last else "the run is lost"
        raise SaveError(f"{error}; {rest}: make room, or mend the folder, and give the same command again") from error

    def begin(self, state: TrainState, sync: Callable[[], None] = lambda: None) -> None:
        """Gather all that a checkpoint holds, and begin to write it; `finish` of it is waited for by `settle`.

        Raises:
            SaveError: it cannot be begun; the same on all processes.
        """
        started = time.monotonic()
        gathered = self._gather(state)

        def prepare_draft() -> Path:
            with failing_as_one(self.output_dir, state.step):
                sync()
                self._make_small_files()
                require_room(self.output_dir, gathered.num_bytes)
                return begin_checkpoint(self.output_dir, state.step)

        draft = self.world.on_first(prepare_draft)
        if not self.world.is_first:
            return

        def work(go_on: GoOn) -> None:
            with failing_as_one(self.output_dir, state.step):
                written = self._files(draft, gathered).write(draft, go_on)
                self._finish(draft, state, written)
            self.longest_s = max(self.longest_s, time.monotonic() - started)

        self._background.start(work)

    def wait(self) -> None:
        """Wait on this process for what it writes, and raise what that raised."""
        self._background.wait()

    def _gather(self, state: TrainState) -> Gathered:
        """What all processes hold, on the first one; nothing of it changes any more when training goes on."""
        trained = {name for name, _ in self.strategy.named_trained()}
        wanted = trained.__contains__ if self.base else lambda name: True
        whole = self.strategy.state_dict(wanted)
        optimizer = self.strategy.optimizer_tensors()
        average = self.ema.whole() if self.ema else {}
        rng = {
            f"{key}-{rank}": v for rank, part in enumerate(self.world.gather(rng_tensors())) for key, v in part.items()
        }
        averaged = replaced(whole, average) if average else {}
        if self.config.async_save:
            copy = _Copies(self._changing())
            whole, optimizer, averaged = copy(whole), copy(optimizer), copy(averaged)
        own = {name: value for name, value in whole.items() if not name.startswith(_MODEL)}
        return Gathered(SavedState(state, optimizer, own, rng), _of_model(whole), _of_model(averaged))

    def _changing(self) -> set[int]:
        """Where the memory of what training changes lies, on this process."""
        tensors = [parameter for _, parameter in self.strategy.named_trained()]
        tensors += [*self.strategy.lower_halves.values(), *self.strategy.objective.buffers()]
        for optimizer in self.strategy.optimizers:
            if isinstance(optimizer, torch.optim.Optimizer):  # DeepSpeed's state is gathered: that is a copy
                tensors += [value for values in optimizer.state.values() for value in values.values()]
        if self.ema:
            tensors += self.ema.averages
        return {local(tensor).untyped_storage().data_ptr() for tensor in tensors}

    def _make_small_files(self) -> None:
        """Configuration and processor, which do not change in a run, once. Adapters have a configuration themselves."""
        if not self._small:
            own = {} if self.base else small_model_files(self.model, torch.float32)
            self._small = own | captured(self.processor.save_pretrained)

    def _files(self, draft: Path, gathered: Gathered) -> ModelFiles:
        """All files of a checkpoint but its manifest."""
        files = self._model_files(draft, gathered.model)
        if gathered.average:
            files |= self._model_files(draft / EMA_FOLDER, gathered.average).under(EMA_FOLDER)
        return files | state_files(gathered.saved, self.config.to_yaml())

    def _model_files(self, folder: Path, state: Tensors) -> ModelFiles:
        if self.base is None:
            return model_files(state, self._small)
        return ModelFiles(self._small, {}) | adapter_files(self.model, folder, self.base, state)

    def _finish(self, draft: Path, state: TrainState, written: dict[str, FileEntry]) -> None:
        finish_checkpoint(draft, self.output_dir, state.step, written)
        write_best(self.output_dir, state)
        self.retention.prune(state.step, state.best_steps)


class _Copies:
    """Copies of the tensors of a state that lie in memory which training changes; tied ones stay one tensor."""

    def __init__(self, changing: set[int]) -> None:
        self._changing = changing
        self._made: dict[int, torch.Tensor] = {}

    def __call__(self, tensors: Tensors) -> Tensors:
        return {name: self._still(tensor) for name, tensor in tensors.items()}

    def _still(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in self._changing:
            return tensor
        if id(tensor) not in self._made:
            self._made[id(tensor)] = tensor.detach().clone()
        return self._made[id(tensor)]


def rng_tensors() -> Tensors:
    """The state of this process's random generators."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _told(step: int, error: SaveError) -> str:
    return f"step {step}: {error}; the run goes on and tries again at the next save"


def _of_model(state: Tensors) -> Tensors:
    """The entries of the model in the objective's state, by the model's own names."""
    return {name.removeprefix(_MODEL): value for name, value in state.items() if name.startswith(_MODEL)}
