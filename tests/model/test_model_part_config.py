"""A pretrained part computes what it did before, whatever of its configuration is not the preset's."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from parsit import hf
from parsit.types import InputError


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


def language_model(mini, folder, **changes):
    torch.manual_seed(3)
    model = Qwen3ForCausalLM(Qwen3Config(**mini.text_config | changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # they begin as zeros
    model.save_pretrained(folder)
    return model


TEXT_CHANGES = {
    "base of the rotation": {"rope_theta": 5e6},
    "scaled rotation": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "epsilon": {"rms_norm_eps": 1e-2},
    "activation": {"hidden_act": "gelu"},
    "biases": {"attention_bias": True},
    "untied": {"tie_word_embeddings": False},
    "all as the preset": {},
}


@pytest.mark.parametrize("changes", TEXT_CHANGES.values(), ids=TEXT_CHANGES)
def test_a_language_model_computes_what_it_did(mini, processor, tmp_path, changes):
    source = language_model(mini, tmp_path / "lm", **changes)
    model = hf.model_from_parts(mini, processor, 0, None, str(tmp_path / "lm")).eval()
    ids = torch.arange(40)[None] * 7
    with torch.no_grad():
        expected = source(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, expected)
        model.save_pretrained(tmp_path / "saved")
        assert torch.equal(hf.load_model(tmp_path / "saved").eval()(input_ids=ids).logits, expected)
    if changes:
        with torch.no_grad():
            plain = hf.new_model(mini, processor, 0).eval()
            plain.language_model.load_state_dict(source.state_dict(), strict="bias" not in str(changes))
            assert not torch.equal(plain(input_ids=ids).logits, expected), "the preset's numbers give something else"


def test_an_untied_model_keeps_its_embeddings(mini, processor, tmp_path):
    source = language_model(mini, tmp_path / "lm", tie_word_embeddings=False)
    model = hf.model_from_parts(mini, processor, 0, None, str(tmp_path / "lm"))
    assert torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)
    assert torch.equal(model.get_output_embeddings().weight, source.lm_head.weight)
    assert not torch.equal(source.lm_head.weight, source.get_input_embeddings().weight)


@pytest.mark.parametrize("changes", [{"num_attention_heads": 2}, {"hidden_act": "relu"}, {"layer_norm_eps": 0.1}, {}])
def test_a_tower_computes_what_it_did(mini, processor, tmp_path, changes):
    torch.manual_seed(4)
    source = SiglipVisionModel(SiglipVisionConfig(**mini.vision_config | changes)).eval()
    source.save_pretrained(tmp_path / "tower")
    model = hf.model_from_parts(mini, processor, 0, str(tmp_path / "tower")).eval()
    tiles = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = source(pixel_values=tiles, output_hidden_states=True).hidden_states[-2]
        assert torch.equal(model.encode_tiles(tiles), expected)


def test_parts_saved_in_half_precision_give_a_model_in_fp32(mini, processor, tmp_path):
    source = language_model(mini, tmp_path / "whole").bfloat16()
    source.save_pretrained(tmp_path / "half")
    model = hf.model_from_parts(mini, processor, 0, None, str(tmp_path / "half"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight.float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64}, "hidden_size is 64, the preset has 48"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, the preset has 2"),
        ({"head_dim": 24, "num_key_value_heads": 1}, "num_key_value_heads is 1, the preset has 2; head_dim is 24"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "layers of sliding_attention"),
    ],
)
def test_what_does_not_fit_is_named(mini, processor, tmp_path, changes, message):
    language_model(mini, tmp_path / "lm", **changes)
    with pytest.raises(InputError, match=message):
        hf.model_from_parts(mini, processor, 0, None, str(tmp_path / "lm"))


def test_a_tower_of_another_size_is_named(mini, processor, tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**mini.vision_config | {"image_size": 64})).save_pretrained(tmp_path / "tower")
    with pytest.raises(InputError, match="does not fit the preset mini: image_size is 64, the preset has 32"):
        hf.model_from_parts(mini, processor, 0, str(tmp_path / "tower"))
