"""Two processes that save under FSDP2: whatever file operation a kill meets, the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from dist_support import free_port
from test_reliability_saves import SCENARIOS

RANK = Path(__file__).with_name("rank_saves.py")

pytestmark = [pytest.mark.sweep, pytest.mark.dist, pytest.mark.timeout(3600)]


@pytest.fixture
def looked(tmp_path, config):
    """States looked at, by scenario."""
    flags = asdict(config(tmp_path / "run", fsdp=True))
    (tmp_path / "job.json").write_text(json.dumps({"flags": flags, "scenarios": SCENARIOS}))
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent / "train", here.parent)))
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    place["PYTHONPATH"] = os.pathsep.join(filter(None, (paths, os.environ.get("PYTHONPATH"))))
    ranks = []
    for rank in range(2):
        environment = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        errors = (tmp_path / f"errors-{rank}.txt").open("w")
        command = [sys.executable, RANK, tmp_path / "job.json"]
        ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True))
    told = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], (tmp_path / "errors-0.txt").read_text()[-3000:]
    return json.loads(told[0].splitlines()[-1])


def test_two_processes_killed_at_any_file_operation_of_a_save_leave_a_run_that_goes_on(looked, measured):
    assert looked.keys() == SCENARIOS.keys()
    assert min(looked.values()) > 100
    told = ", ".join(f"{name} {count}" for name, count in looked.items())
    measured(f"save of two processes under FSDP2: {sum(looked.values())} places, 0 unusable states ({told})")
