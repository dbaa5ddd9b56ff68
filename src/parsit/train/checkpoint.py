"""Checkpoints that exist or do not (design D7).

A checkpoint is written into a hidden folder beside its place, synced to disk, listed with sizes and
SHA-256 sums in `manifest.json`, and renamed. A folder that carries its final name is therefore
whole, and it is verified again before anything is loaded from it. What fails on the way is one kind
of error, `SaveError`, and costs the draft alone. Each file is hashed once, as it is written.
What lies in a run's folder is said in `parsit.files.run_folder`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from parsit.files.hashed import FileEntry
from parsit.files.manifest import CONFIG_FILE, MANIFEST, STATE_FILE, STATE_FOLDER, verify, write_manifest
from parsit.files.run_folder import checkpoint_path, name_best
from parsit.files.whole import put_folder, sync, sync_tree
from parsit.model.model_files import ModelFiles, Tensors, captured, untied
from parsit.model.weight_files import aligned
from parsit.types import ParsitError

# Besides tensors: configuration, tokenizer, state, manifest.
_SMALL_FILES_BYTES = 2**25
_STATE_PARTS = ("optimizer", "objective", "rng")
WEIGHTS_FILE = "model.safetensors"
# What a best checkpoint is chosen by, and its name in metrics.jsonl.
MEASURED_AS = {"loss": "eval_loss", "cer": "sample_cer", "anls": "sample_anls"}


@dataclass(frozen=True, slots=True)
class Best:
    """A checkpoint that is among the best, by its step, and what was measured there."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands.

    `step`: optimizer steps done. `data_fingerprint`: of the data and the order it is read in.
    `best`: the best so far by `metric` (a key of `MEASURED_AS`), best first; empty before the first measurement.
    `validated_on`: a digest of what is measured on; `content_fingerprint`: of the training data's texts and images
    (`parsit.data.content`). Both are empty where a run of an older version did not say.
    """

    step: int
    data_fingerprint: str
    best: tuple[Best, ...] = ()
    metric: str = "loss"
    validated_on: str = ""
    content_fingerprint: str = ""

    @property
    def best_steps(self) -> tuple[int, ...]:
        """The steps of the best, best first."""
        return tuple(one.step for one in self.best)

    @classmethod
    def of(cls, values: dict[str, Any]) -> TrainState:
        """What state.json holds; an older version kept one best, by its loss."""
        values = dict(values)
        step, loss = values.pop("best_step", None), values.pop("best_eval_loss", None)
        older = () if step is None else (Best(step, loss),)
        best = tuple(Best(**one) for one in values.pop("best", ())) or older
        return cls(**values, best=best)


@dataclass(frozen=True, slots=True)
class SavedState:
    """`TrainState` with the tensors of the optimizer, the objective's own parameters and the random generators."""

    state: TrainState
    optimizer: dict[str, torch.Tensor]
    objective: dict[str, torch.Tensor]
    rng: dict[str, torch.Tensor]


class SaveError(ParsitError):
    """A checkpoint could not be written; those that were there are as they were."""


@contextmanager
def failing_as_one(output_dir: Path, step: int) -> Iterator[None]:
    """Whatever a full, read-only, broken or vanished disk makes of a save inside is a `SaveError` of one line.

    safetensors and torch have errors of their own for it (`SafetensorError`, `RuntimeError`). The draft is removed.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, ParsitError) as error:
        shutil.rmtree(_draft(output_dir, step), ignore_errors=True)
        reason = " ".join(str(error).split())
        raise SaveError(
            f"{output_dir}: the checkpoint of step {step} cannot be written: {reason}; earlier ones are untouched"
        ) from error


def require_room(output_dir: Path, tensors_bytes: int) -> None:
    """Refuse a save that the disk has no room for, before anything is written.

    Raises:
        OSError: how much it takes, and how much is free; or there is no such folder.
    """
    needed, free = tensors_bytes + _SMALL_FILES_BYTES, shutil.disk_usage(output_dir).free
    if free < needed:
        raise OSError(f"it takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free on that disk")


def begin_checkpoint(output_dir: Path, step: int) -> Path:
    """An empty folder beside the checkpoint's place, with `STATE_FOLDER` in it, for model and state to be written into.

    Raises:
        OSError: the disk is full or not writable, or the run's folder is gone; an older checkpoint is not touched.
    """
    draft = _draft(output_dir, step)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    (draft / STATE_FOLDER).mkdir()
    return draft


def _draft(output_dir: Path, step: int) -> Path:
    return output_dir / f".{checkpoint_path(output_dir, step).name}.partial"


def state_files(saved: SavedState, config_yaml: str) -> ModelFiles:
    """What a checkpoint holds besides the model; `config_yaml`: the resolved configuration."""
    small = {STATE_FILE: (json.dumps(asdict(saved.state), indent=2) + "\n").encode(), CONFIG_FILE: config_yaml.encode()}
    return ModelFiles(small, {f"{STATE_FOLDER}/{name}.safetensors": getattr(saved, name) for name in _STATE_PARTS})


def finish_checkpoint(draft: Path, output_dir: Path, step: int, written: Mapping[str, FileEntry]) -> Path:
    """Sync a draft that holds model and state, list it, put it in its place, and return that.

    Args:
        draft: what `begin_checkpoint` gave, filled.
        output_dir: the run's folder.
        step: the checkpoint's.
        written: sizes and checksums of its files, by name; of files that are not in it, the checksum is read.

    Raises:
        OSError: the disk is full or not writable; an older checkpoint is not touched.
    """
    final = checkpoint_path(output_dir, step)
    sync_tree(draft)
    write_manifest(draft, written)
    sync(draft / MANIFEST)
    sync(draft)
    problem = verify(draft, checksums=False)
    if problem:
        raise OSError(f"it was written, but does not verify: {problem}")
    # One of this step may be there: it did not verify, or the run is doing this step again.
    put_folder(draft, final, replaces=True)
    sync(output_dir)
    return final


def write_best(output_dir: Path, state: TrainState) -> None:
    """Say in best.json which checkpoint is best, if one is, and which others are among the best."""
    if state.best:
        name_best(output_dir, MEASURED_AS[state.metric], [(one.step, one.value) for one in state.best])


def model_files(state: Tensors, small: Mapping[str, bytes]) -> ModelFiles:
    """A whole model's folder: its weights in one file, and the `small` files that do not change in a run."""
    return ModelFiles(dict(small), {WEIGHTS_FILE: untied(state)})


def small_model_files(model: PreTrainedModel, saved_as: torch.dtype) -> dict[str, bytes]:
    """Configuration files of a model whose weights are saved in a type, whatever the model itself holds now."""
    files = captured(lambda folder: model.save_pretrained(folder, state_dict={}))
    # transformers notes the type of what the model holds, and would load the file in that type.
    config = json.loads(files["config.json"])
    config["dtype" if "dtype" in config else "torch_dtype"] = str(saved_as).removeprefix("torch.")
    return files | {"config.json": (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()}


def load_state(checkpoint: Path) -> SavedState:
    """The state in a verified checkpoint."""
    folder = checkpoint / STATE_FOLDER
    state = TrainState.of(json.loads((folder / "state.json").read_text(encoding="utf-8")))
    return SavedState(state, **{name: _tensors(folder / f"{name}.safetensors") for name in _STATE_PARTS})


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    return {name: aligned(tensor) for name, tensor in load_file(file).items()}
