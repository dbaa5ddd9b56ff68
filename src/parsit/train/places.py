"""Where the models lie that a run's flags name: here, in a run, or on the Hub."""

from __future__ import annotations

from pathlib import Path

from parsit import hub
from parsit.files.run_folder import find_model, is_parsit_model, is_run


def parsit_folder(name: str | None) -> Path | None:
    """The folder, where `--model_name_or_path` names a Parsit model, here, in the package or on the Hub, or a run."""
    if name is None:
        return None
    if Path(name).is_dir():
        folder = find_model(name)
        return folder if is_parsit_model(folder) else None
    return hub.model_folder(name) if hub.is_shipped(name) or hub.is_parsit_id(name) else None


def projector_place(name: str) -> Path:
    """A file, a folder that holds a projector, the checkpoint of a run, or a model on the Hub."""
    path = Path(name)
    if not path.exists() and hub.looks_like_id(name):
        return hub.model_folder(name)
    return find_model(path) if is_run(path) else path
