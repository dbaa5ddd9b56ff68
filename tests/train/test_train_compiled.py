"""`--torch_compile`: what compiled layers compute is what plain ones do, for batches of any size."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from parsit import hf
from parsit.config import TrainConfig
from parsit.processing.collate import collate, collate_packed
from parsit.train.compiled import compile_layers, missing_compiler
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import checkpoint_activations
from parsit.types import UsageError

pytestmark = pytest.mark.skipif(missing_compiler("cpu") is not None, reason="torch.compile needs a C++ compiler")


def computed(model, batches):
    """The loss of each batch, and the gradients of all."""
    objective, losses = Objective(model.train(), 0.0), []
    for batch in batches:
        loss = objective(batch, StepCounts.of([batch])).total
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["padded", "checkpointed", "packed", "native"])
def test_compiled_layers_compute_the_same_and_only_once_for_all_sizes(mini, mini_native, samples, way):
    architecture = mini_native if way == "native" else mini
    processor = hf.new_processor(architecture)
    features = [processor.encode(sample.turns) for sample in samples]
    put = collate_packed if way == "packed" else collate
    batches = [put(features[:3], 0), put(features[3:8], 0), put(features[8:], 0)]
    results = []
    for compiled in (False, True):
        model = hf.new_model(architecture, processor, 0)
        if way == "packed":
            model.enable_packing()
        if way == "checkpointed":
            checkpoint_activations(model, None)
        if compiled:
            torch._dynamo.reset()
            counters.clear()
            compile_layers(model)
        results.append(computed(model, batches))
    (losses, gradients), (compiled_losses, compiled_gradients) = results
    torch.testing.assert_close(compiled_losses, losses, atol=1e-5, rtol=0)
    assert compiled_gradients.keys() == gradients.keys()
    for name in gradients:
        torch.testing.assert_close(compiled_gradients[name], gradients[name], atol=1e-5, rtol=1e-4, msg=name)
    # One graph for a layer of each kind; those of packed rows, and of rows of images, are cut around the attention, and
    # the pieces that see the cuts are compiled once more where these are as many as the heads.
    pieces = {"packed": range(3, 8), "native": range(3, 11)}
    assert counters["stats"]["unique_graphs"] in pieces.get(way, (2,))


def test_what_cannot_be_compiled_is_refused():
    for flags in ({"tp": 2}, {"deepspeed": "zero3.json"}):
        with pytest.raises(UsageError, match="--torch_compile and --"):
            TrainConfig(torch_compile=True, **flags)
