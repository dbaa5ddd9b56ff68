"""AdamW's groups and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from parsit.config import TrainConfig
from parsit.train.parts import trainable


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters with one learning rate and one weight decay, by name."""

    name: str
    learning_rate: float
    weight_decay: float
    parameters: dict[str, nn.Parameter]


def groups_of(objective: nn.Module, config: TrainConfig) -> list[Group]:
    """The trained parameters in groups, none of them empty.

    Vision tower and projector may have learning rates of their own; what has one dimension (norms,
    biases, `image_newline`) is not decayed.

    Raises:
        ValueError: nothing is trained.
    """
    rates = {
        "vision_tower": config.mm_vision_tower_lr or config.learning_rate,
        "projector": config.mm_projector_lr or config.learning_rate,
        "language_model": config.learning_rate,
        "glyph_head": config.learning_rate,
    }
    members: dict[tuple[str, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in trainable(objective).items():
        decayed = parameter.ndim > 1 and "position_embedding" not in name
        members.setdefault((_part_of(name), decayed), {})[name] = parameter
    if not members:
        raise ValueError("no parameter is trained: check mm_tunable_parts")
    return [
        Group(part + ("" if decayed else ".no_decay"), rates[part], config.weight_decay if decayed else 0.0, parameters)
        for (part, decayed), parameters in members.items()
    ]


def _part_of(name: str) -> str:
    if name.startswith("glyph_head."):
        return "glyph_head"
    part = name.removeprefix("model.").split(".")[0]
    return "projector" if part in ("mm_projector", "image_newline") else part


def build_optimizer(groups: list[Group], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the groups; the fused kernel, which CPU and CUDA both have."""
    return torch.optim.AdamW(
        [
            {"params": list(g.parameters.values()), "lr": g.learning_rate, "weight_decay": g.weight_decay}
            for g in groups
        ],
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def learning_rate_factor(step: int, total_steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate in optimizer step `step` (from 0).

    Linear warm-up to the peak, then constant, or falling to `min_lr_ratio` of it at the last step.
    """
    warmup = config.warmup_steps or math.ceil(config.warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_scheduler_type == "constant":
        return 1.0
    progress = (step - warmup) / max(total_steps - 1 - warmup, 1)
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if config.lr_scheduler_type == "cosine" else 1 - progress
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * falling
