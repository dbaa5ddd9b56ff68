"""The optimizers' groups and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from parsit.config import TrainConfig
from parsit.train.adamw_bf16 import AdamWBF16
from parsit.train.parts import trainable


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters of one optimizer with one learning rate and one weight decay, by name; all of one part."""

    name: str
    part: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    parameters: dict[str, nn.Parameter]


def peak_rates(config: TrainConfig) -> dict[str, float]:
    """The peak learning rate of each part; `image_newline` belongs to the projector."""
    return {
        "vision_tower": config.mm_vision_tower_lr or config.learning_rate,
        "projector": config.mm_projector_lr or config.learning_rate,
        "language_model": config.learning_rate,
        "glyph_head": config.learning_rate,
        "ctc_head": config.learning_rate,
    }


def groups_of(objective: nn.Module, config: TrainConfig) -> list[Group]:
    """The trained parameters in groups, none of them empty.

    Vision tower and projector may have learning rates of their own; what has one dimension (norms,
    biases, `image_newline`) is not decayed. With `--optim muon` the matrices inside the layers are
    Muon's; embeddings and output layers stay AdamW's, as its authors do it. Under tensor parallelism
    what is cut and what is whole are apart: no fused step takes both.

    Raises:
        ValueError: nothing is trained.
    """
    rates = peak_rates(config)
    members: dict[tuple[str, str, bool, int], dict[str, nn.Parameter]] = {}
    for name, parameter in trainable(objective).items():
        decayed = parameter.ndim > 1 and "position_embedding" not in name
        # An adapter's two matrices are factors: made orthogonal one by one, their product means nothing.
        is_matrix = parameter.ndim == 2 and ".layers." in name and ".lora_" not in name
        optimizer = "muon" if config.optim == "muon" and is_matrix else "adamw"
        key = (_part_of(name), optimizer, decayed, _ways_cut(parameter))
        members.setdefault(key, {})[name] = parameter
    if not members:
        raise ValueError("no parameter is trained: check mm_tunable_parts")
    whole = {key[:3]: min(other[3] for other in members if other[:3] == key[:3]) for key in members}
    return [
        Group(
            part=part,
            name=part
            + ("" if decayed else ".no_decay")
            + (".muon" if optimizer == "muon" else "")
            + (".cut" if ways > whole[part, optimizer, decayed] else ""),
            optimizer=optimizer,
            learning_rate=rates[part],
            weight_decay=config.weight_decay if decayed else 0.0,
            parameters=parameters,
        )
        for (part, optimizer, decayed, ways), parameters in members.items()
    ]


def _ways_cut(parameter: nn.Parameter) -> int:
    """Over how many dimensions of the processes' mesh a parameter lies; 0: it is whole in each."""
    return parameter.device_mesh.ndim if isinstance(parameter, DTensor) else 0


def _part_of(name: str) -> str:
    if name.startswith(("glyph_head.", "ctc_head.")):
        return name.split(".")[0]
    part = name.removeprefix("model.").split(".")[0]
    return "projector" if part in ("mm_projector", "image_newline") else part


def build_optimizers(
    groups: list[Group], config: TrainConfig, lower_halves: dict[nn.Parameter, torch.Tensor]
) -> list[torch.optim.Optimizer]:
    """AdamW (the fused kernel, which CPU and CUDA both have), or the one in bfloat16; Muon where groups ask for it."""
    optimizers: list[torch.optim.Optimizer] = []
    adamw = [_settings(group) for group in groups if group.optimizer == "adamw"]
    betas = (config.adam_beta1, config.adam_beta2)
    if adamw and config.optim == "adamw_bf16":
        more = {"seed": config.seed, "lower_halves": lower_halves, "compiled": config.torch_compile}
        optimizers.append(AdamWBF16(adamw, betas=betas, eps=config.adam_epsilon, **more))
    elif adamw:
        optimizers.append(torch.optim.AdamW(adamw, betas=betas, eps=config.adam_epsilon, fused=True))
    muon = [_settings(group) for group in groups if group.optimizer == "muon"]
    if muon:
        # Scaled to AdamW's typical update (Liu et al. 2025, Moonlight, section 2.2): one learning rate serves both.
        optimizers.append(torch.optim.Muon(muon, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _settings(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "params": list(group.parameters.values()),
        "lr": group.learning_rate,
        "peak_lr": group.learning_rate,
        "weight_decay": group.weight_decay,
    }


def learning_rate_factor(step: int, total_steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate in optimizer step `step` (from 0).

    Linear warm-up to the peak, then constant, or falling towards `min_lr_ratio` of it: as in transformers, it would be
    reached by a step behind the last one, so that no step is taken at a rate of zero.
    """
    warmup = config.warmup_steps or math.ceil(config.warmup_ratio * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_scheduler_type == "constant":
        return 1.0
    progress = (step - warmup) / max(total_steps - warmup, 1)
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if config.lr_scheduler_type == "cosine" else 1 - progress
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * falling
