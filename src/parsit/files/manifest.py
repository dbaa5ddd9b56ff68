"""A checkpoint's manifest: every file with its size and checksum, and whether what lies there is that.

The manifest itself is trusted only where it is, to the byte, what Parsit writes and names every file that a checkpoint
must have: a bit that was flipped in it, or an entry that was lost, is damage like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsit.files.hashed import FileEntry
from parsit.types import InputError

MANIFEST = "manifest.json"
CONFIG_FILE = "train_config.yaml"
STATE_FOLDER = "train_state"
EMA_FOLDER = "ema"
STATE_FILE = f"{STATE_FOLDER}/state.json"
TENSOR_FILES = tuple(f"{STATE_FOLDER}/{name}.safetensors" for name in ("optimizer", "objective", "rng"))
ESSENTIAL = ("config.json", CONFIG_FILE, STATE_FILE, *TENSOR_FILES)
# "0" leaves checksums of weights that are about to be read unread (`require_sound_model`).
CHECKSUMS_VARIABLE = "PARSIT_CHECKSUMS"


def write_manifest(folder: Path, known: Mapping[str, FileEntry] | None = None) -> None:
    """List a checkpoint's files with their sizes and checksums; what is known is listed whether it is there or not.

    Args:
        folder: the checkpoint's.
        known: entries of files by their paths in it, as they were found while they were written; the others are read.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    known = known or {}
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST]
    names = sorted({path.relative_to(folder).as_posix() for path in files} | known.keys())
    entries = {name: asdict(known.get(name) or _entry(folder / name)) for name in names}
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

    What resuming needs besides the model is not read, nor is the moving average beside it; that average, named itself,
    is in the manifest of its checkpoint. `PARSIT_CHECKSUMS=0` leaves all of it unread.

    Raises:
        InputError: a file that is missing or damaged.
    """
    listed_in = folder.parent if folder.name == EMA_FOLDER else folder
    if not (listed_in / MANIFEST).exists() or os.environ.get(CHECKSUMS_VARIABLE) == "0":
        return folder
    try:
        entries = _read(listed_in)
        problem = _first_wrong(listed_in, _of_model(entries, folder != listed_in), entries, True)
    except _DamagedError as damage:
        problem = str(damage)
    if problem:
        raise InputError(f"{folder}: is not as it was saved: {problem}; name another checkpoint of the run")
    return folder


def _of_model(names: Iterable[str], average: bool) -> list[str]:
    """Of a checkpoint's files those of its model, or those of the moving average."""
    own = (f"{EMA_FOLDER}/",)
    if average:
        return [name for name in names if name.startswith(own)]
    return [name for name in names if not name.startswith((*own, f"{STATE_FOLDER}/"))]


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


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, _sha256(path))


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
