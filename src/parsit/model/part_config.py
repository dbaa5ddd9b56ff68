"""Pretrained parts by their configurations: which ones fit, and that each keeps its own.

Two models with the same shapes may compute different things: another base of the rotation, another epsilon, other heads
or another activation load without an error and answer something else. So a part's own numbers are taken. A part that
is named takes the preset's place, shapes and all; one that the preset names must have the shapes that its tiling, rates
and memory were chosen for.

What does not fit is refused by its configuration alone, before weights are read: a tower that is no SigLIP, a decoder
that is none, or whose packed rows would compute something else. What a configuration does not show of a decoder is
found by trying it (`parsit.model.decoder_trial`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from parsit.model.configuration import NATIVE_TOWER
from parsit.types import InputError

# Model types whose vision tower is known, whole models included; the last two take images at native resolution.
TOWERS = ("siglip_vision_model", "siglip", "siglip2_vision_model", "siglip2")
TOWER_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "patch_size")
TOWER_SHAPE += ("image_size", "num_patches")  # of one size, or of the positions that native resolution is scaled from
LANGUAGE_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LANGUAGE_SHAPE += ("num_key_value_heads", "head_dim")
# What tiling, memory, rates and cache are computed from.
_TOWER_NUMBERS = (*TOWER_SHAPE[1:-2], "num_attention_heads")
_LANGUAGE_NUMBERS = (*LANGUAGE_SHAPE[1:-1], "max_position_embeddings", "vocab_size")
# Of the file and its use, not of what is computed; weights are held in the type that the run chooses.
_NOT_TAKEN = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_attn_implementation")
_NOT_TAKEN += ("_attn_implementation_internal", "quantization_config", "auto_map")
# Settings that change scores inside attention, or behind `lm_head`, where Parsit's own code stands.
_CHANGED_SCORES = ("attn_logit_softcapping", "final_logit_softcapping")


def own_tower_config(found: PretrainedConfig, name: str) -> dict[str, Any]:
    """The vision configuration of a pretrained SigLIP, whole models included.

    Args:
        found: the configuration of the model in `name`.
        name: Hub id or folder, for the error.

    Raises:
        InputError: it is no tower that Parsit knows.
    """
    if found.model_type not in TOWERS:
        raise InputError(f"{name}: is a {found.model_type}: a vision tower must be one of {', '.join(TOWERS)}")
    values = _own(getattr(found, "vision_config", found))
    native = values["model_type"] == NATIVE_TOWER
    numbers = (*_TOWER_NUMBERS, "num_patches" if native else "image_size")
    _require_numbers(values, numbers, name, f"tower of square {'patches' if native else 'tiles'}")
    if native and math.isqrt(values["num_patches"]) ** 2 != values["num_patches"]:
        raise InputError(f"{name}: has {values['num_patches']} positions (num_patches), which make no square grid")
    if values.get("num_channels", 3) != 3:
        raise InputError(f"{name}: has {values['num_channels']} channels: a page has 3 (red, green, blue)")
    return values


def own_language_config(found: PretrainedConfig, name: str) -> dict[str, Any]:
    """The text configuration of a pretrained decoder.

    The arguments are those of `own_tower_config`.

    Raises:
        InputError: it is no decoder that Parsit can train; what it has or lacks is named.
    """
    values = _own(found)
    fault = next(_faults(found, values), None)
    if fault:
        raise InputError(f"{name}: {fault}")
    _require_numbers(values, _LANGUAGE_NUMBERS, name, "decoder built as Llama's or Qwen's")
    return values


def tower_config(found: PretrainedConfig, preset: Mapping[str, Any], name: str, preset_name: str) -> dict[str, Any]:
    """`own_tower_config` of a tower that must have a preset's shapes.

    Args:
        found: the configuration of the model in `name`.
        preset: the preset's `vision_config`.
        name: Hub id or folder, for the error.
        preset_name: the preset, for the error.

    Raises:
        InputError: it has other shapes than the preset, each is named; or as `own_tower_config`.
    """
    values = own_tower_config(found, name)
    _require_shape(values, preset, TOWER_SHAPE, name, preset_name)
    return values


def language_config(found: PretrainedConfig, preset: Mapping[str, Any], name: str, preset_name: str) -> dict[str, Any]:
    """`own_language_config` of a decoder that must have a preset's shapes, with room for the preset's vocabulary.

    The arguments are those of `tower_config`, with the preset's `text_config`.

    Raises:
        InputError: it has other shapes than the preset, each is named; or as `own_language_config`.
    """
    values = own_language_config(found, name)
    _require_shape(values, preset, LANGUAGE_SHAPE, name, preset_name)
    values["vocab_size"] = max(values["vocab_size"], preset["vocab_size"])
    return values


def _faults(config: PretrainedConfig, values: Mapping[str, Any]) -> Iterator[str]:
    """Why a configuration's model cannot be the decoder."""
    kind = values.get("model_type")
    if values.get("is_encoder_decoder"):
        yield f"is an encoder with a decoder ({kind}): choose a decoder alone"
    if "text_config" in values or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        yield f"is a {kind}, which transformers has no plain causal language model for: choose a decoder"
    if any("expert" in key and value for key, value in values.items()):
        yield f"is a mixture of experts ({kind}), whose packing is untested: choose a dense language model"
    others = sorted(set(values.get("layer_types") or []) - {"full_attention"})
    if others:
        yield (
            f"has layers of {', '.join(others)}, and packed rows know full_attention alone: "
            "choose a language model without them"
        )
    if values.get("sliding_window") and values.get("use_sliding_window") is not False and not values.get("layer_types"):
        yield (
            f"sees a window of {values['sliding_window']} tokens alone (sliding_window), and packed rows know none: "
            "choose a language model without it"
        )
    for key in _CHANGED_SCORES:
        if values.get(key):
            yield f"caps its scores ({key} is {values[key]}), which Parsit's attention and loss do not: choose another"
    if not getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_supports_attention_backend", False):
        yield f"is a {kind}, whose attention cannot be replaced: samples in a packed row would see each other"


def _own(config: PretrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in _NOT_TAKEN}


def _require_numbers(values: Mapping[str, Any], names: Sequence[str], name: str, what: str) -> None:
    """Refuse a configuration that lacks numbers which sizes and memory are computed from."""
    lacking = [key for key in names if not isinstance(values.get(key), int)]
    if lacking:
        kind = values.get("model_type")
        raise InputError(f"{name}: is a {kind} without a number for {', '.join(lacking)}: Parsit needs a {what}")


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
