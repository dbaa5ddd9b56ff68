"""`parsit data`: the command line, as a process where that matters."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from parsit.cli import data
from parsit.types import UsageError
from process_support import everything_shown


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "parsit.cli", "data", *argv], capture_output=True, text=True)


def test_help_lists_the_sub_verbs(capsys):
    assert data.main(["--help"]) == 0
    assert "synth" in capsys.readouterr().out
    assert data.main([]) == 2
    assert "synth" in capsys.readouterr().out


def test_an_unknown_sub_verb_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown sub-verb 'synht'; did you mean synth\?"):
        data.main(["synht"])


@pytest.mark.slow
def test_a_run_prints_a_summary_and_nothing_else(tmp_path):
    out = tmp_path / "set"
    done = run("synth", "--out", str(out), "--pages", "4", "--kinds", "form,receipt", "--dpi", "96", "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 pages, 12 records (train ")
    assert "pages/s" in done.stdout
    assert done.stdout.endswith(f": {out}\n")
    settings = json.loads((out / "synth.json").read_text())["settings"]
    assert (settings["kinds"], settings["dpi"]) == (["form", "receipt"], [96, 96])


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--kinds", "leter"], 2, "unknown kind 'leter'; did you mean letter?"),
        (["--dpi", "fine"], 2, "--dpi must be LOW-HIGH"),
        (["--page", "3"], 2, "did you mean --pages?"),
        (["--unit", "word"], 2, "--unit"),
        (["--out", "."], 1, "exists: choose another --out"),
    ],
)
def test_mistakes_get_one_line(tmp_path, arguments, code, line):
    done = run("synth", "--out", str(tmp_path / "set"), "--pages", "1", *arguments)
    assert done.returncode == code
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_missing_extra_is_named(tmp_path):
    argv = ["parsit", "data", "synth", "--out", str(tmp_path / "set"), "--pages", "1"]
    done = script(
        f"import sys; sys.modules['typst'] = None; sys.argv = {argv}; from parsit.cli.main import main; main()"
    )
    assert done.returncode == 1
    assert done.stderr == (
        "parsit: making documents needs the typst typesetter and its fonts: pip install parsit[synth]\n"
    )
    assert not list(tmp_path.iterdir())


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    argv = ["synth", "--out", str(tmp_path / "set"), "--pages", "1", "--unit", "line", "--workers", "1"]
    done = script(
        f"import sys; from parsit.cli.data import main; main({argv});"
        " sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr


def test_a_terminal_sees_a_bar(tmp_path):
    here, there = pty.openpty()
    command = [sys.executable, "-m", "parsit.cli", "data", "synth", "--out", str(tmp_path / "set"), "--pages", "3"]
    subprocess.run([*command, "--workers", "1"], stderr=there, stdout=subprocess.PIPE, check=True)
    os.close(there)
    shown = everything_shown(here)
    assert "3/3" in shown
    assert "ETA" in shown
