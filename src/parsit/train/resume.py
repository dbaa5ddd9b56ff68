"""The rules of going on: which checkpoint a run resumes from, and what may not have changed since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from parsit.config import MULTIMODAL_FLAGS, PROCESSING_FLAGS, TrainConfig
from parsit.train.checkpoint import find_newest, list_checkpoints, require_good
from parsit.types import InputError, UsageError

# What the weights are, and how their optimizer state is kept: these may not change on resume.
FIXED_ON_RESUME = ("architecture", "mm_tunable_parts", "mm_tunable_vision_layers", "glyph_loss_weight")
FIXED_ON_RESUME += ("lora_enable", "lora_r", "lora_alpha", "use_dora", "lora_targets_language", "lora_targets_vision")
FIXED_ON_RESUME += ("bits", "optim", *MULTIMODAL_FLAGS, *PROCESSING_FLAGS)


def checkpoint_to_resume(config: TrainConfig, say: Callable[[str], None]) -> Path | None:
    """The verified checkpoint that the run goes on from; None: it begins.

    Args:
        config: the run's configuration; `output_dir` is set.
        say: told of checkpoints that are passed over.

    Raises:
        InputError: the named checkpoint is not whole, or the folder holds a run that is not resumed, or cannot be.
        UsageError: settings that may not change between the run and its continuation.
    """
    output_dir = Path(str(config.output_dir))
    if config.resume == "never":
        if list_checkpoints(output_dir):
            raise InputError(f"{output_dir}: holds a run already; give another --output_dir, or --resume auto to go on")
        return None
    if config.resume != "auto":
        checkpoint: Path | None = require_good(Path(config.resume))
    else:
        checkpoint = find_newest(output_dir, warn=say)
        if checkpoint is None and list_checkpoints(output_dir):
            raise InputError(f"{output_dir}: none of its checkpoints is whole; start again in another --output_dir")
    if checkpoint is not None:
        _require_same_settings(config, checkpoint)
    return checkpoint


def _require_same_settings(config: TrainConfig, checkpoint: Path) -> None:
    earlier: dict[str, Any] = yaml.safe_load((checkpoint / "train_config.yaml").read_text(encoding="utf-8"))
    for name in FIXED_ON_RESUME:
        if name in earlier and earlier[name] != getattr(config, name):  # an older version knew fewer flags
            raise UsageError(
                f"--{name} is {getattr(config, name)}, but {checkpoint} was trained with {earlier[name]}: "
                "give the same value, or start a new --output_dir with --model_name_or_path"
            )
