"""Where a model is: a model's folder, or the checkpoint to take from a run's folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from parsit.types import InputError


def find_model(path: str | Path) -> Path:
    """The folder with the model: `path` itself, or in a run's folder its best checkpoint, else its newest.

    Raises:
        InputError: there is none.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return folder
    best = folder / "best.json"
    if best.is_file():
        named = folder / json.loads(best.read_text(encoding="utf-8"))["checkpoint"]
        if (named / "config.json").is_file():
            return named
    checkpoints = [entry for entry in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", entry.name)]
    if checkpoints:
        return max(checkpoints, key=lambda entry: int(entry.name.removeprefix("checkpoint-")))
    raise InputError(f"{path}: no model there (a folder with config.json, or a run's folder, is needed)")


def is_parsit_model(folder: Path) -> bool:
    """Whether the folder's configuration is a Parsit model's."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "parsit"
