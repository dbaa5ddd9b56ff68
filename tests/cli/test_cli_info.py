"""`parsit info` of presets, files and other parts: exact counts, from configurations alone."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from parsit.cli import info
from parsit.config import load_architecture
from parsit.types import InputError, UsageError

# As their safetensors on the Hub count.
LANGUAGE_MODELS = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}


def facts(capsys, *argv) -> dict:
    assert info.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The configurations of the presets' own parts, as the Hub has them; no weights, and a tokenizer for SmolLM2."""
    folder = tmp_path_factory.mktemp("parts")
    for name in LANGUAGE_MODELS:
        architecture = load_architecture(name)
        AutoConfig.for_model(**architecture.text_config).save_pretrained(folder / name)
        AutoConfig.for_model(**architecture.vision_config).save_pretrained(folder / f"tower-of-{name}")
    smol = load_architecture("smol").text_config | {"vocab_size": 49152}
    AutoConfig.for_model(**smol).save_pretrained(folder / "smollm2")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*special, *pre_tokenizers.ByteLevel.alphabet()]
    words += [f"token{number}" for number in range(49152 - len(words))]
    raw = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.add_special_tokens(special)
    roles = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **roles).save_pretrained(folder / "smollm2")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_presets_own_parts_count_what_the_preset_does(folder, capsys, name):
    preset = facts(capsys, name)
    assert preset["language_model"] == LANGUAGE_MODELS[name]
    base = "qwen3-1.7b" if name != "qwen3-0.6b" else name  # whose tiles are its own
    composed = facts(
        capsys, base, "--vision_tower", str(folder / f"tower-of-{name}"), "--model_name_or_path", str(folder / name)
    )
    assert composed["model"].startswith(f"{base} --vision_tower ")
    assert composed | {"model": name} == preset


def test_without_a_preset_parts_are_joined_as_the_default_joins_them(folder, capsys):
    parts = ("--vision_tower", str(folder / "tower-of-qwen3-0.6b"), "--model_name_or_path", str(folder / "qwen3-8b"))
    found = facts(capsys, *parts)
    assert found == facts(capsys, "qwen3-1.7b", *parts)
    assert (found["vision_tower"], found["language_model"]) == (79_343_616, LANGUAGE_MODELS["qwen3-8b"])
    assert found["projector"] == 768 * 4096 + 3 * 4096 + 4096 * 4096 + 4096
    shuffled = facts(capsys, *parts, "--mm_pixel_shuffle", "2", "--mm_spatial_pool_stride", "1")
    assert shuffled["projector"] == found["projector"] + 3 * 768 * 4096
    assert shuffled["a4_150dpi"] == found["a4_150dpi"]


def test_rows_for_what_a_tokenizer_lacks_are_counted(folder, capsys):
    found = facts(capsys, "smol", "--model_name_or_path", str(folder / "smollm2"))
    assert found["language_model"] == 134_515_008 + 3 * 576
    info.main(["--model_name_or_path", str(folder / "qwen3-0.6b")])
    said = capsys.readouterr()
    assert "qwen3-0.6b: no tokenizer there" in said.err.replace("\n", "")
    assert "596,049,920" in said.out


def test_a_file_of_ones_own_is_counted(folder, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: qwen3-1.7b\nmodel_name_or_path: {folder / 'qwen3-4b'}\n")
    assert facts(capsys, str(file)) == facts(capsys, "qwen3-4b") | {"model": str(file)}


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["smol", "--mm_pixel_shuffle", "5"], UsageError, "--mm_pixel_shuffle 5 does not divide the tower's 14 x 14"),
        (["tiny", "--mm_projector_type", "mlp2x_relu"], UsageError, "--mm_projector_type is 'mlp2x_relu'"),
        (["nowhere.yaml"], InputError, r"nowhere\.yaml: no architecture can be read there"),
        (["--model_name_or_path", "./nowhere"], InputError, r"\./nowhere: no such folder"),
    ],
)
def test_what_cannot_be_counted_is_said_in_one_line(argv, error, message):
    with pytest.raises(error, match=message) as raised:
        info.main(argv)
    assert "\n" not in str(raised.value)


def test_a_models_folder_is_as_it_is(mini, tmp_path, capsys):
    from parsit import hf

    hf.config_of(mini).save_pretrained(tmp_path)
    assert facts(capsys, str(tmp_path))["context"] == 1024
    with pytest.raises(UsageError, match=r"--mm_pixel_shuffle: .* is a model with parts of its own; name a preset"):
        info.main([str(tmp_path), "--mm_pixel_shuffle", "2"])
