"""A pretrained part keeps its own configuration: what its weights were trained with, and nothing of the preset's.

Two models with the same shapes may compute different things: another base of the rotation, another epsilon, other heads
or another activation load without an error and answer something else. So a part's own numbers are taken, and the preset
says which shapes they must have, because its tiling, rates and memory were chosen for those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.configuration_utils import PretrainedConfig

from parsit.types import InputError

TOWER_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
LANGUAGE_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LANGUAGE_SHAPE += ("num_key_value_heads", "head_dim")
# Of the file and its use, not of what is computed; weights are held in the type that the run chooses.
_NOT_TAKEN = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_attn_implementation")
_NOT_TAKEN += ("_attn_implementation_internal", "quantization_config", "auto_map")


def tower_config(found: PretrainedConfig, preset: Mapping[str, Any], name: str, preset_name: str) -> dict[str, Any]:
    """The vision configuration of a pretrained SigLIP, whole models included.

    Args:
        found: the configuration of the model in `name`.
        preset: the preset's `vision_config`.
        name: Hub id or folder, for the error.
        preset_name: the preset, for the error.

    Raises:
        InputError: it has other shapes than the preset; each is named.
    """
    values = _own(getattr(found, "vision_config", found))
    _require_shape(values, preset, TOWER_SHAPE, name, preset_name)
    return values


def language_config(found: PretrainedConfig, preset: Mapping[str, Any], name: str, preset_name: str) -> dict[str, Any]:
    """The text configuration of a pretrained language model, with room for the preset's vocabulary.

    The arguments are those of `tower_config`, with the preset's `text_config`.

    Raises:
        InputError: it has other shapes than the preset, or layers that see a window alone; each is named.
    """
    values = _own(found)
    _require_shape(values, preset, LANGUAGE_SHAPE, name, preset_name)
    others = sorted(set(values.get("layer_types") or []) - {"full_attention"})
    if others:
        raise InputError(
            f"{name}: has layers of {', '.join(others)}, and packed rows know full_attention alone: "
            "choose a language model without them"
        )
    values["vocab_size"] = max(values["vocab_size"], preset["vocab_size"])
    return values


def _own(config: PretrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in _NOT_TAKEN}


def _require_shape(
    found: Mapping[str, Any], preset: Mapping[str, Any], names: Sequence[str], name: str, preset_name: str
) -> None:
    """Refuse shapes that are not the preset's; what the preset leaves to transformers' defaults is not asked."""
    differences = [
        f"{key} is {found.get(key)}, the preset has {preset[key]}"
        for key in names
        if key in preset and found.get(key) != preset[key]
    ]
    if differences:
        raise InputError(
            f"{name}: does not fit the preset {preset_name}: {'; '.join(differences)}: "
            "choose the preset that was made for it"
        )
