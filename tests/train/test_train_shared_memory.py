"""A /dev/shm that is too small for the loader's batches is found before the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from dist_support import make_data

from parsit import hf
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.data.loader import Loader
from parsit.data.plan import Plan
from parsit.train.batches import micro_batches_of
from parsit.train.preflight import largest_batch, look_at
from parsit.train.shared_memory import batch_bytes, check_shared_memory, ordinary_batch
from parsit.train.trial import largest


def looked(processor, samples, **flags):
    config = TrainConfig(per_device_train_batch_size=4, **{"dataloader_num_workers": 2} | flags)
    data = in_memory(samples, processor, 512)
    found = look_at(data, processor, config.seed)
    return config, data, found, largest_batch(data, config, found)


def test_the_bytes_are_those_of_the_batches_that_travel(mini, processor, samples):
    config, data, _, size = looked(processor, samples)
    batches = micro_batches_of(config, data, hf.meta_model(hf.config_of(mini)))
    loader = Loader(data, processor, Plan(batches, 1), 1)
    batch = loader.collate([loader.dataset[int(number)] for number in largest(batches, 0)]).batch
    tensors = [getattr(batch, name) for name in batch.__slots__]
    real = sum(t.numel() * t.element_size() for t in tensors if hasattr(t, "numel"))
    tile = batch.pixels[0].numel() * batch.pixels.element_size()
    assert real <= batch_bytes(size, tile) <= 1.5 * real
    assert batch_bytes(ordinary_batch(config, data, size), tile) <= batch_bytes(size, tile)


def test_what_is_held_ready_is_counted(processor, samples):
    config, data, found, size = looked(processor, samples, dataloader_prefetch_factor=3, gradient_accumulation_steps=5)
    check = check_shared_memory(config, data, found, size, processes=2)
    assert check.ok
    assert check.detail.startswith("22 batches of ")
    config, data, found, size = looked(processor, samples, dataloader_num_workers=0)
    assert check_shared_memory(config, data, found, size, 2).detail == "no batch travels through /dev/shm"


def test_too_much_at_once_is_a_warning_with_its_remedy(processor, samples):
    config, data, found, size = looked(processor, samples, dataloader_prefetch_factor=10**9)
    check = check_shared_memory(config, data, found, size, processes=1)
    assert (check.ok, check.warns) == (True, True)
    assert "workers would be killed (Bus error)" in check.detail
    assert "--shm-size" in check.remedy
    assert "--dataloader_num_workers" in check.remedy


@pytest.mark.slow
def test_a_containers_small_shared_memory_stops_the_run_before_it_begins(tmp_path):
    """A real one: /dev/shm of 16 KB, in a namespace of its own, where the system lets us have one."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    small = "mount -t tmpfs -o size=16k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("no namespaces of our own here")
    make_data(tmp_path)
    words = "train tiny/scratch --data d.jsonl --output_dir out --max_steps 1 --dataloader_num_workers 1 --bf16 false"
    command = f"{small} && exec {sys.executable} -m parsit.cli {words}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], cwd=tmp_path, env=os.environ, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "parsit: shm: " in done.stderr
    assert "/dev/shm has 0 MB: workers would be killed (Bus error): give it more (docker run --shm-size" in done.stderr
