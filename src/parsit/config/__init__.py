"""Floor 1: configuration as data. Architecture presets, training presets, the flags of a run. No torch."""

from parsit.config.architecture import Architecture, architecture_names, load_architecture, unknown
from parsit.config.llava import LLAVA_FLAGS
from parsit.config.train import (
    MULTIMODAL_FLAGS,
    PROCESSING_FLAGS,
    TUNABLE_PARTS,
    TrainConfig,
    first_stage,
    layer_range,
    load_preset,
    preset_names,
)
from parsit.config.zero import ZERO_NAMES, zero_settings

__all__ = [
    "LLAVA_FLAGS",
    "MULTIMODAL_FLAGS",
    "PROCESSING_FLAGS",
    "TUNABLE_PARTS",
    "ZERO_NAMES",
    "Architecture",
    "TrainConfig",
    "architecture_names",
    "first_stage",
    "layer_range",
    "load_architecture",
    "load_preset",
    "preset_names",
    "unknown",
    "zero_settings",
]
