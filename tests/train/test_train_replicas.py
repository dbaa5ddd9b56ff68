"""Copies that processes of --tp hold of what is not cut: equal at each save, told where they are not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from dist_support import free_port, make_data, make_start

from parsit.train.strategies.replicas import checksum

# Runs of two processes, one after the other; the second process moves a number of its own copy before the save.
TRAIN = """
import json, sys, torch
from parsit.cli.process import end
from parsit.config import TrainConfig
from parsit.train import train
from parsit.train.prepare import prepare
from parsit.train.world import join, leave
from parsit.types import ParsitError
world = join(600)
for name, by, more in json.loads(sys.argv[1]):
    config = TrainConfig(tp=2, data=["d.jsonl"], output_dir=name, model_name_or_path="start", bf16="false", max_steps=2,
                         eval_steps=0, dataloader_num_workers=0, per_device_train_batch_size=2, save_steps=1, **more)
    def move(run, step):
        parameter = dict(run.objective.named_parameters())["model.vision_tower.encoder.layers.0.layer_norm1.weight"]
        if step == 1 and world.rank % 2 == 1:
            (parameter.to_local() if hasattr(parameter, "to_local") else parameter).data[:1] += by
    try:
        train(prepare(config, world), move)
    except ParsitError as error:
        print(json.dumps([name, str(error)]), flush=True)
    world.barrier()
leave()
end(0)
"""


def test_a_checksum_tells_other_numbers_and_other_places():
    tensor = torch.randn(3, 5)
    other = tensor.clone()
    other[2, 4] = torch.nextafter(other[2, 4], torch.tensor(9.0))
    assert torch.equal(checksum(tensor), checksum(tensor.clone()))
    assert not torch.equal(checksum(tensor), checksum(other))
    assert not torch.equal(checksum(tensor), checksum(tensor.flip(0)))
    assert torch.equal(checksum(torch.zeros(0)), torch.zeros(2, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.dist
def test_copies_that_drift_are_named_at_a_save(mini, tmp_path):
    make_data(tmp_path)
    make_start(tmp_path, mini)
    runs = [["equal", 0.0, {}], ["little", 1e-5, {}], ["far", 0.5, {}], ["frozen", 0.5, {"mm_tunable_parts":
            "mm_language_model"}]]  # fmt: skip
    port, said = str(free_port()), []
    place = {
        "DS_ACCELERATOR": "cpu",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, json.dumps(runs)],
            cwd=tmp_path,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate() for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    (out, err), (other_out, _) = said
    # That gradients of its neighbours differ as well may move these a little.
    norm = "model.vision_tower.encoder.layers.0.layer_norm1.weight"
    copies = rf"--tp: the processes' copies of {norm}( and \d+ more)? are "
    [[name, error]] = [json.loads(line) for line in out.splitlines()]
    assert name == "far"
    assert re.match(copies + "apart, by ", error)
    assert "they train different models; nothing was saved" in error
    assert json.loads(other_out) == [name, error]
    told = " ".join(err.split())
    assert re.search(copies + "apart, by 1.0e-05 of its largest number; the first process's is saved", told)
    assert told.count("--tp:") == 1
    assert sorted(path.name for path in (tmp_path / "far").glob("checkpoint-*")) == ["checkpoint-1"]
    assert (tmp_path / "little" / "checkpoint-2").is_dir()
