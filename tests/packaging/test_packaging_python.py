"""The Python face: names that come when they are asked for, and docs/python.md, whose code is run."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import parsit
from parsit.cli.train import parse
from parsit.config import TrainConfig
from parsit.types import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_importing_is_light_and_every_name_comes_when_it_is_asked_for():
    code = (
        "import sys, parsit\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "assert set(parsit.__all__) <= set(dir(parsit)) and 'load' in dir(parsit)\n"
        "parsit.TrainConfig, parsit.Document, parsit.UsageError, parsit.__version__\n"
        "assert 'torch' not in sys.modules\n"
        "from parsit import *\n"
        "assert Reader.__module__ == 'parsit.parse.reader' and callable(fit) and callable(evaluate)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr


def test_names_that_type_checkers_see_are_those_that_are_imported():
    """py.typed promises types: a name from a module that lacks it would be of no type, without a word."""
    (block,) = (node for node in ast.parse(Path(parsit.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert set(seen) | {"__version__", "load", "evaluate"} == set(parsit.__all__)
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(parsit, name), name


def test_the_version_is_the_packages_and_a_wrong_name_says_so():
    from importlib.metadata import version

    assert parsit.__version__ == version("parsit")
    with pytest.raises(AttributeError, match="module 'parsit' has no attribute 'lod'"):
        _ = parsit.lod  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("preset", "flags", "words"),
    [
        ("tiny", {"data": "a.jsonl"}, ["--data", "a.jsonl"]),
        ("qwen3-4b/lora", {"data": ["a", Path("b")], "bits": 4}, ["--data", "a", "b", "--bits", "4"]),
        ("tiny", {"data": "a", "bf16": True}, ["--data", "a", "--bf16", "true"]),
        (
            "smol/pretrain",
            {"data": Path("a"), "eval_data": "v", "learning_rate": 0.5, "model_name_or_path": Path("m")},
            ["--data", "a", "--eval_data", "v", "--learning_rate", "0.5", "--model_name_or_path", "m"],
        ),
    ],
)
def test_a_preset_with_settings_is_what_the_command_line_makes_of_them(preset, flags, words):
    config = TrainConfig.from_preset(preset, output_dir=Path("out"), **flags)
    assert config == parse([preset, "--output_dir", "out", *words])
    assert "!!python" not in config.to_yaml()


@pytest.mark.parametrize(
    ("preset", "flags", "message"),
    [
        ("tiny/scrach", {}, "did you mean tiny/scratch?"),
        ("tiny", {"learning_rat": 1}, "unknown setting 'learning_rat'; did you mean learning_rate?"),
        ("tiny", {"architecture": "smol"}, "unknown setting 'architecture'"),
        ("tiny", {"optim": "adamm"}, "unknown value of --optim 'adamm'; did you mean adamw?"),
        ("tiny", {"bf16": "yes"}, "unknown value of --bf16 'yes'"),
    ],
)
def test_a_wrong_setting_is_one_line(preset, flags, message):
    with pytest.raises(UsageError) as raised:
        TrainConfig.from_preset(preset, **flags)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks() -> list[tuple[str, str]]:
    """(language, code) of the page's code blocks."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_pages_code_runs_from_top_to_bottom(here, capsys):
    names: dict[str, object] = {}
    assert {"sh", "python"} == {language for language, _ in blocks()}
    for language, code in blocks():
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            continue
        program, *arguments = shlex.split(code)
        assert program == "parsit"
        subprocess.run([sys.executable, "-m", "parsit.cli", *arguments], check=True, capture_output=True)
    out = capsys.readouterr().out
    assert "runs/tiny/checkpoint-4 4 " in out
    assert "did you mean tiny/scratch?" in out
    assert "nowhere: no model there" in out
    assert "<!-- page 1" in out


@pytest.mark.slow
def test_fit_learns_what_the_command_learns_to_the_bit(here, capsys):
    synth = ["data", "synth", "--out", "data", "--pages", "2", "--unit", "line", "--workers", "1"]
    subprocess.run([sys.executable, "-m", "parsit.cli", *synth], check=True, capture_output=True)
    flags = {"per_device_train_batch_size": 4, "max_steps": 2, "dataloader_num_workers": 0}
    parsit.fit(TrainConfig.from_preset("tiny/scratch", data="data/train.jsonl", output_dir="one", **flags))
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    train = ["train", "tiny/scratch", "--data", "data/train.jsonl", "--output_dir", "two", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "parsit.cli", *train], check=True, capture_output=True, env=environment)
    losses = [
        [json.loads(line)["loss"] for line in (here / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert losses[0] == losses[1]
    one, two = ((here / run / "checkpoint-2" / "model.safetensors").read_bytes() for run in ("one", "two"))
    assert one == two
