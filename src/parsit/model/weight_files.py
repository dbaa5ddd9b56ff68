"""Reading weights without running them, and copying them strictly.

A `.bin` file is a pickle. It is read by `torch.load(weights_only=True)`, which builds tensors and plain containers and
nothing else; any other object in it is an error, never a call (design D9).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from parsit.types import InputError

Weights = dict[str, torch.Tensor]
# What torch's own allocations begin at a multiple of, on a CPU.
_ALIGNMENT = 64

# Where a folder's weights may lie, best first; the later ones hold a projector (with what was trained beside it) alone.
WHOLE_FILES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
PART_FILES = ("trained_parts.safetensors", "mm_projector.safetensors", "mm_projector.bin")


def read_weights(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> Weights:
    """The tensors of a `.safetensors` or `.bin` file, or of a folder, in one file or in shards.

    Args:
        path: file or folder.
        wanted: which names to keep.

    Raises:
        InputError: no weights there, a file that cannot be read, or a pickle that holds more than tensors.
    """
    if not path.is_dir():
        return _read_file(path, wanted)
    for name in (*WHOLE_FILES, *PART_FILES):
        if (path / name).is_file():
            return _read_shards(path / name, wanted) if name.endswith(".json") else _read_file(path / name, wanted)
    raise InputError(f"{path}: no weights there (one of {', '.join((*WHOLE_FILES, *PART_FILES))} is needed)")


def read_tower(folder: Path) -> Weights:
    """The vision tower's tensors of a SigLIP in a folder, under the tower's own names; its text tower is not read.

    In a whole SigLIP, and wherever transformers 4.x wrote the tower alone, these begin with `vision_model.`.

    Raises:
        InputError: as `read_weights`.
    """

    def is_towers(name: str) -> bool:
        # Positions are computed now; older versions of transformers saved them.
        return not name.startswith(("text_model.", "logit_")) and not name.endswith("embeddings.position_ids")

    return {name.removeprefix("vision_model."): value for name, value in read_weights(folder, is_towers).items()}


def is_whole(path: Path) -> bool:
    """Whether a folder holds a whole model's weights, not a projector's alone."""
    return any((path / name).is_file() for name in WHOLE_FILES)


def _read_shards(index: Path, wanted: Callable[[str], bool]) -> Weights:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not an index of shards ({type(error).__name__}: {error})") from error
    weights: Weights = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise InputError(f"{index}: names {shard!r}, which is no file of its own folder")
        weights |= _read_file(index.parent / shard, wanted)
    absent = {name for name in places if wanted(name)} - weights.keys()
    if absent:
        raise InputError(f"{index}: lists tensors that its shards do not hold: {some(absent)}")
    return weights


def _read_file(file: Path, wanted: Callable[[str], bool]) -> Weights:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{file}: not a safetensors file ({error})") from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: refused: it is no file of tensors, or it holds other objects, which are not "
                         "loaded because loading them would run their code") from error  # fmt: skip
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: cannot be read as weights ({' '.join(str(error).split())[:200]})") from error
    tensors = isinstance(loaded, dict) and all(isinstance(value, torch.Tensor) for value in loaded.values())
    if not tensors or not all(isinstance(name, str) for name in loaded):
        raise InputError(f"{file}: not a state dict (names with tensors)")
    return {name: value for name, value in loaded.items() if wanted(name)}


@torch.no_grad()
def copy_strictly(into: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], source: object) -> None:
    """Copy weights into tensors of the same names, if every one of them is there with its shape, and no other.

    Raises:
        InputError: what is missing, unexpected or of another shape, by name; nothing was copied.
    """
    both = into.keys() & weights.keys()
    shapes = {
        f"{name} ({tuple(weights[name].shape)} instead of {tuple(into[name].shape)})"
        for name in both
        if weights[name].shape != into[name].shape
    }
    problems = {
        "missing": into.keys() - both,
        "unexpected": weights.keys() - both,
        "of another shape": shapes,
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)
        raise InputError(f"{source}: the weights do not fit the model: {found}")
    for name, value in weights.items():
        into[name].copy_(value)


def some(names: Collection[str], limit: int = 5) -> str:
    """The first names, in order, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(sorted(names)[:limit]) + more


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, copied where it does not begin where torch's own do.

    What safetensors gives lies in the mapped file, where it happens to lie. Matrix products on a CPU round otherwise
    for other places, so that a run which was resumed would not be equal to the bit to one that was not.
    """
    on_odd_place = tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT != 0
    return tensor.clone() if on_odd_place else tensor
