"""The recipe of parsit-tiny: its lists, and its stages, run one after the other on the smallest data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import matplotlib
import pytest

from parsit.synth import SynthSettings
from parsit.synth.sample_pdf import write_sample_pdf

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny"


def packages(name: str) -> list[str]:
    return [line for line in (RECIPE / name).read_text().splitlines() if not line.startswith("#")]


def test_no_package_is_trained_on_and_kept_apart():
    held_out, trained = packages("held-out-packages.txt"), packages("train-packages.txt")
    assert held_out == sorted(set(held_out))
    assert trained == sorted(set(trained))
    assert not set(held_out) & set(trained)


def stage(folder: Path, name: str, **environment: str) -> subprocess.CompletedProcess:
    tools = {"PARSIT": str(Path(sysconfig.get_path("scripts")) / "parsit"), "PYTHON": sys.executable}
    given = os.environ | tools | {"DIR": str(folder)} | environment
    command = [str(RECIPE / "run.sh"), name]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=3000)


def test_a_stage_that_does_not_exist_is_answered_with_those_that_do(tmp_path):
    result = stage(tmp_path, "everything")
    assert result.returncode == 2
    assert "pdfs | fonts | crops | precision | tower | reader | wider | manuals | scores" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the stages are a bash script")
def test_the_stages_follow_each_other(tmp_path):
    for part, seed in (("train", 1), ("held-out", 2)):
        (tmp_path / "pdfs" / part / "some-doc").mkdir(parents=True)
        settings = SynthSettings(tmp_path, 1)
        write_sample_pdf(tmp_path / "pdfs" / part / "some-doc" / "a.pdf", ("letter",), settings, seed)
    fonts = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf"
    (tmp_path / "fonts").mkdir()
    shutil.copy(fonts / "DejaVuSerif.ttf", tmp_path / "fonts")
    (tmp_path / "bf16").write_text("false\n")  # measuring it takes longer than all the stages
    small = {"PAGES": "60", "MORE_PAGES": "20", "MANUAL_PAGES": "20"}
    small |= {"TOWER_STEPS": "2", "READER_STEPS": "2", "WIDER_STEPS": "2", "MANUALS_STEPS": "2"}
    for name in ("crops", "tower", "reader", "wider", "manuals", "scores"):
        result = stage(tmp_path, name, **small)
        assert result.returncode == 0, (name, result.stderr[-2000:])
    for lines in ("synth", "held-out"):
        assert json.loads((tmp_path / "scores" / lines / "results.json").read_text())
