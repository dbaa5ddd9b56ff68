"""`parsit data convert` and `scripts/data_converter.py`: exit codes, reports, options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parsit.cli.data_convert import convert, parse_convert
from parsit.data.files import read_files
from parsit.types import UsageError

SCRIPT = Path(__file__).parents[2] / "scripts" / "data_converter.py"
GOOD = {"messages": [{"role": "user", "content": "2 + 2?", "name": "Ann"}, {"role": "assistant", "content": "4"}]}
BAD = {"messages": [{"role": "robot", "content": "x"}]}


def write(path, *records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)


def script(*argv):
    return subprocess.run([sys.executable, SCRIPT, *argv], capture_output=True, text=True, check=False)


def test_the_report_says_what_was_done(tmp_path, capsys):
    source = write(tmp_path / "in.json", GOOD, GOOD, BAD)
    assert convert(["--input", source, "--output", str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "records: 3 (openai 2)",
        f"converted: 2 to parsit: {tmp_path}/out.json",
        "not carried over (records): messages[].name in 2",
        f"set aside: 1, listed in {tmp_path}/out.json.findings.jsonl",
        "  role-unknown: 1 (a turn's role is none that is known; use human, gpt or system (user, assistant))",
    ]
    assert len(read_files([tmp_path / "out.json"])) == 2


def test_notes_alone_are_no_failure(tmp_path, capsys):
    source = write(
        tmp_path / "in.json",
        GOOD | {"image": "0.png", "messages": [{"role": "user", "content": "<image>"}, GOOD["messages"][1]]},
    )
    assert convert(["--input", source, "--output", str(tmp_path / "out.jsonl"), "--to", "sharegpt"]) == 0
    assert "images: 0 looked at, 1 not: name their --image_folder" in capsys.readouterr().out


def test_every_option_arrives():
    files = ["--input", "a.tar", "--output", "b.parquet", "--image_folder", "f"]
    formats = ["--format", "webdataset", "--to", "huggingface"]
    settings = parse_convert([*files, *formats, "--embed_images", "--overwrite"])
    assert (settings.input, settings.output, settings.image_folder) == (Path("a.tar"), Path("b.parquet"), Path("f"))
    assert (settings.format_name, settings.to, settings.embed_images, settings.overwrite) == (
        "webdataset",
        "huggingface",
        True,
        True,
    )


@pytest.mark.parametrize("options", [["--to", "alpaca"], ["--inptu", "x"], []])
def test_wrong_usage_exits_with_2(tmp_path, options):
    source = write(tmp_path / "in.json", GOOD)
    with pytest.raises(SystemExit) as caught:
        convert(["--input", source, *(["--output", str(tmp_path / "o.json")] if options else []), *options])
    assert caught.value.code == 2


def test_errors_come_before_any_output(tmp_path):
    source = write(tmp_path / "in.json", GOOD)
    with pytest.raises(UsageError, match="would overwrite the input"):
        convert(["--input", source, "--output", source, "--overwrite"])
    with pytest.raises(UsageError, match="--output must end in"):
        convert(["--input", source, "--output", str(tmp_path / "out.txt")])
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize("word", ["--validate-only", "--validate_only"])
def test_the_script_validates(tmp_path, word):
    source = write(tmp_path / "in.json", GOOD, BAD)
    ran = script("--input", source, word, "--format", "auto")
    assert ran.returncode == 1, ran.stderr
    assert "role-unknown" in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.slow
def test_the_script_converts(tmp_path):
    source = write(tmp_path / "in.json", GOOD)
    target = str(tmp_path / "out.tar")
    ran = script("--input", source, "--output", target, "--format", "auto", "--to", "webdataset")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert script("--input", target, "--validate-only", "--format", "webdataset").returncode == 0
    ran = script("--input", source, "--output", target)
    assert ran.returncode == 1
    assert ran.stderr == f"data_converter: {target} exists: choose another --output, or add --overwrite to replace it\n"
    assert script("--input", source, "--output", str(tmp_path / "out.txt")).returncode == 2
