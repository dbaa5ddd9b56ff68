"""stages.json: what a run began from and was trained on, and the same of the runs before it, for the model card.

Written when a run begins, because nobody can tell later: folders move, and data is deleted. It holds names and numbers
and no paths of the machine, so that it may be published.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from parsit import hub
from parsit.config import Architecture, TrainConfig
from parsit.data.dataset import DataSet, SampleStore
from parsit.files import write_whole
from parsit.files.manifest import EMA_FOLDER, STATE_FILE
from parsit.train.checkpoint import TrainState

STAGES_FILE = "stages.json"
# Places and names on this machine, and what changes no number of the model.
_NOT_TOLD = ("architecture", "data", "eval_data", "image_folder", "output_dir", "model_name_or_path", "vision_tower")
_NOT_TOLD += ("pretrain_mm_mlp_adapter", "resume", "report_to", "run_name", "deepspeed", "dataloader_num_workers")
_NOT_TOLD += ("dataloader_prefetch_factor", "logging_steps", "sample_steps", "save_steps", "save_total_limit")
_NOT_TOLD += ("async_save", "keep_best", "sample_count")


def write_stages(
    config: TrainConfig, architecture: Architecture, start: Path | None, training: DataSet, validation: DataSet | None
) -> None:
    """Write stages.json into the run's folder: the stages of the model in `start`, and this one.

    Args:
        config: the run's configuration; `output_dir` is set.
        architecture: what a model without `start` is built as.
        start: the folder of the Parsit model that the run begins from, if it does.
        training: what it is trained on.
        validation: what it is validated on.
    """
    stage = {
        "architecture": PurePath(config.architecture).stem,
        "trained": config.mm_tunable_parts,
        "from": _origin(config, architecture, start),
        "training": files_of(training),
        "validation": files_of(validation) if validation is not None else [],
        "settings": _settings(config),
    }
    stages = [*(read_stages(start) if start is not None else []), stage]
    write_whole(Path(str(config.output_dir)) / STAGES_FILE, json.dumps({"stages": stages}, indent=2) + "\n")


def read_stages(checkpoint: Path) -> list[dict[str, Any]]:
    """The stages of the model in a run's checkpoint, each with the steps that it was trained; none where nobody knows.

    Of its own run that is as far as the checkpoint goes. A folder of a moving average is its checkpoint's.
    """
    checkpoint = checkpoint.parent if checkpoint.name == EMA_FOLDER else checkpoint
    try:
        stages = json.loads((checkpoint.parent / STAGES_FILE).read_text(encoding="utf-8"))["stages"]
        state = TrainState.of(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [*stages[:-1], stages[-1] | {"steps": state.step, "eval_loss": _loss_of(state)}]


def _loss_of(state: TrainState) -> float | None:
    """The validation loss of the checkpoint itself, where it is known: it is among the best by that."""
    values = {best.step: best.value for best in state.best} if state.metric == "loss" else {}
    return values.get(state.step)


def files_of(data: DataSet) -> list[dict[str, Any]]:
    """The data's files by name, with how many samples and tokens of each an epoch has.

    Files of one name (each set of `parsit data synth` has a train.jsonl) are told apart by their folders' names.
    """
    assert isinstance(data.samples, SampleStore), "a run's data lies in files"
    paths = [file.data.path for file in data.samples.files]
    often = Counter(path.name for path in paths)
    names = [f"{path.resolve().parent.name}/{path.name}" if often[path.name] > 1 else path.name for path in paths]
    numbers, count = data.samples.file_numbers, len(data.samples.files)
    samples = np.bincount(numbers, minlength=count)
    tokens = np.bincount(numbers, weights=data.num_tokens, minlength=count)
    return [
        {"file": name, "samples": int(samples[number]), "tokens": int(tokens[number])}
        for number, name in enumerate(names)
    ]


def _origin(config: TrainConfig, architecture: Architecture, start: Path | None) -> dict[str, dict[str, Any]]:
    """What the parts were before this stage: a name, and whether it is the Hub's; nothing where all was drawn."""
    if start is not None:
        named = {"model": config.model_name_or_path}
    elif config.from_scratch:
        named = {}
    else:
        tower = config.vision_tower or architecture.vision_tower
        named = {"vision_tower": tower, "language_model": config.model_name_or_path or architecture.model_name_or_path}
    return {part: _named(name) for part, name in named.items() if name}


def _named(name: str) -> dict[str, Any]:
    here = Path(name).exists() or hub.is_shipped(name)
    return {"name": Path(name).resolve().name if here else name, "on_hub": not here}


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The flags that are not as Parsit has them without a preset."""
    told = [field for field in fields(TrainConfig) if field.name not in _NOT_TOLD]
    values = {field.name: (getattr(config, field.name), field.default) for field in told}
    return {name: value for name, (value, default) in values.items() if value != default}
