"""The folder of a training run: which checkpoints it holds, which of them are whole, which is the newest and the best.

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
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from parsit.files.whole import write_whole
from parsit.types import InputError

MANIFEST = "manifest.json"
BEST_FILE = "best.json"
CONFIG_FILE = "train_config.yaml"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return output_dir / f"checkpoint-{step}"


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, path) of the folders named checkpoint-N, oldest first; they may or may not verify."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match.group(1)), path))
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run: it has a checkpoint, or says which one is best."""
    return (folder / BEST_FILE).is_file() or bool(list_checkpoints(folder))


def find_newest(output_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies; `warn` gets a line for each newer one that does not."""
    for _, path in reversed(list_checkpoints(output_dir)):
        problem = verify(path)
        if problem is None:
            return path
        warn(f"{path}: not a whole checkpoint ({problem}); trying the one before it")
    return None


def find_best(output_dir: Path) -> Path | None:
    """The checkpoint that validated best, if it is said and still there.

    Raises:
        InputError: best.json cannot be read.
    """
    path = output_dir / BEST_FILE
    if not path.is_file():
        return None
    try:
        best = output_dir / json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not name a checkpoint; remove it, or name the checkpoint itself") from error
    return best if (best / "config.json").is_file() else None


def name_best(output_dir: Path, step: int, eval_loss: float | None) -> None:
    """Say in best.json which checkpoint validated best. Raises `ParsitError`."""
    best = {"checkpoint": checkpoint_path(output_dir, step).name, "eval_loss": eval_loss}
    write_whole(output_dir / BEST_FILE, json.dumps(best) + "\n")


def find_model(path: str | Path) -> Path:
    """The folder with the model: `path` itself, or in a run's folder its best checkpoint, else its newest.

    Raises:
        InputError: there is none.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return folder
    best = find_best(folder)
    if best is not None:
        return best
    checkpoints = list_checkpoints(folder)
    if checkpoints:
        return checkpoints[-1][1]
    raise InputError(f"{path}: no model there (a folder with config.json, or a run's folder, is needed)")


def is_parsit_model(folder: Path) -> bool:
    """Whether the folder's configuration is a Parsit model's.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type") == "parsit"
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: no model's configuration ({error}); was it written or copied whole?") from error


def prune(output_dir: Path, keep: int, best_step: int | None) -> None:
    """Delete the oldest checkpoints beyond `keep` (0: none), never the best one. The newest must have been verified."""
    if not keep:
        return
    candidates = [(step, path) for step, path in list_checkpoints(output_dir) if step != best_step]
    for _, path in candidates[:-keep]:
        shutil.rmtree(path)


def write_manifest(folder: Path) -> None:
    """List a checkpoint's files with their sizes and checksums, for `verify`. Raises `OSError`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=2) + "\n", encoding="utf-8")


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


def require_good(checkpoint: Path) -> Path:
    """The checkpoint, if it verifies.

    Raises:
        InputError: it is not there or not whole.
    """
    problem = verify(checkpoint)
    if problem:
        raise InputError(f"{checkpoint}: cannot resume from it: {problem}")
    return checkpoint


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
