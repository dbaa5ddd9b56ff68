"""Which parameters are trained. Decided once, before the optimizer exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from parsit.model import ParsitForConditionalGeneration

# The model's own part names (as `parsit info` shows them) under LLaVA's names for what can be tuned.
PARTS_OF = {
    "mm_vision_tower": ("vision_tower",),
    "mm_mlp_adapter": ("projector", "image_newline"),
    "mm_language_model": ("language_model",),
}


@dataclass(frozen=True, slots=True)
class PartReport:
    """Parameters of one part: how many there are and how many of them are trained."""

    name: str
    tensors: int
    parameters: int
    trainable: int


def set_tunable(model: ParsitForConditionalGeneration, tunable_parts: Sequence[str]) -> list[PartReport]:
    """Free the parameters of `tunable_parts` and freeze all others.

    Args:
        model: the model.
        tunable_parts: names as in `PARTS_OF`.

    Returns:
        What is trained, part by part.
    """
    trained = {name for part in tunable_parts for name in PARTS_OF[part]}
    reports = []
    for name, parameters in model.parts():
        for parameter in parameters:
            parameter.requires_grad_(name in trained)
        count = sum(parameter.numel() for parameter in parameters)
        reports.append(PartReport(name, len(parameters), count, count if name in trained else 0))
    return reports


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
