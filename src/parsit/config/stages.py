"""Stages: what a run's settings start from, `ARCHITECTURE/STAGE`. Data in YAML, read without torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from parsit.config.architecture import (
    architecture_names,
    base_and_stages,
    is_architecture_file,
    split_preset,
    unknown,
)
from parsit.types import UsageError

_DEFAULT_STAGE = {"tiny": "scratch"}
# Where an architecture's new parts are trained first, at rates that were made for them; pretrain for the others.
_FIRST_STAGE = {"tiny": "scratch", "smol": "finetune"}


def preset_names() -> list[str]:
    """All `ARCHITECTURE/STAGE` presets."""
    root = resources.files("parsit.config").joinpath("presets")
    return [
        f"{name}/{stage.name.removesuffix('.yaml')}"
        for name in architecture_names()
        for stage in sorted(root.joinpath(name).iterdir(), key=lambda entry: entry.name)
        if stage.name.endswith(".yaml")
    ]


def first_stage(architecture: str) -> str:
    """The preset, as ARCHITECTURE/STAGE, that trains what is new in an architecture."""
    return f"{architecture}/{_FIRST_STAGE.get(_base(architecture), 'pretrain')}"


def stage_values(name: str) -> dict[str, Any]:
    """The settings of `ARCHITECTURE[/STAGE]` by name, `architecture` among them.

    Without a stage: `scratch` for tiny, `finetune` for the others. A file of one's own has the stages of its base, with
    its own values in them.

    Raises:
        UsageError: no such preset.
        InputError: no such file.
    """
    architecture, stage = split_preset(name)
    base = _base(architecture)
    stage = stage or _DEFAULT_STAGE.get(base, "finetune")
    if f"{base}/{stage}" not in preset_names():
        raise UsageError(unknown("preset", name, preset_names(), architecture_names()))
    file = resources.files("parsit.config").joinpath("presets", base, f"{stage}.yaml")
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return {"architecture": architecture, **values, **_own_values(architecture, stage)}


def _base(architecture: str) -> str:
    """The preset whose stages an architecture has."""
    return base_and_stages(Path(architecture))[0] if is_architecture_file(architecture) else architecture


def _own_values(architecture: str, stage: str) -> dict[str, Any]:
    """What a file of one's own says of a stage."""
    if not is_architecture_file(architecture):
        return {}
    base, stages = base_and_stages(Path(architecture))
    known = [name.split("/")[1] for name in preset_names() if name.split("/")[0] == base]
    for one, values in stages.items():
        if one not in known:
            raise UsageError(f"{architecture}: " + unknown("stage", str(one), known))
        if not isinstance(values, dict):
            raise UsageError(f"{architecture}: stages.{one} is {values!r}: it must be a section with names and values")
    return stages.get(stage, {})
