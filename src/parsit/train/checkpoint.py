"""Checkpoints that exist or do not (design D7).

A checkpoint is written into a hidden folder beside its place, synced to disk, listed with sizes and
SHA-256 sums in `manifest.json`, and renamed. A folder that carries its final name is therefore
whole, and it is verified again before anything is loaded from it. What fails on the way is one kind
of error, `SaveError`, and costs the draft alone.
What lies in a run's folder is said in `parsit.files.run_folder`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from parsit.files.manifest import CONFIG_FILE, MANIFEST, STATE_FILE, STATE_FOLDER, verify, write_manifest
from parsit.files.run_folder import checkpoint_path, name_best
from parsit.files.whole import put_folder, sync, sync_tree
from parsit.model.weight_files import aligned
from parsit.types import ParsitError

# Besides tensors: configuration, tokenizer, state, manifest.
_SMALL_FILES_BYTES = 2**25
_STATE_PARTS = ("optimizer", "objective", "rng")


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands.

    `step`: optimizer steps done. `data_fingerprint`: of the data and the order it is read in.
    `best_eval_loss`, `best_step`: the best validation so far, None before the first. `validated_on`: a digest of what
    is validated on; `content_fingerprint`: of the training data's texts and images (`parsit.data.content`). Both are
    empty where a run of an older version did not say.
    """

    step: int
    data_fingerprint: str
    best_eval_loss: float | None = None
    best_step: int | None = None
    validated_on: str = ""
    content_fingerprint: str = ""


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


def finish_checkpoint(draft: Path, output_dir: Path, saved: SavedState, config_yaml: str) -> Path:
    """Add the state to a draft that holds the model, sync it, list it, put it in its place, and return that.

    The checksums are of what is read back after the files were synced; each file is read once.

    Args:
        draft: what `begin_checkpoint` gave, filled.
        output_dir: the run's folder.
        saved: the run's state.
        config_yaml: the resolved configuration.

    Raises:
        OSError, SafetensorError: the disk is full or not writable; an older checkpoint is not touched.
    """
    final = checkpoint_path(output_dir, saved.state.step)
    for name in _STATE_PARTS:
        tensors = {key: value.detach().cpu().contiguous() for key, value in getattr(saved, name).items()}
        save_file(tensors, draft / STATE_FOLDER / f"{name}.safetensors")
    (draft / STATE_FILE).write_text(json.dumps(asdict(saved.state), indent=2) + "\n", encoding="utf-8")
    (draft / CONFIG_FILE).write_text(config_yaml, encoding="utf-8")
    sync_tree(draft)
    write_manifest(draft)
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
    """Say in best.json which checkpoint validated best, if one has."""
    if state.best_step is not None:
        name_best(output_dir, state.best_step, state.best_eval_loss)


def save_model(model: PreTrainedModel, folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write the model's files with the weights of `state`, all of one type, whatever the model itself holds now."""
    (saved,) = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    model.save_pretrained(folder, state_dict=state)  # which empties it
    # transformers notes the type of what the model holds, and would load the file in that type.
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype" if "dtype" in config else "torch_dtype"] = saved
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_state(checkpoint: Path) -> SavedState:
    """The state in a verified checkpoint."""
    folder = checkpoint / STATE_FOLDER
    state = TrainState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
    return SavedState(state, **{name: _tensors(folder / f"{name}.safetensors") for name in _STATE_PARTS})


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    return {name: aligned(tensor) for name, tensor in load_file(file).items()}
