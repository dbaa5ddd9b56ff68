"""Tiles to features: the tower, cut off behind the layer that is used, and pixel shuffle.

The tower is `transformers`' own, built through its Auto class. Three things that are never run
are never built: the layers behind `mm_vision_select_layer`, the final norm (LLaVA takes a layer's
raw output) and the pooling head. So every parameter of the tower gets a gradient, and DDP has no
unused parameter to stumble over.
"""

from __future__ import annotations

import copy
import re

import torch
from torch import nn
from transformers import AutoModel, Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from parsit.model.configuration import NATIVE_TOWER, ParsitConfig
from parsit.model.native import NativeTower

if Siglip2VisionConfig not in MODEL_MAPPING:  # 4.x: see NATIVE_TOWER
    AutoModel.register(Siglip2VisionConfig, Siglip2VisionModel)


def build_vision_tower(config: ParsitConfig) -> nn.Module:
    """The vision tower of `config`, with random weights.

    transformers 4.x wraps the tower once more (`vision_model.`) than 5.x does; the inner module is
    the same in both, and taking it gives one layout of weights whatever version wrote them.
    """
    vision_config = copy.deepcopy(config.vision_config)
    vision_config.num_hidden_layers = config.num_vision_layers
    vision_config.vision_use_head = False
    tower = AutoModel.from_config(vision_config)
    tower = getattr(tower, "vision_model", tower)
    if vision_config.model_type == NATIVE_TOWER:
        return NativeTower(tower)
    tower.post_layernorm = nn.Identity()
    return tower


def is_unused_tower_key(key: str, config: ParsitConfig) -> bool:
    """Whether a full SigLIP checkpoint's `key` (without `vision_model.`) belongs to a part that is not built."""
    layer = re.match(r"encoder\.layers\.(\d+)\.", key)
    if layer:
        return config.num_vision_layers <= int(layer.group(1)) < config.vision_config.num_hidden_layers
    return key.startswith(("head.", "post_layernorm."))


def pixel_shuffle(features_NPD: torch.Tensor, side: int, factor: int) -> torch.Tensor:
    """`factor` x `factor` neighbouring patches become one token with all their features.

    `float[tiles, side * side, D]` to `float[tiles, (side / factor)², D * factor²]`; source: Shi et
    al. 2016 (the inverse operation), as used in InternVL 1.5 and Idefics3.
    """
    if factor == 1:
        return features_NPD
    tiles, _, size = features_NPD.shape
    coarse = side // factor
    blocks = features_NPD.view(tiles, coarse, factor, coarse, factor, size).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(tiles, coarse * coarse, factor * factor * size)
