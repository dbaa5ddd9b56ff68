"""Which parameters are trained. Decided once, before the optimizer exists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from parsit.config import TrainConfig
from parsit.model import ParsitForConditionalGeneration
from parsit.types import UsageError

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


def set_tunable(
    model: ParsitForConditionalGeneration, tunable_parts: Sequence[str], vision_layers: range | None = None
) -> list[PartReport]:
    """Free the parameters of `tunable_parts` and freeze all others.

    Args:
        model: the model.
        tunable_parts: names as in `PARTS_OF`.
        vision_layers: of the vision tower only these layers, counted from 0; None: all of it.

    Returns:
        What is trained, part by part.

    Raises:
        UsageError: the tower has no such layers.
    """
    trained = {name for part in tunable_parts for name in PARTS_OF[part]}
    layers = _vision_layers(model, vision_layers)
    reports = []
    for name, parameters in model.parts():
        for parameter in parameters:
            parameter.requires_grad_(name in trained)
        if name == "vision_tower" and name in trained and layers is not None:
            for parameter in set(parameters) - layers:
                parameter.requires_grad_(False)
        count = sum(parameter.numel() for parameter in parameters)
        free = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        reports.append(PartReport(name, len(parameters), count, free))
    return reports


def _vision_layers(model: ParsitForConditionalGeneration, chosen: range | None) -> set[nn.Parameter] | None:
    """The parameters of those layers."""
    if chosen is None:
        return None
    numbered = [
        (int(match[1]), parameter)
        for name, parameter in model.vision_tower.named_parameters()
        if (match := re.search(r"\.layers\.(\d+)\.", f".{name}"))
    ]
    depth = 1 + max(number for number, _ in numbered)
    if chosen.stop > depth:
        raise UsageError(
            f"--mm_tunable_vision_layers {chosen.start}-{chosen.stop - 1}: the tower has the layers 0 to {depth - 1}"
        )
    return {parameter for number, parameter in numbered if number in chosen}


def checkpoint_activations(model: ParsitForConditionalGeneration, layers: range | None) -> None:
    """Recompute the layers' activations in the backward pass instead of keeping them.

    Args:
        model: the model.
        layers: of the language model only these, counted from 0; None: all. The tower's are always recomputed.

    Raises:
        UsageError: the language model has no such layers.
    """
    # 5.x renames the method and warns under the old name.
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if layers is None:
        return
    decoder_layers: list[Any] = layers_of(model.get_decoder())
    if layers.stop > len(decoder_layers):
        raise UsageError(
            f"--gradient_checkpointing_layers {layers.start}-{layers.stop - 1}: the language model has the layers "
            f"0 to {len(decoder_layers) - 1}"
        )
    for number, layer in enumerate(decoder_layers):
        layer.gradient_checkpointing = number in layers


def narrow_frozen(model: ParsitForConditionalGeneration, config: TrainConfig) -> None:
    """Keep frozen weights in bfloat16, for half of their memory.

    In a model that is saved whole those are narrowed that lose nothing by it, as what comes in bfloat16 from the Hub;
    under adapters, whose base is never saved, all are. Matrix products are the same to the bit, as autocast makes them
    in bfloat16 anyway; where the embeddings are narrow, so are the sums along the layers.
    """
    for parameter in narrowable(model, config):
        parameter.data = parameter.data.bfloat16()


def narrowable(model: ParsitForConditionalGeneration, config: TrainConfig) -> list[nn.Parameter]:
    """The parameters that `narrow_frozen` narrows."""
    if config.use_dora:  # it takes norms of the base's weights, in their type
        return []
    kept = _of_layer_norms(model)
    frozen = [p for p in model.parameters() if p.dtype == torch.float32 and not p.requires_grad and p not in kept]
    return [parameter for parameter in frozen if config.lora_enable or fits_bfloat16(parameter)]


def halvable(module: nn.Module) -> list[nn.Parameter]:
    """The trained parameters that `--optim adamw_bf16` keeps in two halves."""
    kept = _of_layer_norms(module)
    return [parameter for parameter in trainable(module).values() if parameter not in kept]


def _of_layer_norms(module: nn.Module) -> set[torch.Tensor]:
    """Weights and biases that stay in fp32: under autocast torch's LayerNorm computes in it, and wants them so."""
    return {p for one in module.modules() if isinstance(one, nn.LayerNorm) for p in one.parameters()}


def fits_bfloat16(weight: torch.Tensor) -> bool:
    """Whether bfloat16 can hold every number as it is; False for a tensor on the meta device, which holds none.

    The first row is looked at alone before the rest: most tensors that do not fit show it there.
    """
    return not weight.is_meta and all(torch.equal(part.bfloat16().float(), part) for part in (weight[:1], weight))


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of a tower or decoder, in order: the members of its longest list of modules."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
