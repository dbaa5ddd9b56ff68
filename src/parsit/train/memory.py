"""An estimate of what a training step needs on each GPU, before anything is tried.

With P all and T trained parameters, N ranks, b bytes of a computed number (2 in bf16, 4 in fp32):

    weights      4 P in fp32; ZeRO: b P. Over N under ZeRO-3 and FSDP; the language model's over tp under --tp
    copies       2 bytes for each matrix weight that autocast casts: all without gradient checkpointing, the trained
                 ones with it (those of one layer, under FSDP); none under ZeRO, which keeps 4 T / N in fp32 instead
    gradients    4 T (ZeRO: b T); over N under ZeRO-2, ZeRO-3 and FSDP
    optimizer    8 T: AdamW's two moments; over N under ZeRO and FSDP
    activations  for each position of the row and each layer 26 D + 10 (H + K) d + 8 I bytes in bf16, and 24 D +
                 16 (H + K) d + 16 I in fp32 (D hidden, I intermediate size, H and K heads of queries and keys, d their
                 size): what autograd keeps of a Qwen3 layer, counted with its saved tensors. With gradient
                 checkpointing 4 D, and one layer in full. The same again for one layer's gradients. The tower's
                 positions are patches, 24 D + 4 I (fp32: 32 D + 8 I); frozen, it keeps nothing
    logits       16 bytes for each label and entry of the vocabulary: scores, probabilities, and the gradients of both

What is offloaded to the CPU counts nothing. The allocator's own losses and the libraries' buffers come on top.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from parsit.config import TrainConfig, layer_range
from parsit.model import ParsitForConditionalGeneration
from parsit.processing.collate import Batch
from parsit.types import InputError

GB = 1e9


@dataclass(frozen=True, slots=True)
class Placement:
    """How a run lies on its devices: `zero` is the stage, 0 for none; `offload_*`: to the CPU's memory."""

    ranks: int = 1
    zero: int = 0
    fsdp: bool = False
    tp: int = 1
    offload_optimizer: bool = False
    offload_weights: bool = False

    @classmethod
    def of(cls, config: TrainConfig, ranks: int) -> Placement:
        """What the flags ask for.

        Raises:
            InputError: the file that --deepspeed names cannot be read.
        """
        if not config.deepspeed:
            return cls(ranks, fsdp=config.fsdp and ranks > 1, tp=config.tp)
        try:
            settings = json.loads(Path(config.deepspeed).read_text(encoding="utf-8")).get("zero_optimization", {})
        except (OSError, ValueError) as error:
            raise InputError(f"--deepspeed {config.deepspeed}: cannot be read: {error}") from error
        offloads = [settings.get(f"offload_{what}", {}).get("device", "none") for what in ("optimizer", "param")]
        on_cpu = [device not in ("none", None) for device in offloads]
        return cls(ranks, int(settings.get("stage", 0)), offload_optimizer=on_cpu[0], offload_weights=on_cpu[1])

    def __str__(self) -> str:
        way = f"ZeRO-{self.zero}" if self.zero else "FSDP" if self.fsdp else f"--tp {self.tp}" if self.tp > 1 else ""
        offloads = [
            what for what, on in (("weights", self.offload_weights), ("optimizer", self.offload_optimizer)) if on
        ]
        words = [way or ("DDP" if self.ranks > 1 else "one process")]
        words += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        return ", ".join(words + ([" and ".join(offloads) + " on the CPU"] if offloads else []))


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What a micro-batch is to the memory: positions with padding, tiles, supervised positions."""

    positions: int
    tiles: int
    labels: int

    @classmethod
    def of(cls, batch: Batch) -> BatchSize:
        """The size of a real one."""
        tiles = 0 if batch.pixel_values is None else batch.pixel_values.shape[0]
        return cls(batch.input_ids.numel(), tiles, batch.num_supervised)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on each GPU, see the module's formulas."""

    weights: float
    copies: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GB:.2f}" for name, value in asdict(self).items() if value)
        return f"{self.total / GB:.2f} GB ({parts})"


def estimate(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, bf16: bool
) -> MemoryEstimate:
    """What a step of `config` needs on each GPU; the model's parameters are frozen and freed, and not yet sharded."""
    weights, trained = _weights(model, placement, bf16)
    ranks = placement.ranks
    sharded = placement.fsdp or placement.zero >= 1
    gradient_bytes = 2 if placement.zero and bf16 else 4
    masters = 4 * trained / ranks if placement.zero and bf16 and not placement.offload_optimizer else 0.0
    return MemoryEstimate(
        weights=weights,
        copies=masters if placement.zero else _autocast_copies(model, config, placement) if bf16 else 0.0,
        gradients=gradient_bytes * trained / (ranks if placement.fsdp or placement.zero >= 2 else 1),
        optimizer=0.0 if placement.offload_optimizer else 8 * trained / (ranks if sharded else 1),
        activations=_activations(model, config, placement, size, bf16),
        logits=16.0 * size.labels * model.config.text_config.vocab_size,
    )


def _weights(model: ParsitForConditionalGeneration, placement: Placement, bf16: bool) -> tuple[float, float]:
    """Bytes of all weights on one GPU, and the number of those that are trained there before sharding."""
    total = trained = 0.0
    for name, parameters in model.parts():
        share = placement.tp if name == "language_model" else 1
        for parameter in parameters:
            narrow = placement.zero and bf16 and parameter.is_floating_point()
            total += parameter.numel() * (2 if narrow else parameter.element_size()) / share
            trained += parameter.numel() / share if parameter.requires_grad else 0
    if placement.offload_weights:
        return 0.0, trained
    return total / (placement.ranks if placement.fsdp or placement.zero == 3 else 1), trained


def _autocast_copies(model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement) -> float:
    """Copies in bf16 of fp32 matrices that live until the backward pass has used them."""
    if placement.fsdp:  # gathered layer by layer: the one that is used, and the next one on its way
        return 2 * 2.0 * max(_matrices([layer]) for layer in model.get_decoder().layers)
    if config.gradient_checkpointing:
        return 2.0 * _matrices([model], trained_only=True) / placement.tp
    frozen_tower = not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    modules: list[nn.Module] = [model.mm_projector, model.language_model]
    return 2.0 * _matrices(modules if frozen_tower else [*modules, model.vision_tower]) / placement.tp


def _matrices(modules: Iterable[nn.Module], trained_only: bool = False) -> int:
    linears = [m for module in modules for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return sum(m.weight.numel() for m in linears if m.weight.requires_grad or not trained_only)


def _activations(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, bf16: bool
) -> float:
    decoder, tower = _decoder(model, config, placement, size, bf16), _tower(model, config, size, bf16)
    pixels = 4.0 * 3 * model.config.vision_config.image_size**2 * size.tiles
    trained = any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    # A frozen tower has let go of all it computed before the decoder begins.
    return pixels + (decoder + tower if trained else max(decoder, tower))


def _decoder(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, bf16: bool
) -> float:
    text = model.config.text_config
    hidden = text.hidden_size
    head_dim = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    heads = (text.num_attention_heads + text.num_key_value_heads) * head_dim / placement.tp
    inner = text.intermediate_size / placement.tp
    layer = 26 * hidden + 10 * heads + 8 * inner if bf16 else 24 * hidden + 16 * heads + 16 * inner
    depth = text.num_hidden_layers
    recomputed = 0
    if config.gradient_checkpointing:
        chosen = layer_range(config.gradient_checkpointing_layers, "gradient_checkpointing_layers")
        recomputed = len([number for number in chosen or range(depth) if number < depth])
    # Embeddings, the same with the images in them, and their gradient; all in fp32.
    around = 3 * 4 * hidden
    once = (1 if recomputed else 0) + 1
    kept = recomputed * 4 * hidden + (depth - recomputed) * layer
    return float(size.positions * (kept + once * layer + around))


def _tower(model: ParsitForConditionalGeneration, config: TrainConfig, size: BatchSize, bf16: bool) -> float:
    vision = model.config.vision_config
    patches = size.tiles * (vision.image_size // vision.patch_size) ** 2
    hidden = vision.hidden_size
    layer = (24 if bf16 else 32) * hidden + (4 if bf16 else 8) * vision.intermediate_size
    if not any(parameter.requires_grad for parameter in model.vision_tower.parameters()):
        return float(patches * layer)
    depth = model.config.num_vision_layers
    kept = depth * 4 * hidden + 2 * layer if config.gradient_checkpointing else (depth + 1) * layer
    return float(patches * kept)
