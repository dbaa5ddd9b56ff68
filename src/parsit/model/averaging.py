"""The mean of several models of one shape, such as the last checkpoints of a run.

Weights that a run passed through one after another are often worse one by one than their mean (Izmailov et al. 2018,
"Averaging Weights Leads to Wider Optima and Better Generalization").
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.types import InputError


@torch.no_grad()
def mean_of(models: Iterable[tuple[str, ParsitForConditionalGeneration]]) -> ParsitForConditionalGeneration:
    """The mean of models, each weight by itself; two of them are in memory at once. Means are taken in fp32.

    Args:
        models: a name of each for errors, and the model without adapters; at least one. The first one becomes the mean.

    Raises:
        InputError: one that has other weights than the first.
    """
    mean: ParsitForConditionalGeneration | None = None
    sums: dict[str, torch.Tensor] = {}
    for count, (name, model) in enumerate(models, 1):
        weights = {key: parameter for key, parameter in model.named_parameters() if parameter.is_floating_point()}
        if mean is None:
            mean, sums = model, {key: weight.float().clone() for key, weight in weights.items()}
            continue
        if {key: w.shape for key, w in weights.items()} != {key: total.shape for key, total in sums.items()}:
            raise InputError(f"{name}: has other weights than the checkpoints before it: they have no mean")
        for key, weight in weights.items():
            sums[key] += (weight.float() - sums[key]) / count
    assert mean is not None, "a mean is of one model at least"
    for key, parameter in mean.named_parameters():
        if key in sums:
            parameter.copy_(sums[key])
    return mean
