"""The command as a user meets it: help at once, unknown names, exit codes, no torch before it is needed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest


def parsit(*arguments, **options):
    command = [sys.executable, "-m", "parsit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def processor_seconds(*arguments):
    """A command's result, and the processor time that it took, which other work on the machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = parsit(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_in_under_a_second_and_lists_every_verb():
    result, seconds = processor_seconds("--help")
    assert result.returncode == 0
    assert seconds < 1
    for verb in ("info", "data", "train", "eval", "parse", "ask"):
        assert f"  {verb}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), None),
        (("trian",), "did you mean train?"),
        (("train", "tiny", "--data", "x", "--learning_rat", "1"), "did you mean --learning_rate?"),
        (("train", "tiny", "--learning_rate", "fast"), "learning_rate"),
        (("train", "tiny/scrach", "--data", "x"), "did you mean tiny/scratch?"),
        (("train", "tiny", "--output_dir", "x"), "needs --data"),
        (("train", "tiny", "--data", "x", "--output_dir", "y", "--max_steps", "0"), "--max_steps is 0"),
        (("info", "tiny", "--jsn"), "did you mean --json?"),
        (("data", "sinth"), "synth"),
        (("eval", "somewhere"), "data"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_code_2(arguments, said):
    code = (
        "import sys\nfrom parsit.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    assert 'torch' not in sys.modules, 'torch was imported for a usage error'\n"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    if said is not None:
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


def test_abbreviated_options_are_refused():
    result = parsit("info", "tiny", "--js")
    assert result.returncode == 2
    assert "unknown option --js" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "projector"), [("qwen3-1.7b", 6_561_792), ("qwen3-4b", 9_512_960)])
def test_info_counts_exactly_offline_in_under_ten_seconds(preset, projector):
    result, seconds = processor_seconds("info", preset, "--json")
    assert seconds < 10
    facts = json.loads(result.stdout)
    assert facts["projector"] == projector
    language_models = {"qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096}  # as their safetensors on the Hub count
    assert facts["language_model"] == language_models[preset]
    hidden = {"qwen3-1.7b": 2048, "qwen3-4b": 2560}[preset]
    assert facts["total"] == facts["vision_tower"] + projector + facts["language_model"] + hidden  # image_newline


@pytest.mark.slow
def test_info_of_tiny_is_at_most_20_million_and_reads_as_a_table():
    facts = json.loads(parsit("info", "tiny", "--json").stdout)
    assert facts["total"] <= 20_000_000
    text = parsit("info", "tiny").stdout
    assert "A4 page at 150 dpi" in text
    assert f"{facts['total']:,}" in text


def test_info_of_what_is_not_there_names_the_nearest():
    result = parsit("info", "qwen3-1.7")
    assert result.returncode == 1
    assert result.stderr.strip() == (
        "parsit: unknown preset or folder 'qwen3-1.7'; did you mean qwen3-1.7b? "
        "(known: tiny, smol, qwen3-0.6b, qwen3-1.7b, qwen3-1.7b-native, qwen3-4b, qwen3-8b)"
    )


def test_version():
    assert parsit("--version").stdout.strip() == "0.1.0"
