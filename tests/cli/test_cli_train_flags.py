"""Flags that change the architecture reach the model and the processor; nothing is trained here."""

from __future__ import annotations

import pytest

from parsit import hf
from parsit.cli.train import parse
from parsit.train.prepare import architecture_of

BASE = ["tiny", "--data", "x", "--output_dir", "y"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("mm_projector_type", "linear"),
        ("mm_vision_select_layer", -2),
        ("image_aspect_ratio", "pad"),
        ("image_grid_pinpoints", "(1x1),...,(2x2)"),
        ("mm_patch_merge_type", "spatial"),
        ("mm_spatial_pool_stride", 2),
        ("mm_spatial_pool_mode", "max"),
        ("mm_pixel_shuffle", 4),
    ],
)
def test_a_multimodal_flag_reaches_model_and_processor(flag, value):
    architecture = architecture_of(parse([*BASE, f"--{flag}", str(value)]))
    processor = hf.new_processor(architecture)
    config = hf.config_of(architecture, processor.chat_tokens.image)
    assert getattr(config, flag) == value
    assert getattr(hf.config_of(architecture_of(parse(BASE))), flag) != value
    assert processor.image_processor.layout == config.layout


def test_start_and_end_tokens_can_be_switched_off():
    processor = hf.new_processor(architecture_of(parse([*BASE, "--mm_use_im_start_end", "false"])))
    assert processor.chat_tokens.vision_start is None
    assert hf.new_processor(architecture_of(parse(BASE))).chat_tokens.vision_start is not None


def test_image_tokens_can_be_added():
    architecture = architecture_of(parse([*BASE, "--mm_use_im_patch_token", "true"]))
    assert architecture.processing["mm_use_im_patch_token"] is True
    assert len(hf.new_processor(architecture).tokenizer) == 4096  # the shipped one has them already
