"""Floor 1: configuration as data. Architecture presets, training presets, the flags of a run. No torch."""

from parsit.config.architecture import (
    DEFAULT_BASE,
    MULTIMODAL_FLAGS,
    PROCESSING_FLAGS,
    Architecture,
    architecture_names,
    is_architecture,
    load_architecture,
    split_preset,
    unknown,
)
from parsit.config.llava import LLAVA_FLAGS
from parsit.config.stages import first_stage, preset_names
from parsit.config.train import TUNABLE_PARTS, TrainConfig, layer_range, load_preset
from parsit.config.zero import ZERO_NAMES, zero_settings

__all__ = [
    "DEFAULT_BASE",
    "LLAVA_FLAGS",
    "MULTIMODAL_FLAGS",
    "PROCESSING_FLAGS",
    "TUNABLE_PARTS",
    "ZERO_NAMES",
    "Architecture",
    "TrainConfig",
    "architecture_names",
    "first_stage",
    "is_architecture",
    "layer_range",
    "load_architecture",
    "load_preset",
    "preset_names",
    "split_preset",
    "unknown",
    "zero_settings",
]
