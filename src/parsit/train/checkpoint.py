"""Checkpoints that exist or do not (design D7).

A checkpoint is written into a hidden folder beside its place, synced to disk, listed with sizes and
SHA-256 sums in `manifest.json`, and renamed. A folder that carries its final name is therefore
whole, and it is verified again before anything is loaded from it or anything older is deleted.
What lies in a run's folder is said in `parsit.files.run_folder`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from parsit.files.run_folder import CONFIG_FILE, checkpoint_path, name_best, verify, write_manifest
from parsit.files.whole import put_folder, sync, sync_tree

STATE_FOLDER = "train_state"


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands.

    `step`: optimizer steps done. `data_fingerprint`: of the data and the order it is read in.
    `best_eval_loss`, `best_step`: the best validation so far, None before the first. `validated_on`: a digest of what
    is validated on; empty where a run of an older version did not say.
    """

    step: int
    data_fingerprint: str
    best_eval_loss: float | None = None
    best_step: int | None = None
    validated_on: str = ""


@dataclass(frozen=True, slots=True)
class SavedState:
    """`TrainState` with the tensors of the optimizer, the objective's own parameters and the random generators."""

    state: TrainState
    optimizer: dict[str, torch.Tensor]
    objective: dict[str, torch.Tensor]
    rng: dict[str, torch.Tensor]


def begin_checkpoint(output_dir: Path, step: int) -> Path:
    """An empty folder beside the checkpoint's place, with `STATE_FOLDER` in it, for model and state to be written into.

    Raises:
        OSError: the disk is full or not writable; an older checkpoint is not touched.
    """
    draft = output_dir / f".{checkpoint_path(output_dir, step).name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / STATE_FOLDER).mkdir(parents=True)
    return draft


def finish_checkpoint(draft: Path, output_dir: Path, saved: SavedState, config_yaml: str) -> Path:
    """Add the state to a draft that holds the model, verify it, put it in its place, and return that.

    Args:
        draft: what `begin_checkpoint` gave, filled.
        output_dir: the run's folder.
        saved: the run's state.
        config_yaml: the resolved configuration.

    Raises:
        OSError: the disk is full or not writable; an older checkpoint is not touched.
    """
    final = checkpoint_path(output_dir, saved.state.step)
    for name in ("optimizer", "objective", "rng"):
        tensors = {key: value.detach().cpu().contiguous() for key, value in getattr(saved, name).items()}
        save_file(tensors, draft / STATE_FOLDER / f"{name}.safetensors")
    (draft / STATE_FOLDER / "state.json").write_text(json.dumps(asdict(saved.state), indent=2) + "\n", encoding="utf-8")
    (draft / CONFIG_FILE).write_text(config_yaml, encoding="utf-8")
    write_manifest(draft)
    sync_tree(draft)
    problem = verify(draft)
    if problem:
        raise OSError(f"{final}: was written, but does not verify: {problem}")
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
    parts = {name: load_file(folder / f"{name}.safetensors") for name in ("optimizer", "objective", "rng")}
    return SavedState(state, **parts)
