"""Where a model's parts come from: what is random must be trained, at a rate that is made for that."""

from __future__ import annotations

import shutil

import pytest
import torch
from dist_support import make_data
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from parsit import hf
from parsit.cli import check
from parsit.config import TrainConfig, load_architecture
from parsit.train.checks import check_origin
from parsit.train.fit import fit
from parsit.train.preflight import preflight, require_ready
from parsit.train.prepare import prepare, set_free
from parsit.train.world import World
from parsit.types import InputError

ALL = {"vision_tower", "projector", "image_newline", "language_model"}
NEW_PROJECTOR = {"projector", "image_newline"}
QUICK = {"max_steps": 1, "dataloader_num_workers": 0, "optim": "adamw", "model_max_length": 512}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data; `lm` and `tower`: pretrained parts of tiny's shapes; `run`: the output of a first stage; projectors."""
    folder = tmp_path_factory.mktemp("origin")
    make_data(folder)
    tiny = load_architecture("tiny")
    for name, auto, values in (
        ("lm", AutoModelForCausalLM, tiny.text_config),
        ("tower", AutoModel, tiny.vision_config),
    ):
        auto.from_config(AutoConfig.for_model(**values)).save_pretrained(folder / name)
    hf.shipped_tokenizer("characters").save_pretrained(folder / "lm")
    result = fit(config_of(folder, "tiny/scratch", folder / "run", **QUICK))
    model = hf.load_model(result.checkpoint)
    layers = {f"model.mm_projector.{name}": value for name, value in model.mm_projector.state_dict().items()}
    torch.save(layers, folder / "projector.bin")
    return folder


def config_of(folder, preset, out, **flags):
    return TrainConfig.from_preset(preset, data=folder / "d.jsonl", output_dir=out, **flags)


@pytest.mark.parametrize(
    ("preset", "parts", "drawn"),
    [
        ("tiny/scratch", (), ALL),
        ("tiny/pretrain", (), ALL),
        ("tiny/lora", (), ALL),
        ("tiny/pretrain", ("lm",), ALL - {"language_model"}),
        ("tiny/pretrain", ("lm", "tower"), NEW_PROJECTOR),
        ("tiny/pretrain", ("lm", "tower", "run"), set()),
        ("tiny/pretrain", ("lm", "tower", "projector.bin"), {"image_newline"}),
        ("tiny/scratch", ("lm", "tower"), ALL),
    ],
)
def test_what_was_drawn_is_known_from_where_it_came(folder, tmp_path, preset, parts, drawn):
    flags = {"lm": "model_name_or_path", "tower": "vision_tower"}
    given = {flags.get(part, "pretrain_mm_mlp_adapter"): str(folder / part) for part in parts}
    ready = prepare(config_of(folder, preset, tmp_path / "out", **given), World(), dry=True)
    assert ready.drawn == drawn


def test_a_parsit_folder_and_a_resumed_run_are_not_random(folder, tmp_path):
    from_run = config_of(folder, "tiny/pretrain", tmp_path / "out", model_name_or_path=folder / "run", **QUICK)
    assert prepare(from_run, World(), dry=True).drawn == set()
    fit(from_run)
    resumed = prepare(config_of(folder, "tiny/scratch", folder / "run", **QUICK | {"max_steps": 2}), World())
    assert (resumed.checkpoint, resumed.drawn) == (folder / "run" / "checkpoint-1", set())


@pytest.mark.parametrize(
    ("preset", "frozen"),
    [("tiny/pretrain", "vision_tower, language_model"), ("tiny/lora", "vision_tower, language_model")],
)
def test_random_frozen_parts_stop_check_and_train(folder, tmp_path, capsys, preset, frozen):
    command = [preset, "--data", str(folder / "d.jsonl"), "--output_dir", str(tmp_path / "out"), "--max_steps", "1"]
    assert check.main(command) == 1
    said = capsys.readouterr().out
    assert f"FAILED  origin     random and not trained, or not whole: {frozen}\n" in said
    assert "do: give the output of tiny/scratch, or another trained model, to --model_name_or_path" in said
    assert said.endswith("not ready: origin\n")
    with pytest.raises(InputError, match=f"origin: random and not trained, or not whole: {frozen}: .*tiny/scratch"):
        fit(config_of(folder, preset, tmp_path / "out", **QUICK))
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def found(mini, preset, drawn, **flags):
    """What is said of the miniature model under the flags of a preset."""
    config = TrainConfig.from_preset(preset, **flags)
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    set_free(model, config)
    return check_origin(model, config, drawn)


@pytest.mark.parametrize("size", ["1.7b", "4b"])
@pytest.mark.parametrize("stage", ["finetune", "lora"])
def test_a_new_projector_at_finetunings_rate_warns(mini, size, stage):
    flags = {"lora_enable": False}  # without adapters the towers are as frozen
    said = found(mini, f"qwen3-{size}/{stage}", NEW_PROJECTOR, **flags)
    assert (said.ok, said.warns) == (True, True)
    assert "too slow for what is new: projector" in said.detail
    rate = {"1.7b": "0.001", "4b": "0.0008"}[size]
    assert said.remedy == (
        f"begin with qwen3-{size}/pretrain and give its output to --model_name_or_path, or --mm_projector_lr {rate}"
    )
    assert not found(mini, f"qwen3-{size}/{stage}", NEW_PROJECTOR, mm_projector_lr=float(rate), **flags).warns
    assert not found(mini, f"qwen3-{size}/{stage}", set(), **flags).warns


@pytest.mark.parametrize(
    ("preset", "drawn", "ok", "warns"),
    [
        ("qwen3-1.7b/pretrain", NEW_PROJECTOR, True, False),
        ("qwen3-1.7b/pretrain", {"image_newline"}, True, False),
        ("qwen3-1.7b/finetune", ALL, True, True),
        ("tiny/scratch", ALL, True, False),
        ("tiny/finetune", ALL, True, True),
        ("smol/finetune", ALL - {"language_model"}, True, False),
        ("smol/pretrain", ALL - {"language_model"}, False, False),
        ("smol/pretrain", NEW_PROJECTOR, True, False),
    ],
)
def test_presets_say_what_they_need(mini, preset, drawn, ok, warns):
    said = found(mini, preset, drawn)
    assert (said.ok, said.warns) == (ok, warns), said


def test_a_random_tower_of_which_some_layers_are_trained(mini):
    said = found(mini, "tiny/scratch", ALL, mm_tunable_vision_layers="1")
    assert (said.ok, said.detail) == (False, "random and not trained, or not whole: vision_tower")


def test_the_warning_is_said_by_train(folder, tmp_path):
    said = []
    parts = {"model_name_or_path": folder / "lm", "vision_tower": folder / "tower"}
    config = config_of(folder, "tiny/pretrain", tmp_path / "out", **parts, **QUICK)
    require_ready(prepare(config, World()), said.append)
    assert said == []
    slow = config_of(folder, "tiny/pretrain", tmp_path / "out", learning_rate=1e-5, **parts, **QUICK)
    require_ready(prepare(slow, World()), said.append)
    assert [line.split(":")[:2] for line in said] == [["warning", " origin"]]
    assert "--mm_projector_lr 0.003" in said[0]


@pytest.fixture
def without_image_tokens(folder, tmp_path):
    """The pretrained language model with a tokenizer that knows no images, as SmolLM2's."""
    lm = shutil.copytree(folder / "lm", tmp_path / "lm")
    words = {chr(code): code for code in range(128)}
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token=" ")))
    plain.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]})
    plain.pad_token = "<|endoftext|>"
    plain.save_pretrained(lm)
    return {"model_name_or_path": lm, "vision_tower": folder / "tower", "mm_use_im_patch_token": True}


def test_rows_of_added_tokens_are_told_and_frozen_ones_warned_of(folder, tmp_path, without_image_tokens):
    def said_of(preset, **flags):
        config = config_of(folder, preset, tmp_path / "out", **without_image_tokens, **QUICK, **flags)
        return {check.name: check for check in preflight(prepare(config, World(), dry=True))}.get("rows")

    frozen = said_of("tiny/pretrain")
    assert (frozen.ok, frozen.warns) == (True, True)
    assert frozen.detail == "random at first: <|vision_start|>, <|vision_end|>, and not trained"
    assert "--mm_use_im_start_end false" in frozen.remedy
    assert not said_of("tiny/finetune").warns
    assert said_of("tiny/pretrain", mm_use_im_start_end=False) is None
    without_image_tokens["model_name_or_path"] = folder / "lm"  # whose tokenizer has them
    assert said_of("tiny/pretrain") is None


@pytest.mark.parametrize(("flag", "part"), [("vision_tower", "tower"), ("model_name_or_path", "lm")])
def test_a_pretrained_part_that_a_run_from_scratch_would_pass_over_is_told(folder, tmp_path, flag, part):
    given = {flag: folder / part}
    run = prepare(config_of(folder, "tiny/scratch", tmp_path / "out", **given, **QUICK), World())
    with pytest.raises(InputError, match=f"with --from_scratch true nothing is taken of --{flag} .*{part}: give"):
        require_ready(run, print)
    taken = config_of(folder, "tiny/scratch", tmp_path / "out", from_scratch=False, **given, **QUICK)
    require_ready(prepare(taken, World()), print)
