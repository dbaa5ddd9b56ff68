"""Validation: the same nats however samples are put together, and batches that never outgrow those of training."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from dist_support import make_data, make_start, metrics, run_job
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from parsit import hf
from parsit.cli import check
from parsit.config import TrainConfig
from parsit.data.dataset import DataSet, in_memory
from parsit.processing.collate import collate_packed
from parsit.train.batches import validation_batches
from parsit.train.loop import Run
from parsit.train.memory import BatchSize, Placement, estimate_validation
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import set_tunable
from parsit.train.preflight import check_validation
from parsit.train.prepare import Prepared, set_free
from parsit.train.world import World

SMALL = {"bf16": "false", "per_device_train_batch_size": 2, "model_max_length": 128, "dataloader_num_workers": 0}
PACKED = {"packing": True}
WAYS = {
    "samples one by one": {"per_device_eval_batch_size": 1},
    "all together": {"per_device_train_batch_size": 14},
    "packed": PACKED,
    "packed, few tiles": PACKED | {"max_tiles_per_pack": 3},
    "in worker processes": PACKED | {"dataloader_num_workers": 2},
}


def prepared(mini, processor, samples, tmp_path, **flags):
    config = TrainConfig(output_dir=str(tmp_path), **SMALL | flags)
    model = hf.new_model(mini, processor, 0)
    data = in_memory(samples, processor, 512)
    return Prepared(config, World(), model, processor, data, data, set_free(model, config))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_nats_per_token_do_not_depend_on_how_samples_are_put_together(mini, processor, samples, tmp_path, way):
    expected = Run(prepared(mini, processor, samples, tmp_path)).validate()
    assert abs(Run(prepared(mini, processor, samples, tmp_path, **way)).validate() - expected) < 1e-5
    fewer = Run(prepared(mini, processor, samples, tmp_path, max_eval_samples=5)).validate()
    assert abs(fewer - expected) > 1e-3
    assert abs(Run(prepared(mini, processor, samples, tmp_path, max_eval_samples=5, **way)).validate() - fewer) < 1e-5


@pytest.mark.dist
def test_nats_per_token_do_not_depend_on_the_number_of_processes(mini, tmp_path):
    """One batch for two processes leaves one of them without any; hardly anything is learnt on the way."""
    make_data(tmp_path)
    make_start(tmp_path, mini)
    flags = SMALL | {"max_steps": 1, "learning_rate": 1e-12, "model_max_length": 300}
    ways = {
        "padded": {"per_device_eval_batch_size": 3},
        "packed": PACKED | {"per_device_train_batch_size": 1, "dataloader_num_workers": 1},
        "one-batch": {"per_device_train_batch_size": 14, "per_device_eval_batch_size": 14},
        "one-pack": PACKED | {"per_device_train_batch_size": 14},
        "one-sharded": PACKED | {"per_device_train_batch_size": 14},
    }
    losses = []
    for size in (1, 2):
        sharded = {"one-sharded": {"fsdp": size > 1}}
        runs = [
            {"name": f"{name}-{size}", "flags": flags | way | sharded.get(name, {}), "validate": True}
            for name, way in ways.items()
        ]
        job = {"start": str(tmp_path / "start"), "data": str(tmp_path / "d.jsonl"), "out": str(tmp_path / "out")}
        run_job(job | {"runs": runs}, tmp_path / "jobs", size)
        losses += [metrics(tmp_path / "out" / f"{name}-{size}")[-1]["eval_loss"] for name in ways]
    assert max(losses) - min(losses) < 1e-5, losses


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("most_samples", [0, 40])
def test_every_sample_once_in_batches_no_larger_than_trainings(mini, processor, packing, most_samples):
    rng = np.random.default_rng(0)
    data = DataSet([], rng.integers(8, 129, 300), rng.integers(0, 3, 300))
    model = hf.new_model(mini, processor, 0)
    flags = SMALL | {"packing": packing, "per_device_eval_batch_size": 7, "max_eval_samples": most_samples}
    config = TrainConfig(**flags | {"per_device_train_batch_size": 4})
    made = validation_batches(config, data, model)
    numbers = np.concatenate(made.epoch(0)).tolist()
    assert len(set(numbers)) == len(numbers) == (most_samples or 300)
    assert made.positions.max() <= 4 * 128
    if packing:
        assert made.positions.tolist() == [data.num_tokens[batch].sum() for batch in made.epoch(0)]
    else:
        assert made.positions.tolist() == [data.num_tokens[batch].max() * len(batch) for batch in made.epoch(0)]
        assert max(len(batch) for batch in made.epoch(0)) == 7
    assert made.tiles.tolist() == [data.num_tiles[batch].sum() for batch in made.epoch(0)]
    again = validation_batches(config, data, model)
    assert [batch.tolist() for batch in again.epoch(1)] == [batch.tolist() for batch in made.epoch(0)]


class LiveBytes(TorchDispatchMode):
    """The most bytes of new tensors that were alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return result

    def gone(self, name, size):
        self.seen.discard(name)
        self.now -= size


def test_a_validation_holds_what_is_estimated(mini, processor, samples):
    model = hf.new_model(mini, processor, 0).eval()
    set_tunable(model, ("mm_mlp_adapter",))
    model.enable_packing()
    features = [processor.encode(sample.turns) for sample in samples * 4]
    batch = collate_packed(features, processor.chat_tokens.pad)
    config = TrainConfig(packing=True, bf16="false")
    expected = estimate_validation(model, config, Placement(), BatchSize.of(batch), bf16=False)
    assert expected.gradients == 0
    with torch.no_grad(), LiveBytes() as live:
        Objective(model, 0.0).eval()(batch, StepCounts(1, 1))
    assert 0.8 < (expected.activations + expected.logits) / live.most < 1.5, (expected, live.most)


def test_preflight_looks_at_the_validation(mini, processor, samples, tmp_path):
    ready = prepared(mini, processor, samples, tmp_path)
    device = torch.device("cpu")
    assert ready.validation is not None
    said = check_validation(ready, ready.validation, Placement(), device, 1.0)
    assert said.ok
    assert said.detail.startswith("14 samples in ")
    said = check_validation(ready, ready.validation, Placement(), device, 1e-4)
    assert (said.ok, said.name) == (False, "validation")
    assert said.remedy.startswith("a smaller --per_device_eval_batch_size; ")


def test_the_verb_finds_what_the_first_validation_would(tmp_path, capsys):
    make_data(tmp_path)
    data = str(tmp_path / "d.jsonl")
    command = ["tiny", "--data", data, "--eval_data", data, "--output_dir", str(tmp_path / "run"), "--no_step"]
    assert check.main([*command, "--max_eval_samples", "5", "--max_memory_gb", "4"]) == 0
    assert "ok      validation 5 samples in 1 batches of at most" in capsys.readouterr().out
