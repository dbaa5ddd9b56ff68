"""`--help`: short for the verbs with many flags, whole on demand, in groups, with examples that are true."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest

from parsit.cli.examples import EXAMPLES
from parsit.cli.main import dispatch
from parsit.cli.parser import Parser
from parsit.cli.run_flags import EVERYDAY, GROUPS
from parsit.config import TrainConfig


def help_of(*words, **environment):
    command = [sys.executable, "-m", "parsit.cli", *words]
    result = subprocess.run(
        command, capture_output=True, check=False, timeout=60, env=os.environ | {"COLUMNS": "100"} | environment
    )
    assert (result.returncode, result.stderr) == (0, b""), result.stderr.decode()
    return result.stdout.decode()


def flags_in(text):
    """The flags that stand at the beginning of their line's entry."""
    return [line.split()[0] for line in text.splitlines() if line.startswith("  --")]


def test_every_flag_of_a_run_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted({f.name for f in fields(TrainConfig)} - {"architecture"})
    assert set(EVERYDAY) <= set(grouped)
    assert len(EVERYDAY) < len(grouped) / 3


def test_the_short_help_has_the_everyday_flags_and_says_where_the_others_are():
    text = help_of("train", "--help")
    assert sorted(flags_in(text)) == sorted(f"--{name}" for name in EVERYDAY)
    assert text.startswith("usage: parsit train PRESET[/STAGE] --data FILE… --output_dir DIR [flags]\n")
    assert f"{len(EVERYDAY)} of {len(fields(TrainConfig)) - 1} flags: `parsit train --help all` shows all." in text
    assert len(text.splitlines()) < 90


def test_the_whole_help_has_every_flag_under_its_group():
    text = help_of("train", "-h", "all")
    for title, names in GROUPS.items():
        section = text.split(f"\n\n{title}:\n")[1].split("\n\n")[0]
        assert flags_in(section) == [f"--{name}" for name in names]
    assert "`--help all`" not in text
    assert "--report_to wandb|tensorboard|trackio|mlflow|none" in text
    assert "--bits 4|16" in text
    assert "null" not in text


def test_the_values_are_those_of_the_preset_that_is_named():
    assert "peak learning rate [0.003]" in help_of("train", "tiny", "--help")
    assert "peak learning rate [1e-05]" in help_of("train", "qwen3-1.7b/finetune", "--help")


def test_check_has_the_flags_of_train_and_its_own():
    short, whole = help_of("check", "--help"), help_of("check", "--help", "all")
    own = ["--max_memory_gb", "--no_step"]
    assert flags_in(short)[:2] == own
    assert sorted(flags_in(whole)) == sorted([*own, *flags_in(help_of("train", "--help", "all"))])


def test_presets_are_named():
    text = " ".join(help_of("train", "--help").split())
    names = "tiny, smol, qwen3-0.6b, qwen3-1.7b, qwen3-1.7b-native, qwen3-4b, qwen3-8b"
    assert (
        f"{names}, each with /finetune, /lora, /pretrain; also tiny/scratch, tiny/tower; or an architecture's YAML file"
        in text
    )


class ParsedError(Exception):
    """The command line was taken; what comes next would read files."""


@pytest.mark.parametrize("prog", EXAMPLES)
def test_each_verb_shows_two_examples_that_it_takes(prog, monkeypatch, capsys):
    parse_args = Parser.parse_args

    def stop_after(parser, *arguments):
        assert parser.prog == prog
        parse_args(parser, *arguments)
        raise ParsedError

    assert len(EXAMPLES[prog]) == 2
    with pytest.raises(SystemExit, match="0"):
        dispatch([*prog.split()[1:], "--help"])
    text = capsys.readouterr().out
    monkeypatch.setattr(Parser, "parse_args", stop_after)
    for example in EXAMPLES[prog]:
        assert f"\n  {example}\n" in text
        with pytest.raises(ParsedError):
            dispatch(shlex.split(example)[1:])


def test_every_verb_has_examples():
    from parsit.cli.data import SUBVERBS
    from parsit.cli.main import VERBS

    verbs = {f"parsit {verb}" for verb in VERBS if verb != "data"} | {f"parsit data {verb}" for verb in SUBVERBS}
    assert set(EXAMPLES) == verbs


def test_help_is_shown_where_stdout_is_not_utf8():
    text = help_of("train", "--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "--data FILE\\u2026" in text


@pytest.mark.parametrize(
    ("preset", "near"), [("tinny", "tiny"), ("tiny/scrach", "tiny/scratch"), ("qwen3-1.7/lora", "qwen3-1.7b/lora")]
)
def test_a_mistyped_preset_gets_a_suggestion(preset, near):
    command = [sys.executable, "-m", "parsit.cli", "train", preset, "--data", "x"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith(f"parsit: unknown preset {preset!r}; did you mean {near}?")
    assert result.stderr.count("\n") == 1
