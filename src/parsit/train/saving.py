"""A run's checkpoints while it goes: gathered, written, the best one named, old ones deleted; and what fails is said.

A save that fails costs its draft alone. Where the run can go on it does, and tries again at the next occasion; where it
ends, the error says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from parsit.files.run_folder import Retention, checkpoint_path
from parsit.model.adapter_files import save_adapters
from parsit.train.checkpoint import (
    SavedState,
    SaveError,
    TrainState,
    begin_checkpoint,
    failing_as_one,
    finish_checkpoint,
    require_room,
    save_model,
    write_best,
)
from parsit.train.prepare import Prepared
from parsit.train.strategies.base import Strategy

Tensors = dict[str, torch.Tensor]


class Saver:
    """Writes a run's checkpoints; all processes call it at once.

    Args:
        prepared: the run.
        strategy: holds its weights and the optimizer's state.
    """

    def __init__(self, prepared: Prepared, strategy: Strategy) -> None:
        self.config, self.world, self.model = prepared.config, prepared.world, prepared.model
        self.processor, self.base, self.strategy = prepared.processor, prepared.base, strategy
        self.output_dir = Path(str(prepared.config.output_dir))
        self.retention = Retention(self.output_dir, prepared.config.save_total_limit)
        # The newest checkpoint, to begin with the one that the run goes on from; None: there is none yet.
        self.last: Path | None = prepared.checkpoint

    def try_save(self, state: TrainState, sync: Callable[[], None], say: Callable[[str], None], goes_on: bool) -> bool:
        """Save, or say why that failed; whether it was done.

        Args:
            state: where the run stands.
            sync: forces the run's record onto the disk, on the first process, so that it is never behind a checkpoint.
            say: told of a failure.
            goes_on: False: the run ends here.

        Raises:
            SaveError: it failed where the run ends.
        """
        try:
            self.save(state, sync)
        except SaveError as error:
            if goes_on:
                say(f"step {state.step}: {error}; the run goes on and tries again at the next save")
                return False
            rest = f"the steps after {self.last} are lost" if self.last else "the run is lost"
            raise SaveError(
                f"{error}; {rest}: make room, or mend the folder, and give the same command again"
            ) from error
        self.last = checkpoint_path(self.output_dir, state.step)
        return True

    def save(self, state: TrainState, sync: Callable[[], None] = lambda: None) -> None:
        """Write a checkpoint, then say which is best and delete what is too old.

        Raises:
            SaveError: it cannot be written; the same on all processes.
        """
        trained = {name for name, _ in self.strategy.named_trained()}
        wanted = trained.__contains__ if self.base else lambda name: True
        whole = self.strategy.state_dict(wanted)
        own = {name: value for name, value in whole.items() if not name.startswith("model.")}
        rng = {
            f"{key}-{rank}": v for rank, part in enumerate(self.world.gather(rng_tensors())) for key, v in part.items()
        }
        saved = SavedState(state, self.strategy.optimizer_tensors(), own, rng)

        def begin() -> Path:
            with failing_as_one(self.output_dir, state.step):
                sync()
                require_room(self.output_dir, _num_bytes(whole, saved.optimizer))
                return begin_checkpoint(self.output_dir, state.step)

        def finish() -> None:
            with failing_as_one(self.output_dir, state.step):
                self._write(draft, saved, {name: value for name, value in whole.items() if name not in own})
                write_best(self.output_dir, state)
                self.retention.prune(state.step, state.best_step)

        draft = self.world.on_first(begin)
        self.world.on_first(finish)

    def _write(self, draft: Path, saved: SavedState, model_state: Tensors) -> None:
        state = {name.removeprefix("model."): value for name, value in model_state.items()}
        if self.base is None:
            save_model(self.model, draft, state)
        else:
            save_adapters(self.model, draft, self.base, state)
        self.processor.save_pretrained(draft)
        finish_checkpoint(draft, self.output_dir, saved, self.config.to_yaml())


def rng_tensors() -> Tensors:
    """The state of this process's random generators."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _num_bytes(*groups: Tensors) -> int:
    """Of the tensors of several groups, tied ones once."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for group in groups for t in group.values()}.values())
