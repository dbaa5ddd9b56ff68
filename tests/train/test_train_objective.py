"""The objective: what a micro-batch asks of the device."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parsit import hf
from parsit.processing.collate import collate_packed
from parsit.train.objective import Objective, StepCounts

# What has to know a tensor's numbers to go on: on a GPU each waits until all that was asked for is done.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "repeat_interleave.Tensor")


class Waits(TorchDispatchMode):
    """Notes operations that wait for numbers."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        masked = name.startswith("index.") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masked or name.split(".")[0] in WAITING or name in WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("architecture", "known"), [("mini", True), ("mini", False), ("mini_native", True)])
def test_a_packed_micro_batch_waits_for_no_number(request, samples, architecture, known):
    architecture = request.getfixturevalue(architecture)
    processor = hf.new_processor(architecture)
    batch = collate_packed([processor.encode(sample.turns, with_glyphs=True) for sample in samples], 0)
    model = hf.new_model(architecture, processor, 0).train()
    model.enable_packing()
    objective, counts = Objective(model, 0.5).train(), StepCounts.of([batch])
    inputs = batch.model_inputs() | ({} if known else {"image_positions": None, "label_positions": None})
    with Waits() as waits:
        if known:
            objective(batch, counts).total.backward()
        else:
            model(**inputs, num_items_in_batch=counts.supervised).loss.backward()
    assert waits.found == ([] if known else ["nonzero.default", "nonzero.default"])
