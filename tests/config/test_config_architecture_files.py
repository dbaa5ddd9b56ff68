"""An architecture in a YAML file of one's own: what it says is taken, what it leaves is the preset's."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from parsit import hf
from parsit.config import TrainConfig, first_stage, load_architecture, load_preset, split_preset
from parsit.model.summary import summarize
from parsit.types import InputError, UsageError


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_file_changes_single_values_of_its_base(write):
    name = write("base: smol\nmultimodal: {mm_pixel_shuffle: 7}\nprocessing: {read_prompt: Lies.}\n")
    mine, smol = load_architecture(name), load_architecture("smol")
    assert (mine.name, mine.vision_config, mine.text_config) == (name, smol.vision_config, smol.text_config)
    assert mine.multimodal == smol.multimodal | {"mm_pixel_shuffle": 7}
    assert mine.processing == smol.processing | {"read_prompt": "Lies."}
    assert load_architecture(write("description: as it is\n")).text_config["hidden_size"] == 2048  # qwen3-1.7b


def test_a_part_that_is_named_has_its_own_configuration(write, tmp_path):
    vision = load_architecture("qwen3-0.6b").vision_config
    AutoConfig.for_model(**vision).save_pretrained(tmp_path / "tower")
    mine = load_architecture(write(f"base: qwen3-4b\nvision_tower: {tmp_path / 'tower'}\n"))
    assert mine.vision_config == {}
    parts = summarize(hf.meta_model(hf.config_of(hf.compose(mine)))).parts
    assert (parts["vision_tower"], parts["language_model"]) == (79_343_616, 4_022_468_096)


def test_a_part_may_be_drawn_at_random(write):
    text = (
        "vision_tower: null\nvision_config: {model_type: siglip_vision_model, hidden_size: 64, intermediate_size: 96, "
    )
    text += "num_hidden_layers: 2, num_attention_heads: 2, image_size: 64, patch_size: 16}\n"
    mine = load_architecture(write(text))
    assert (mine.vision_tower, mine.vision_config["hidden_size"]) == (None, 64)
    assert hf.sound_config(mine).layout.image_size == 64


def test_stages_are_the_bases_with_the_files_own_values(write):
    name = write("base: qwen3-0.6b\nstages: {finetune: {learning_rate: 3.0e-5}}\n")
    assert load_preset(name) == load_preset("qwen3-0.6b") | {"architecture": name, "learning_rate": 3e-5}
    assert load_preset(f"{name}/lora") == load_preset("qwen3-0.6b/lora") | {"architecture": name}
    config = TrainConfig.from_preset(f"{name}/pretrain", data="d.jsonl", output_dir="out")
    assert (config.architecture, config.learning_rate) == (name, 1e-3)
    assert first_stage(config.architecture) == f"{name}/pretrain"
    assert first_stage(write("base: tiny\n")).endswith("mine.yaml/scratch")
    assert split_preset("a/b.yaml/lora") == ("a/b.yaml", "lora")
    assert split_preset("a/b.yaml") == ("a/b.yaml", "")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("vision_towr: x\n", UsageError, r"mine\.yaml: unknown key in the file 'vision_towr'; did you mean vision_t"),
        ("multimodal: {mm_pixel_shufle: 2}\n", UsageError, "in multimodal 'mm_pixel_shufle'; did you mean mm_pixel"),
        ("processing: {prompt: x}\n", UsageError, "unknown key in processing 'prompt'"),
        ("base: qwen3-1.7\n", UsageError, r"unknown base 'qwen3-1\.7'; did you mean qwen3-1\.7b"),
        ("text_config: {hidden_size: 4}\n", UsageError, "text_config has no model_type"),
        ("multimodal:\n", UsageError, "multimodal is None: it must be a section"),
        ("vision_tower: 4\n", UsageError, "vision_tower is 4: it must be a text"),
        ("- a\n", UsageError, "an architecture has sections such as"),
        ("a: [\n", InputError, r"mine\.yaml: not YAML"),
        ("stages: {pretain: {}}\n", UsageError, "unknown stage 'pretain'; did you mean pretrain"),
        ("stages: {pretrain: 4}\n", UsageError, r"stages\.pretrain is 4"),
        ("stages: {pretrain: {learning_rte: 4}}\n", UsageError, "unknown key 'learning_rte'; did you mean learning"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(write, text, error, message):
    name = write(text)
    with pytest.raises(error, match=message) as raised:
        _ = load_architecture(name), load_preset(f"{name}/pretrain")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"nowhere\.yaml: no architecture can be read there \(No such file"):
        load_architecture("nowhere.yaml")
    with pytest.raises(InputError, match=r"nowhere\.yaml: no architecture"):
        load_preset("nowhere.yaml/pretrain")
    with pytest.raises(UsageError, match="unknown preset"):
        load_preset("tiny/scratch/x")
