"""Checkpoints that exist or do not (design D7).

A checkpoint is written into a hidden folder beside its place, synced to disk, listed with sizes and
SHA-256 sums in `manifest.json`, and renamed. A folder that carries its final name is therefore
whole, and it is verified again before anything is loaded from it or anything older is deleted.

    output_dir/
      checkpoint-500/
        config.json, model.safetensors, tokenizer.json, …   an ordinary Hugging Face folder
        train_state/                                         what resuming needs besides
        train_config.yaml                                    the resolved configuration
        manifest.json                                        every file with its size and checksum
      best.json                                              which checkpoint validated best
      metrics.jsonl
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from parsit.types import InputError
from parsit.types.files import write_whole

MANIFEST = "manifest.json"
STATE_FOLDER = "train_state"


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands.

    `step`: optimizer steps done. `data_fingerprint`: of the data and the order it is read in.
    `best_eval_loss`, `best_step`: the best validation so far, None before the first.
    """

    step: int
    data_fingerprint: str
    best_eval_loss: float | None = None
    best_step: int | None = None


@dataclass(frozen=True, slots=True)
class SavedState:
    """`TrainState` with the tensors of the optimizer, the objective's own parameters and the random generators."""

    state: TrainState
    optimizer: dict[str, torch.Tensor]
    objective: dict[str, torch.Tensor]
    rng: dict[str, torch.Tensor]


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return output_dir / f"checkpoint-{step}"


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
    """Add the state to a draft that holds the model, put it in its place, and return that once it is verified.

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
    (draft / "train_config.yaml").write_text(config_yaml, encoding="utf-8")
    _write_manifest(draft)
    _sync(draft)
    if final.exists():  # a checkpoint of this step that did not verify, or the run is doing this step again
        shutil.rmtree(final)
    draft.rename(final)
    _sync_folder(output_dir)
    problem = verify(final)
    if problem:
        raise OSError(f"{final}: was written, but does not verify: {problem}")
    return final


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


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when every file is there with its checksum."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"no readable {MANIFEST} ({error})"
    for name, entry in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["size"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['size']}"
        if _sha256(file) != entry["sha256"]:
            return f"{name} has another checksum"
    return None


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, path) of the folders named checkpoint-N, oldest first; they may or may not verify."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            found.append((int(match.group(1)), path))
    return sorted(found)


def find_newest(output_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies; `warn` gets a line for each newer one that does not."""
    for _, path in reversed(list_checkpoints(output_dir)):
        problem = verify(path)
        if problem is None:
            return path
        warn(f"{path}: not a whole checkpoint ({problem}); trying the one before it")
    return None


def prune(output_dir: Path, keep: int, best_step: int | None) -> None:
    """Delete the oldest checkpoints beyond `keep` (0: none), never the best one. The newest must have been verified."""
    if not keep:
        return
    candidates = [(step, path) for step, path in list_checkpoints(output_dir) if step != best_step]
    for _, path in candidates[:-keep]:
        shutil.rmtree(path)


def write_best(output_dir: Path, state: TrainState) -> None:
    """Say in best.json which checkpoint validated best."""
    if state.best_step is None:
        return
    best = {"checkpoint": checkpoint_path(output_dir, state.best_step).name, "eval_loss": state.best_eval_loss}
    write_whole(output_dir / "best.json", json.dumps(best) + "\n")


def require_good(checkpoint: Path) -> Path:
    """The checkpoint, if it verifies.

    Raises:
        InputError: it is not there or not whole.
    """
    problem = verify(checkpoint)
    if problem:
        raise InputError(f"{checkpoint}: cannot resume from it: {problem}")
    return checkpoint


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Force every file and folder below `folder` onto the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
