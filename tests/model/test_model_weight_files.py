"""Of a whole SigLIP the tower's tensors are read, under the tower's own names, whoever wrote them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipModel

from parsit.model.weight_files import read_tower

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def whole():
    vision = SHAPE | {"image_size": 16, "patch_size": 8}
    return SiglipModel(SiglipConfig(vision_config=vision, text_config=SHAPE | {"vocab_size": 50})).eval()


def test_the_text_tower_of_a_whole_siglip_is_left_where_it_is(whole, tmp_path):
    whole.save_pretrained(tmp_path)
    inner = getattr(whole.vision_model, "vision_model", whole.vision_model)
    found, expected = read_tower(tmp_path), inner.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_a_tower_that_was_saved_alone_has_the_same_names(whole, tmp_path, prefix):
    inner = getattr(whole.vision_model, "vision_model", whole.vision_model)
    expected = {name: tensor.contiguous() for name, tensor in inner.state_dict().items()}
    positions = {f"{prefix}embeddings.position_ids": torch.arange(4)}  # as older versions of transformers wrote
    save_file({prefix + name: tensor for name, tensor in expected.items()} | positions, tmp_path / "model.safetensors")
    assert read_tower(tmp_path).keys() == expected.keys()
