"""A checkpoint's manifest: every file with its size and checksum, and whether what lies there is that.

The manifest itself is trusted only where it is, to the byte, what Parsit writes and names every file that a checkpoint
must have: a bit that was flipped in it, or an entry that was lost, is damage like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parsit.types import InputError

MANIFEST = "manifest.json"
CONFIG_FILE = "train_config.yaml"
STATE_FOLDER = "train_state"
STATE_FILE = f"{STATE_FOLDER}/state.json"
TENSOR_FILES = tuple(f"{STATE_FOLDER}/{name}.safetensors" for name in ("optimizer", "objective", "rng"))
ESSENTIAL = ("config.json", CONFIG_FILE, STATE_FILE, *TENSOR_FILES)
# "0" leaves checksums of weights that are about to be read unread (`require_sound_model`).
CHECKSUMS_VARIABLE = "PARSIT_CHECKSUMS"


def write_manifest(folder: Path) -> None:
    """List a checkpoint's files with their sizes and checksums, read back from the disk. Raises `OSError`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }
    (folder / MANIFEST).write_text(_text_of(entries), encoding="utf-8")


def verify(checkpoint: Path, checksums: bool = True) -> str | None:
    """What is wrong with a checkpoint, in words; None when every file is there with its checksum.

    Args:
        checkpoint: its folder.
        checksums: False: look at names and sizes alone, and read no file but the manifest.
    """
    try:
        entries = _read(checkpoint)
        missing = [name for name in ESSENTIAL if name not in entries]
        if not any("/" not in name and name.endswith(".safetensors") for name in entries):
            missing.append("weights (*.safetensors)")
        if missing:
            return f"{MANIFEST} does not list {', '.join(missing)}"
        return _first_wrong(checkpoint, entries, entries, checksums)
    except _DamagedError as damage:
        return str(damage)


def require_sound_model(folder: Path) -> Path:
    """The folder of a model, if its files are what its manifest says; one without a manifest is taken as it is.

    What resuming needs besides the model is not read. `PARSIT_CHECKSUMS=0` leaves all of it unread.

    Raises:
        InputError: a file that is missing or damaged.
    """
    if not (folder / MANIFEST).exists() or os.environ.get(CHECKSUMS_VARIABLE) == "0":
        return folder
    try:
        entries = _read(folder)
        problem = _first_wrong(folder, [name for name in entries if not name.startswith(STATE_FOLDER)], entries, True)
    except _DamagedError as damage:
        problem = str(damage)
    if problem:
        raise InputError(f"{folder}: is not as it was saved: {problem}; name another checkpoint of the run")
    return folder


def checksums_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a model, as its manifest has it; nothing where there is no manifest.

    Raises:
        InputError: the manifest is damaged.
    """
    if not (folder / MANIFEST).exists():
        return {}
    try:
        return {name: entry["sha256"] for name, entry in _read(folder).items()}
    except _DamagedError as damage:
        raise InputError(f"{folder}: is not as it was saved: {damage}") from damage


class _DamagedError(Exception):
    """A manifest that cannot be trusted; says why."""


def _read(checkpoint: Path) -> dict[str, Any]:
    """The manifest's entries by file name. Raises `_DamagedError`."""
    try:
        text = (checkpoint / MANIFEST).read_text(encoding="utf-8")
        entries = json.loads(text)["files"]
        is_ours = bool(entries) and text == _text_of(entries)
        sound = is_ours and all(_is_entry(name, entry) for name, entry in entries.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _DamagedError(f"no readable {MANIFEST} ({type(error).__name__}: {error})") from error
    if not sound:
        raise _DamagedError(f"{MANIFEST} is damaged")
    return entries


def _text_of(entries: Any) -> str:
    return json.dumps({"files": entries}, indent=2) + "\n"


def _is_entry(name: str, entry: Any) -> bool:
    inside = not name.startswith("/") and ".." not in name.split("/")
    return inside and entry.keys() == {"size", "sha256"} and type(entry["size"]) is int


def _first_wrong(folder: Path, names: Iterable[str], entries: dict[str, Any], checksums: bool) -> str | None:
    """What is wrong with the first of some files that is not as its entry says."""
    for name in names:
        file, entry = folder / name, entries[name]
        try:
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            if size != entry["size"]:
                return f"{name} has {size} bytes instead of {entry['size']}"
            if checksums and _sha256(file) != entry["sha256"]:
                return f"{name} has another checksum"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
