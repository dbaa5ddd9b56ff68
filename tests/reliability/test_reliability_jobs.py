"""A job that is killed at random moments, again and again, ends where one that was left alone ends, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from dist_support import metrics

from parsit.files.run_folder import find_newest

SERVER = Path(__file__).with_name("job_server.py")
# Fewer where there is little time.
KILLS = int(os.environ.get("KILLS", "200"))


def serve(folder, config, kills, processes=1, **flags):
    """Let a job live and be killed so often; what the server says, and what is told on stderr where it fails."""
    flags = asdict(config(folder / "run", **{"max_steps": 6 * kills + 20, "save_steps": 2} | flags))
    folder.mkdir()
    job = {"flags": flags, "processes": processes, "kills": kills, "seed": kills}
    (folder / "job.json").write_text(json.dumps(job))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with (folder / "err.txt").open("w") as errors:
        done = subprocess.run(
            [sys.executable, SERVER, folder / "job.json"], env=environment, stdout=subprocess.PIPE, stderr=errors,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, (folder / "err.txt").read_text()[-3000:]
    return json.loads(done.stdout)


def learnt(folder):
    keys = ("step", "loss", "grad_norm", "learning_rate", "supervised_tokens")
    return [[entry[key] for key in keys] for entry in metrics(folder)]


def compare(tmp_path, config, kills, processes=1, **flags):
    told = serve(tmp_path / "killed", config, kills, processes, **flags)
    assert told["codes"] == [0] * processes
    flags["max_steps"] = 6 * kills + 20
    alone = serve(tmp_path / "alone", config, 0, processes, **flags)
    assert alone["codes"] == [0] * processes
    killed, whole = tmp_path / "killed" / "run", tmp_path / "alone" / "run"
    assert learnt(killed) == learnt(whole)
    one, two = (find_newest(run, pytest.fail) / "model.safetensors" for run in (killed, whole))
    assert one.read_bytes() == two.read_bytes()
    assert not list(killed.glob(".*")), "drafts and lock are gone"
    return told


@pytest.mark.sweep
def test_a_job_that_is_killed_two_hundred_times(tmp_path, config, measured):
    told = compare(tmp_path, config, KILLS, dataloader_num_workers=1)
    measured(f"{told['kills']} random kills, half of them of the group: all losses and weights equal to the bit")


@pytest.mark.sweep
@pytest.mark.dist
@pytest.mark.parametrize("flags", [{}, {"fsdp": True}], ids=["DDP", "FSDP2"])
def test_one_of_two_processes_is_killed_again_and_again(tmp_path, config, flags, measured):
    told = compare(tmp_path, config, max(KILLS // 10, 5), processes=2, **flags)
    measured(f"{told['kills']} kills of one of two processes: the other ended within {told['longest_s']:.1f} s")
