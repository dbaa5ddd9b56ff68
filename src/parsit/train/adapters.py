"""What of a model with adapters is trained, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence

from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapters import adapted_towers, adapter_parameters, is_adapter
from parsit.model.quantize import num_parameters
from parsit.train.parts import PARTS_OF, PartReport, set_tunable


def set_trainable(
    model: ParsitForConditionalGeneration, tunable_parts: Sequence[str], vision_layers: range | None = None
) -> list[PartReport]:
    """Free all adapters, and of `tunable_parts` those that have none; freeze everything else.

    Like `set_tunable`, which it is where the model has no adapters. A tower with adapters learns through them alone:
    its own weights stay frozen even where `tunable_parts` names it.

    Args:
        model: the model, its adapters added.
        tunable_parts: names as in `PARTS_OF`.
        vision_layers: of a tower without adapters only these layers; None: all of it.

    Returns:
        What is trained, part by part; a tower's adapters are a part of their own, `vision_tower adapters`. Weights are
        counted, also where they are stored in 4 bits.
    """
    adapted = adapted_towers(model)
    whole = [part for part in tunable_parts if not set(PARTS_OF[part]) & set(adapted)]
    reports = []
    for report in set_tunable(model, whole, vision_layers):
        if report.name not in adapted:
            reports.append(report)
            continue
        named = dict(model.get_submodule(report.name).named_parameters())
        own = [num_parameters(parameter) for name, parameter in named.items() if not is_adapter(name)]
        reports.append(PartReport(report.name, len(own), sum(own), 0))
        adapters = adapter_parameters(model.get_submodule(report.name)).values()
        for parameter in adapters:
            parameter.requires_grad_(True)
        count = sum(parameter.numel() for parameter in adapters)
        reports.append(PartReport(f"{report.name} adapters", len(adapters), count, count))
    return reports
