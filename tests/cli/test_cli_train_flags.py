"""Flags that change the architecture reach the model and the processor; nothing is trained here."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from parsit import hf
from parsit.cli.parser import nearest
from parsit.cli.train import parse
from parsit.config import LLAVA_FLAGS, TrainConfig
from parsit.train.prepare import prepare
from parsit.train.start import architecture_of
from parsit.train.world import World
from parsit.types import UsageError

TILED = str(Path(__file__).parents[1] / "tiled.yaml")
BASE = [TILED, "--data", "x", "--output_dir", "y"]


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
    assert len(hf.new_processor(architecture).tokenizer) == 346  # the shipped one has them already


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("image_aspect_ratio", "square", "--image_aspect_ratio is 'square': use pad, anyres or anyres_max_N"),
        ("image_aspect_ratio", "anyres_max_0", "--image_aspect_ratio is 'anyres_max_0'"),
        ("image_grid_pinpoints", "[[100,100]]", "--image_grid_pinpoints must be multiples of the tile size"),
        ("image_grid_pinpoints", "2 by 2", "--image_grid_pinpoints '2 by 2': write (1x1),...,(6x6)"),
        ("mm_patch_merge_type", "round", "--mm_patch_merge_type is 'round': use one of flat"),
        ("mm_projector_type", "mlp", "--mm_projector_type is 'mlp': use linear, identity"),
        ("mm_projector_type", "identity", "--mm_projector_type identity cannot turn"),
        ("mm_spatial_pool_mode", "sum", "--mm_spatial_pool_mode is 'sum': use one of average"),
        ("mm_spatial_pool_stride", "99", "--mm_spatial_pool_stride 99 does not fit"),
        ("mm_pixel_shuffle", "3", "--mm_pixel_shuffle 3 does not divide"),
        ("mm_vision_select_layer", "-99", "--mm_vision_select_layer -99 does not exist in a tower"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_value_that_makes_no_model_is_one_line_before_data_is_looked_at(flag, value, message, dry):
    with pytest.raises(UsageError) as raised:
        prepare(parse([*BASE, f"--{flag}={value}"]), World(), dry=dry)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("flag", ["bf16", "tf32"])
@pytest.mark.parametrize("words", [["--bf16", "True"], ["--bf16=True"], ["--bf16", "true"]])
def test_number_formats_are_taken_as_llavas_scripts_write_them(words, flag):
    words = [word.replace("bf16", flag) for word in words]
    assert getattr(parse([*BASE, *words]), flag) == "true"
    assert parse([*BASE, *(word.replace("T", "t") for word in words), "--run_name", "True"]).run_name == "True"


def test_a_command_of_llava_next_is_answered_all_at_once():
    command = shlex.split(
        "--deepspeed scripts/zero3.json --model_name_or_path Qwen/Qwen3-1.7B --version qwen_1_5 --data_path a.yaml "
        "--image_folder images --mm_tunable_parts mm_vision_tower,mm_mlp_adapter,mm_language_model "
        "--mm_vision_tower_lr 2e-6 --vision_tower google/siglip2-so400m-patch14-384 --mm_projector_type mlp2x_gelu "
        "--mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False "
        "--group_by_modality_length True --image_aspect_ratio anyres_max_9 --image_grid_pinpoints '(1x1),...,(6x6)' "
        "--mm_patch_merge_type spatial_unpad --bf16 True --run_name x --output_dir y --num_train_epochs 1 "
        "--per_device_train_batch_size 1 --per_device_eval_batch_size 4 --gradient_accumulation_steps 2 "
        "--evaluation_strategy no --save_strategy steps --save_steps 1000 --save_total_limit 1 --learning_rate 1e-5 "
        "--weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True "
        "--model_max_length 32768 --gradient_checkpointing True --dataloader_num_workers 4 --lazy_preprocess True "
        "--report_to wandb --torch_compile False --torch_compile_backend inductor --dataloader_drop_last True "
        "--frames_upbound 32 --mm_newline_position one_token --attn_implementation sdpa --epochs 3"
    )
    with pytest.raises(UsageError) as raised:
        parse(["qwen3-1.7b/finetune", *command])
    said = str(raised.value)
    theirs = ["version", "data_path", "group_by_modality_length", "evaluation_strategy", "save_strategy"]
    theirs += ["lazy_preprocess", "torch_compile_backend", "dataloader_drop_last", "frames_upbound"]
    theirs += ["mm_newline_position"]
    assert [name for name in theirs if f"--{name}: " not in said] == []
    assert "unknown option --epochs, did you mean --num_train_epochs?" in said
    assert "\n" not in said
    left = [word for word in command if word.startswith("--") and word.removeprefix("--") not in (*theirs, "epochs")]
    kept = [word for name in left for word in command[command.index(name) : command.index(name) + 2]]
    parse(["qwen3-1.7b/finetune", "--data", "a.yaml", *kept])  # the others mean the same here


def test_the_documentation_has_every_flag_of_llavas_table_and_none_that_is_ours():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    ours = {field.name for field in fields(TrainConfig)}
    for name, text in LLAVA_FLAGS.items():
        (row,) = [
            line for line in page.splitlines() if line.startswith("| `--") and f"`--{name}`" in line.split(" | ")[0]
        ]
        assert row.endswith(f" | {text} |"), name
        assert name not in ours
        for flag in re.findall(r"`--(\w+)", text):
            assert flag in ours, f"{name} is answered with {flag}, which is no flag"


@pytest.mark.parametrize(
    ("flag", "near"),
    [("--lr", "--learning_rate"), ("--epochs", "--num_train_epochs"), ("--learning_rat", "--learning_rate"),
     ("--lora_rank", "--lora_r"), ("--batch_size", "--per_device_eval_batch_size"), ("--outputdir", "--output_dir"),
     ("--xyzzy", None)],
)  # fmt: skip
def test_the_flag_that_is_probably_meant(flag, near):
    assert nearest(flag, [f"--{field.name}" for field in fields(TrainConfig)]) == near


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optim", "sgd"], "--optim is sgd: it must be one of adamw, adamw_bf16, muon"),
        (["--bits", "8"], "--bits is 8: it must be one of 4, 16"),
        (["--max_steps", "1.5"], "--max_steps is 1.5: it must be a whole number"),
        (["--learning_rate", "fast"], "--learning_rate is fast: it must be a number"),
        (["--packing", "maybe"], "--packing is maybe: it must be true or false"),
        (["--mm_projector_lr", "x"], "--mm_projector_lr is x: it must be a number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_in_plain_words(words, said, capsys):
    with pytest.raises(SystemExit):
        parse([*BASE, *words])
    err = capsys.readouterr().err
    assert err.startswith(f"parsit train: {said}")
    assert err.count("\n") == 1
