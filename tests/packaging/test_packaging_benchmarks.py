"""Benchmarks that need what is not here are at least run in miniature, each of their cases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GPU_STEP = Path(__file__).parents[2] / "benchmarks" / "gpu_step.py"


def gpu_step(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(GPU_STEP), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_the_gpu_benchmark_runs_its_cases_in_miniature():
    results = GPU_STEP.parent / "results"
    before = sorted(results.iterdir())
    done = gpu_step("--rehearse", "--rounds", "1", "--sizes", "1.7b", "--cases", "0,1,3,5")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("1.7b ")]
    assert [row[5:32].strip() for row in rows] == ["transformers", "finetune", "lora", "finetune, fp32 weights"]
    assert all(" s " in row for row in rows), "each has a time"
    assert sorted(results.iterdir()) == before, "a rehearsal writes nothing"


def test_without_a_gpu_it_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = gpu_step()
    assert done.returncode == 1
    assert "no GPU is visible; --rehearse" in done.stderr
