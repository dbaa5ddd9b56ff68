"""Presets: every one is whole, and says nothing that no flag has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from parsit import hf
from parsit.config import TrainConfig, architecture_names, load_architecture, load_preset, preset_names
from parsit.model.summary import summarize
from parsit.types import UsageError


@pytest.mark.parametrize("name", preset_names())
def test_every_training_preset_is_a_valid_configuration(name):
    config = TrainConfig(**load_preset(name))
    assert config.architecture == name.split("/")[0]
    assert yaml.safe_load(config.to_yaml())["learning_rate"] == config.learning_rate


def test_the_stages_train_what_they_are_called_after():
    assert load_preset("qwen3-1.7b/pretrain")["mm_tunable_parts"] == "mm_mlp_adapter"
    assert load_preset("qwen3-1.7b/pretrain")["learning_rate"] == 1e-3
    assert load_preset("qwen3-4b/pretrain")["learning_rate"] == 8e-4
    assert load_preset("qwen3-4b/finetune")["mm_vision_tower_lr"] == 1e-6
    assert load_preset("qwen3-4b") == load_preset("qwen3-4b/finetune")
    assert load_preset("tiny") == load_preset("tiny/scratch")


@pytest.mark.parametrize("name", architecture_names())
def test_every_architecture_reads_a_page_within_its_context_at_a_legible_resolution(name):
    summary = summarize(hf.meta_model(hf.config_of(load_architecture(name))))
    assert summary.page_tokens + 1024 <= summary.context
    if load_architecture(name).processing["reading_unit"] == "page":
        assert summary.page_dpi >= 90  # LLaVA's 2 x 2 tiles of 384 px give 65


def test_hub_ids_are_those_that_exist():
    assert load_architecture("qwen3-1.7b").model_name_or_path == "Qwen/Qwen3-1.7B"
    assert load_architecture("qwen3-4b").model_name_or_path == "Qwen/Qwen3-4B"
    assert load_architecture("qwen3-4b").vision_tower == "google/siglip2-so400m-patch14-384"


def test_smol_has_smollm2s_parameters_and_three_added_tokens():
    summary = summarize(hf.meta_model(hf.config_of(load_architecture("smol"))))
    assert summary.parts["language_model"] == 134_515_008 + 3 * 576  # SmolLM2-135M's published count


@pytest.mark.parametrize(
    ("projector", "count"),
    [("linear", 32 * 48 + 48), ("mlp1x_gelu", 32 * 48 + 3 * 48), ("mlp3x_gelu", 32 * 48 + 3 * 48 + 2 * (48 * 48 + 48))],
)
def test_projector_types_have_the_parameters_that_their_names_say(mini, projector, count):
    architecture = replace(mini, multimodal={**mini.multimodal, "mm_projector_type": projector})
    assert summarize(hf.meta_model(hf.config_of(architecture))).parts["projector"] == count


def test_an_identity_projector_needs_equal_sizes(mini):
    identity = {**mini.multimodal, "mm_projector_type": "identity"}
    with pytest.raises(ValueError, match="identity cannot turn 32 features into 48"):
        hf.meta_model(hf.config_of(replace(mini, multimodal=identity)))
    equal = replace(mini, multimodal=identity, text_config={**mini.text_config, "hidden_size": 32})
    assert summarize(hf.meta_model(hf.config_of(equal))).parts["projector"] == 0
    with pytest.raises(ValueError, match="mm_projector_type is 'mlp2x_relu'"):
        hf.meta_model(hf.config_of(replace(mini, multimodal={"mm_projector_type": "mlp2x_relu"})))


@pytest.mark.parametrize(("layer", "built"), [(-1, 3), (-2, 2), (2, 2), (3, 3)])
def test_the_tower_is_built_up_to_the_selected_layer(mini, layer, built):
    architecture = replace(mini, multimodal={"mm_vision_select_layer": layer})
    assert len(hf.meta_model(hf.config_of(architecture)).vision_tower.encoder.layers) == built


def test_a_layer_that_the_tower_does_not_have_is_refused(mini):
    with pytest.raises(ValueError, match="mm_vision_select_layer -5 does not exist in a tower of 3 layers"):
        hf.config_of(replace(mini, multimodal={"mm_vision_select_layer": -5}))


def test_unknown_names_get_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean qwen3-1\.7b\?"):
        load_architecture("qwen3-1.7")
    with pytest.raises(UsageError, match="did you mean tiny/scratch"):
        load_preset("tiny/scrap")
