"""Architecture presets: which towers, how they are joined, and why. Data in YAML, read without torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from parsit.types import UsageError


@dataclass(frozen=True, slots=True)
class Architecture:
    """One preset.

    `vision_config`, `text_config`: sub-configs with `model_type`, complete, so that nothing has to be
    fetched to know the shapes. `vision_tower`, `model_name_or_path`: Hub ids (or folders) of the
    pretrained parts; None: trained from scratch. `tokenizer`: name of a shipped tokenizer; None: the
    language model's own. `multimodal`: keyword arguments of `ParsitConfig`. `processing`: keyword
    arguments of `ParsitProcessor`.
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
    return ["tiny", "smol", "qwen3-1.7b", "qwen3-4b"]


def load_architecture(name: str) -> Architecture:
    """The preset of that name.

    Raises:
        UsageError: no such preset; the nearest name is given.
    """
    if name not in architecture_names():
        raise UsageError(unknown("preset", name, architecture_names()))
    text = resources.files("parsit.config").joinpath("architectures", f"{name}.yaml").read_text(encoding="utf-8")
    return Architecture(name=name, **yaml.safe_load(text))


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
