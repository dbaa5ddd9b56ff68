"""What needs a GPU is at least run in miniature on a CPU, every part of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("tests", "steps", "memory", "read", "run", "profile")


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """`make gpu-data` and `make gpu ARGS=--rehearse`; the second one's output, and its folder."""
    folder = tmp_path_factory.mktemp("gpu")
    words = ["data", "synth", "--out", str(folder / "data"), "--unit", "line", "--pages", "12", "--seed", "7"]
    subprocess.run([sys.executable, "-m", "parsit.cli", *words], check=True, capture_output=True)
    # Its own limit is that of a lent device: a busy machine's processors are three times as slow.
    words = ["--data", str(folder / "data"), "--out", str(folder / "out"), "--minutes", "60"]
    done = script("gpu.py", "--rehearse", *words)
    return done, folder / "out"


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_every_part_for_a_gpu_runs_in_miniature(rehearsal):
    done, out = rehearsal
    assert done.returncode == 0, done.stdout
    for part in PARTS:
        assert f"== {part}: done" in done.stdout
        assert (out / f"{part}.log").stat().st_size > 0
    report = (out / "report.md").read_text()
    assert "| 1.7b finetune, fp32 weights |" in report
    assert "| 1.7b, 2 at a time |" in report
    assert "passed" in report


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_a_run_that_is_stopped_goes_on_to_the_same_losses(rehearsal):
    """On a CPU to the bit; the report's row has how far apart the runs were."""
    _, out = rehearsal
    row = (out / "report.md").read_text().split("## run")[1].split("\n| ")[3]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[0] == "6"
    assert cells[5:7] == ["0.0e+00", "-"], "how far the resumed run is apart; on a CPU none is repeated"


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_stopped_and_the_rest_is_kept(tmp_path):
    done = script("gpu.py", "--rehearse", "--parts", "memory,read", "--minutes", "0.2", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "== memory: " in done.stdout
    assert "== read: " in done.stdout
    assert "stopped after" in done.stdout or "left out: the time is up" in done.stdout
    assert (tmp_path / "report.md").exists()


@pytest.mark.slow
def test_without_a_gpu_or_without_its_data_it_says_so(tmp_path):
    import torch

    if not torch.cuda.is_available():
        done = script("gpu_step.py")
        assert done.returncode == 1
        assert "no GPU is visible; --rehearse" in done.stderr
    done = script("gpu.py", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "no line crops there; `make gpu-data` makes them" in done.stderr
    done = script("gpu.py", "--parts", "stpes")
    assert done.returncode == 2
    assert "no part is called 'stpes'" in done.stderr


@pytest.mark.slow
def test_the_step_on_a_cpu_is_measured(tmp_path):
    small = ("--depth", "1", "--lengths", "64", "--layers", "eager", "--rounds", "1")
    done = script("train_step.py", *small, "--out", str(tmp_path / "step.json"))
    assert done.returncode == 0, done.stderr
    names, row = (line.split() for line in done.stdout.splitlines()[1:])
    assert names[:2] == ["batch", "step"]
    assert row[:5] == ["4", "x", "64", "parsit", "eager"]
    assert all(float(number.replace(",", "")) > 0 for number in row[5:])


@pytest.mark.slow
def test_what_a_save_stops_is_measured(tmp_path):
    done = script(
        "saves.py", "--shapes", "tiny", "--saves", "1", "--steps_between", "1", "--out", str(tmp_path / "out.json")
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["shape"] == "tiny"
    assert row["bytes"] > 2 * 4 * 2_700_000, "weights and moments of 2.8 million parameters"
    for name in ("step_s", "async_s", "plain_s", "resume_10_s", "resume_1000000_s"):
        assert row[name] > 0
