"""Every image mode through the whole model: tokens counted beforehand are the tokens that come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from parsit import hf
from parsit.model.merge import pool_tiles
from parsit.model.vision import pixel_shuffle
from parsit.processing.collate import collate
from parsit.tiling import ImageLayout
from parsit.types import ImageRef, Turn

MODES = [
    {"image_aspect_ratio": "pad"},
    {"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"},
    {"mm_patch_merge_type": "flat"},
    {"mm_patch_merge_type": "spatial"},
    {"mm_patch_merge_type": "spatial_unpad"},
    {"mm_patch_merge_type": "spatial_nobase"},
    {"mm_patch_merge_type": "spatial_unpad_nobase"},
    {"image_aspect_ratio": "anyres_max_2"},
    {"image_grid_pinpoints": [[64, 32], [32, 64], [96, 64]]},
    {"mm_spatial_pool_stride": 2},
    {"mm_spatial_pool_stride": 3, "mm_spatial_pool_mode": "average"},
    {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "max"},
    {"mm_pixel_shuffle": 2},
    {"mm_pixel_shuffle": 2, "mm_spatial_pool_stride": 2},
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: ",".join(f"{k}={v}" for k, v in mode.items()))
def test_every_mode_trains_and_generates(mini, mode):
    architecture = replace(mini, multimodal={**mini.multimodal, **mode})
    processor = hf.new_processor(architecture)
    model = hf.new_model(architecture, processor, seed=0)
    rng = np.random.default_rng(0)
    images = [
        ImageRef(Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)))
        for w, h in ((130, 40), (20, 90), (33, 31))
    ]
    turns = (Turn("user", (*images, "Read.")), Turn("assistant", ("Yes",)))
    batch = collate([processor.encode(turns), processor.encode(turns[:1] + turns[1:])], processor.chat_tokens.pad)
    model.train()(**batch.model_inputs()).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    prompt = processor.encode(turns[:1], add_generation_prompt=True)
    ids = model.eval().generate(prompt.input_ids[None], prompt.pixel_values, prompt.image_sizes, max_new_tokens=2)
    assert ids.shape[1] > len(prompt.input_ids)


def test_pixel_shuffle_puts_neighbours_into_one_token():
    side, factor = 4, 2
    features = torch.arange(side * side, dtype=torch.float32).view(1, side * side, 1)
    shuffled = pixel_shuffle(features, side, factor)
    assert shuffled[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize(("mode", "expected"), [("average", [2.5, 4.5, 10.5, 12.5]), ("max", [5, 7, 13, 15])])
def test_pooling_pools_squares(mode, expected):
    layout = ImageLayout(32, 8, "pad", mm_patch_merge_type="flat", mm_spatial_pool_stride=2, mm_spatial_pool_mode=mode)
    features = torch.arange(16, dtype=torch.float32).view(1, 16, 1)
    assert pool_tiles(features, layout).flatten().tolist() == expected
