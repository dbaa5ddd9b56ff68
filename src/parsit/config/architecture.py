"""Architectures: which towers, how they are joined, and why. Data in YAML, read without torch.

An architecture is a preset's name, or the path of a YAML file of the user's own, which says what differs from a preset.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from parsit.types import InputError, UsageError

# Flags that change the architecture: keyword arguments of `ParsitConfig` and of the processor.
MULTIMODAL_FLAGS = (
    "mm_projector_type",
    "mm_vision_select_layer",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "mm_patch_merge_type",
    "mm_spatial_pool_stride",
    "mm_spatial_pool_mode",
    "mm_pixel_shuffle",
    "max_image_tokens",
    "image_height",
)
PROCESSING_FLAGS = ("mm_use_im_start_end", "mm_use_im_patch_token")
# The preset that a file of one's own changes where it names none, and that parts are joined as where none is named.
DEFAULT_BASE = "qwen3-1.7b"
# A part of an architecture, and the section that holds its configuration.
_PARTS = {"vision_tower": "vision_config", "model_name_or_path": "text_config"}
# What a file of one's own may say.
_SECTIONS = ("vision_config", "text_config", "multimodal", "processing", "stages")
_TEXTS = ("base", "description", "vision_tower", "model_name_or_path", "tokenizer")
_PROCESSING = (*PROCESSING_FLAGS, "reading_unit", "read_prompt")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    `vision_config`, `text_config`: sub-configs with `model_type`, complete, so that nothing has to be
    fetched to know the shapes; empty: those of the part that is named. `vision_tower`,
    `model_name_or_path`: Hub ids (or folders) of the pretrained parts; None: trained from scratch.
    `tokenizer`: name of a shipped tokenizer; None: the language model's own. `multimodal`: keyword
    arguments of `ParsitConfig`. `processing`: keyword arguments of `ParsitProcessor`.
    """

    name: str
    description: str
    vision_config: dict[str, Any]
    text_config: dict[str, Any]
    multimodal: dict[str, Any]
    vision_tower: str | None = None
    model_name_or_path: str | None = None
    tokenizer: str | None = None
    processing: dict[str, Any] = field(default_factory=dict)


def architecture_names() -> list[str]:
    """The presets' names, smallest model first."""
    return ["tiny", "smol", "qwen3-0.6b", "qwen3-1.7b", "qwen3-1.7b-native", "qwen3-4b", "qwen3-8b"]


def is_architecture_file(name: str) -> bool:
    """Whether an architecture's name is the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))


def is_architecture(name: str) -> bool:
    """Whether a name is a preset's, or the path of a YAML file (which may not be there)."""
    return name in architecture_names() or is_architecture_file(name)


def split_preset(name: str) -> tuple[str, str]:
    """`ARCHITECTURE[/STAGE]` in its two parts; the second is empty where no stage is named."""
    if is_architecture_file(name):
        return name, ""
    architecture, _, stage = name.rpartition("/")
    return (architecture, stage) if architecture else (stage, "")


def load_architecture(name: str) -> Architecture:
    """The architecture of that name, or in that YAML file.

    A file has the sections of `Architecture` that differ from those of the preset in its `base`. `multimodal` and
    `processing` change single values; a part that is named without its configuration keeps its own.

    Raises:
        UsageError: no such preset, with the nearest name; or a file that says what no architecture has.
        InputError: no such file, or one that is not YAML.
    """
    if is_architecture_file(name):
        return _of_file(Path(name))
    if name not in architecture_names():
        raise UsageError(unknown("preset", name, architecture_names()))
    text = resources.files("parsit.config").joinpath("architectures", f"{name}.yaml").read_text(encoding="utf-8")
    return Architecture(name=name, **yaml.safe_load(text))


def base_and_stages(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The preset that a file of one's own changes, and its own values of that preset's stages.

    Raises: as `load_architecture`.
    """
    values = _read(path)
    return values.get("base", DEFAULT_BASE), values.get("stages", {})


def _of_file(path: Path) -> Architecture:
    said = _read(path)
    base = load_architecture(said.pop("base", DEFAULT_BASE))
    said.pop("stages", None)
    merged: dict[str, Any] = asdict(base) | {"name": str(path), "description": f"as {base.name}, changed"}
    for part, section in _PARTS.items():
        if said.get(part) and section not in said:
            merged[section] = {}
    if said.get("model_name_or_path"):
        merged["tokenizer"] = None
    for section, known in (("multimodal", MULTIMODAL_FLAGS), ("processing", _PROCESSING)):
        changes = said.pop(section, {})
        _require_known(path, section, changes, known)
        merged[section] |= changes
    return Architecture(**merged | said)


def _read(path: Path) -> dict[str, Any]:
    """The file's sections, each of its kind."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: no architecture can be read there ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: an architecture has sections such as {', '.join(_TEXTS[1:4])}")
    _require_known(path, "the file", values, (*_TEXTS, *_SECTIONS))
    for name in _SECTIONS:
        if not isinstance(values.get(name, {}), dict):
            raise UsageError(f"{path}: {name} is {values[name]!r}: it must be a section with names and values")
    for name in _TEXTS:
        if not isinstance(values.get(name), str | None):
            raise UsageError(f"{path}: {name} is {values[name]!r}: it must be a text")
    if values.get("base", DEFAULT_BASE) not in architecture_names():
        raise UsageError(f"{path}: " + unknown("base", str(values["base"]), architecture_names()))
    for section in _PARTS.values():
        if section in values and "model_type" not in values[section]:
            raise UsageError(f"{path}: {section} has no model_type: write it whole, or leave it to the part's own")
    return values


def _require_known(path: Path, section: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            raise UsageError(f"{path}: " + unknown(f"key in {section}", str(name), list(known)))


def unknown(kind: str, name: str, known: list[str], also: list[str] | None = None) -> str:
    """One line for a name that does not exist, with the nearest that does.

    Args:
        kind: what it is the name of.
        name: what was asked for.
        known: what there is.
        also: what may be meant besides, such as short forms.
    """
    near = difflib.get_close_matches(name, [*(also or []), *known], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})"
