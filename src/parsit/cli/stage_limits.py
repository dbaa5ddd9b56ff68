"""`--model PRESET[/STAGE]` of the verbs that look at data: the model, and what that stage would train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StageLimits:
    """The folder or preset whose tokens and tiles count, and the limits of a stage, None where none is named.

    Args:
        model: a model's folder, or an architecture preset.
        model_max_length: the longest sample in tokens.
        batch_size: samples of a padded batch.
        max_tiles: the most tiles of a sample; 0: no limit.
    """

    model: str
    model_max_length: int | None = None
    batch_size: int | None = None
    max_tiles: int = 0


def limits_of(name: str) -> StageLimits:
    """What `--model` means: a folder, a preset, or a preset's stage.

    Raises:
        UsageError: the preset has no such stage; the nearest is named.
    """
    from parsit.config import TrainConfig, architecture_names, load_preset

    if Path(name).is_dir() or name.partition("/")[0] not in architecture_names() or "/" not in name:
        return StageLimits(name)
    config = TrainConfig(**load_preset(name))
    tiles = config.max_tiles_per_pack if config.packing else 0
    return StageLimits(config.architecture, config.model_max_length, config.per_device_train_batch_size, tiles)
