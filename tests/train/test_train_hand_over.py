"""Weights are read by one process, and all hold the same to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from dist_support import free_port, make_start

# What each of two processes holds of a model that the first one alone may read, and how an error of that one ends.
READ = """
import hashlib, json
from parsit import hf
from parsit.train.hand_over import read_once
from parsit.train.world import join, leave
from parsit.types import InputError
world = join(600)
def work():
    assert world.is_first, "the others read nothing"
    model = hf.load_model("start")
    model.mm_projector[0].weight.data = model.mm_projector[0].weight.data.t().contiguous().t()  # numbers not in order
    model.image_newline.requires_grad_(False)
    return model, frozenset({"projector"})
def fails():
    raise InputError("start: broken")
model, drawn = read_once(world, work)
digest = hashlib.sha256()
tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
for name, tensor in sorted(tensors.items()):
    digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
values = [value for module in model.modules() for value in vars(module).values()]
assert not any(value.is_meta for value in values if hasattr(value, "is_meta"))
try:
    read_once(world, fails)
except InputError as error:
    failed = str(error)
tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
print(json.dumps([digest.hexdigest(), sorted(drawn), tied, model.image_newline.requires_grad,
                  model.generation_config.to_dict() == hf.load_model("start").generation_config.to_dict(), failed]))
leave()
"""


@pytest.mark.slow
@pytest.mark.dist
def test_one_process_reads_and_all_hold_the_same(mini, tmp_path):
    make_start(tmp_path, mini)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "DS_ACCELERATOR": "cpu"}
    running = [
        subprocess.Popen([sys.executable, "-c", READ], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                         env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        first, second = (json.loads(process.communicate()[0]) for process in running)
    finally:
        for process in running:
            process.kill()
    assert first == second
    assert first[1:] == [["projector"], True, False, True, "start: broken"]
