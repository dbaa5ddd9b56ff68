"""Parts of any family: what fits is composed with its own numbers, what does not is refused by its name in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, CLIPVisionConfig

from parsit import hf
from parsit.config import load_architecture
from parsit.model.decoder_trial import require_computes_alike
from parsit.model.summary import summarize
from parsit.types import InputError
from parts_support import SMALL_TEXT, bpe_tokenizer, save_decoder, save_tower

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"]


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer(CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")


REFUSED = {
    "mixtral": ({}, "is a mixture of experts (mixtral), whose packing is untested: choose a dense language model"),
    "qwen3_moe": ({}, "is a mixture of experts (qwen3_moe), whose packing is untested"),
    "mistral": ({}, "sees a window of 4096 tokens alone (sliding_window), and packed rows know none"),
    "gemma2": ({}, "has layers of sliding_attention, and packed rows know full_attention alone"),
    "t5": ({}, "is an encoder with a decoder (t5): choose a decoder alone"),
    "whisper": ({}, "is an encoder with a decoder (whisper): choose a decoder alone"),
    "bert": ({}, "is a bert"),  # for one reason or another, by transformers' version
    "gpt2": ({}, "is a gpt2 without a number for hidden_size, "),
    "mamba": ({}, "is a mamba, whose attention cannot be replaced: samples in a packed row would see each other"),
    "qwen2_vl": ({}, "is a qwen2_vl, which transformers has no plain causal language model for: choose a decoder"),
    "siglip": ({}, "is a siglip, which transformers has no plain causal language model for: choose a decoder"),
    "gemma": ({"final_logit_softcapping": 30.0}, "caps its scores (final_logit_softcapping is 30.0)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_decoder_that_does_not_fit_is_refused_by_its_configuration(mini, tmp_path, kind):
    changes, message = REFUSED[kind]
    AutoConfig.for_model(kind, **changes).save_pretrained(tmp_path / kind)
    with pytest.raises(InputError) as refused:
        hf.compose(mini, None, str(tmp_path / kind))
    assert str(refused.value).startswith(f"{tmp_path / kind}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CLIPVisionConfig(), "is a clip_vision_model: a vision tower must be one of siglip_vision_model, siglip"),
        (AutoConfig.for_model("qwen3"), "is a qwen3: a vision tower must be"),
        (AutoConfig.for_model("siglip_vision_model", num_channels=1), "has 1 channels: a page has 3"),
        (AutoConfig.for_model("siglip_vision_model", image_size=[64, 32]), "without a number for image_size"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(mini, tmp_path, config, message):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        hf.compose(mini, str(tmp_path))


def test_a_tower_of_another_scale_is_refused(mini, tmp_path):
    save_tower(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}))
    assert hf.compose(mini, str(tmp_path)).vision_config["image_size"] == 32
    file.write_text(json.dumps({"image_mean": [0.48, 0.46, 0.41]}))
    with pytest.raises(
        InputError, match=r"its pixels are scaled with image_mean \[0\.48, 0\.46, 0\.41\], SigLIP's with"
    ):
        hf.compose(mini, str(tmp_path))


def test_a_parsit_model_is_no_part(mini, tmp_path):
    hf.config_of(mini).save_pretrained(tmp_path)
    for parts in ((str(tmp_path), None), (None, str(tmp_path))):
        with pytest.raises(InputError, match="is a parsit"):
            hf.compose(mini, *parts)


def test_parts_are_counted_as_their_presets_are(tmp_path):
    """The Hub's own configurations of SmolLM2 and SigLIP2 in another preset's place; no weights are there."""
    smol, base = load_architecture("smol"), load_architecture("qwen3-1.7b")
    values = smol.text_config | {"vocab_size": 49152}
    AutoConfig.for_model(**values).save_pretrained(tmp_path / "lm")
    AutoConfig.for_model(**load_architecture("qwen3-0.6b").vision_config).save_pretrained(tmp_path / "tower")
    composed = hf.compose(base, str(tmp_path / "tower"), str(tmp_path / "lm"))
    parts = summarize(hf.meta_model(hf.sound_config(composed))).parts
    assert parts["language_model"] == 134_515_008
    assert (
        parts["vision_tower"]
        == summarize(hf.meta_model(hf.config_of(load_architecture("qwen3-0.6b")))).parts["vision_tower"]
    )
    assert composed.multimodal == base.multimodal


@pytest.mark.parametrize("kind", ["mistral", "olmo2", "granite", "cohere"])
def test_a_decoder_of_another_family_is_tried(mini, tokenizer, tmp_path, kind):
    """Granite and Cohere scale their scores behind lm_head, and no loss of ours would."""
    changes = {
        "mistral": {"sliding_window": None},
        "granite": {"logits_scaling": 8.0},
        "cohere": {"logit_scale": 0.0625},
    }
    save_decoder(tmp_path, kind, tokenizer, **changes.get(kind, {}))
    architecture = hf.compose(mini, None, str(tmp_path))
    processor = hf.new_processor(architecture)
    if kind in ("granite", "cohere"):
        with pytest.raises(
            InputError, match=r"its scores are not its lm_head's \(they differ by .*choose a decoder of"
        ):
            hf.model_from_parts(architecture, processor, 0, None, str(tmp_path))
        return
    model = hf.model_from_parts(architecture, processor, 0, None, str(tmp_path))
    assert model.config.text_config.model_type == kind
    assert model.language_model.config._attn_implementation == "sdpa"


def test_a_decoder_whose_layers_reach_over_the_cuts_is_refused(mini, tokenizer, tmp_path):
    save_decoder(tmp_path, "olmo2", tokenizer)
    architecture = hf.compose(mini, None, str(tmp_path))
    model = hf.model_from_parts(architecture, hf.new_processor(architecture), 0, None, str(tmp_path))

    def add_the_one_before(layer, arguments, output):  # as a convolution along the row does
        return output + output.roll(1, dims=1) * (torch.arange(output.shape[1]) > 0)[:, None]

    model.get_decoder().norm.register_forward_hook(add_the_one_before)
    with pytest.raises(InputError, match=r"there: its packed rows compute something else \(they differ by"):
        require_computes_alike(model, "there")
    # A family whose packing is tested by itself is not tried.
    model.config.text_config.model_type = "llama"
    require_computes_alike(model, "there")


def test_rows_of_added_tokens_are_drawn_by_the_seed(mini, tmp_path):
    save_tower(tmp_path / "tower")
    save_decoder(tmp_path / "lm", "llama", bpe_tokenizer(["</s>"], eos_token="</s>"))
    architecture = hf.compose(mini, str(tmp_path / "tower"), str(tmp_path / "lm"))
    rows = []
    for seed in (1, 1, 2):
        processor = hf.new_processor(architecture)
        model = hf.model_from_parts(architecture, processor, seed, str(tmp_path / "tower"), str(tmp_path / "lm"))
        rows.append(model.get_input_embeddings().weight[-len(processor.added_tokens) :])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert rows[0].std() > 0


def test_a_tokenizer_may_be_left_as_it_is(mini, tmp_path):
    save_decoder(tmp_path, "llama", bpe_tokenizer(["</s>"], eos_token="</s>"))
    architecture = replace(hf.compose(mini, None, str(tmp_path)), processing={"mm_use_im_patch_token": False})
    with pytest.raises(
        InputError, match=r"the tokenizer for mini: the tokenizer has no <\|im_start\|>, <\|image_pad\|>"
    ):
        hf.new_processor(architecture)


def test_sizes_of_the_preset_are_asked_of_its_own_parts_alone(mini, tokenizer, tmp_path):
    save_decoder(tmp_path, "qwen3", tokenizer, **SMALL_TEXT)
    with pytest.raises(InputError, match="does not fit the preset mini: hidden_size is 32, the preset has 48"):
        hf.model_from_parts(mini, hf.new_processor(mini), 0, None, str(tmp_path))
