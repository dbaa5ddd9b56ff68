"""An estimate of what a training step needs on each GPU, before anything is tried.

With P all and T trained parameters, N ranks (those with batches of their own, under --tp), b bytes of a computed number
(2 in bf16, 4 in fp32):

    weights      4 P in fp32, 2 for what is frozen and narrowed and for what `--optim adamw_bf16` halves; ZeRO: b P.
                 Over N under ZeRO-3 and FSDP; the language model's over tp under --tp
    copies       2 bytes for each fp32 matrix weight that autocast casts: all without gradient checkpointing, the
                 trained ones with it; under FSDP those of two layers and of the embeddings, gathered; none under ZeRO,
                 which keeps 4 T / N in fp32 instead
    gradients    4 T (halved weights and ZeRO: b T); over N under ZeRO-2 and ZeRO-3, and under FSDP where each
                 micro-batch ends with gradients in shares: a step has but one, or `--fsdp_sync_each_batch`
    optimizer    8 T: AdamW's two moments; 4 T in bfloat16, and 2 more for each halved weight; 4 T more for a moving
                 average; over N under ZeRO, FSDP
    activations  for each position of the row and each layer 12 D + 8 (H + K) d + 8 I bytes in bf16 (8 D where the
                 embeddings are in bf16 as well), and 16 D + 16 (H + K) d + 16 I in fp32 (D hidden, I intermediate size,
                 H and K heads of queries and keys, d their size): what autograd keeps of a Qwen3 layer, counted with
                 its saved tensors. With gradient checkpointing 4 D (2 D), and one layer in full. The same again for
                 one layer's gradients; adapters add what `_of_adapters` says. The tower's positions are patches,
                 20 D + 4 I (16 D + 4 I; fp32: 32 D + 8 I); frozen, it keeps nothing
    logits       one chunk's scores (`parsit.model.head`) in fp32 and, in bf16, once more in that; where `lm_head` is
                 trained, its gradient in fp32 and a chunk's share of it; its weight's copy

A validation keeps nothing for a backward pass. Beside weights, copies and optimizer it has for each position 3 rows and
the widest of one layer, 3 I or 2 (H + K) d numbers, for each patch 3 rows and 2 I or 4 D, and one chunk's scores.

What is offloaded to the CPU counts nothing. The allocator's own losses and the libraries' buffers come on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from parsit.config import TrainConfig, layer_range, zero_settings
from parsit.model import ParsitForConditionalGeneration
from parsit.model.head import CHUNK_BYTES
from parsit.processing.collate import Batch
from parsit.train.parts import halvable, layers_of, narrowable
from parsit.train.world import data_size

GB = 1e9
# Matrices of a decoder layer that are given one and the same input.
_SHARED_INPUT = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """How a run lies on its devices: `zero` is the stage, 0 for none; `offload_*`: to the CPU's memory.

    `tp` of the `ranks` share each matrix and read the same batches; `fsdp` shards over those that do not.
    """

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
            UsageError: --tp does not divide the ranks.
        """
        of_data = data_size(ranks, config.tp)
        if not config.deepspeed:
            return cls(ranks, fsdp=config.fsdp and of_data > 1, tp=config.tp)
        settings = zero_settings(config.deepspeed).get("zero_optimization", {})
        offloads = [settings.get(f"offload_{what}", {}).get("device", "none") for what in ("optimizer", "param")]
        on_cpu = [device not in ("none", None) for device in offloads]
        return cls(ranks, int(settings.get("stage", 0)), offload_optimizer=on_cpu[0], offload_weights=on_cpu[1])

    @property
    def data_ranks(self) -> int:
        """Number of ranks that read batches of their own."""
        return self.ranks // self.tp

    def __str__(self) -> str:
        of_data = f"ZeRO-{self.zero}" if self.zero else "FSDP" if self.fsdp else "DDP" if self.data_ranks > 1 else ""
        ways = ([f"--tp {self.tp}"] if self.tp > 1 else []) + ([of_data] if of_data else [])
        offloads = [
            what for what, on in (("weights", self.offload_weights), ("optimizer", self.offload_optimizer)) if on
        ]
        words = [" with ".join(ways) or "one process"]
        words += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        return ", ".join(words + ([" and ".join(offloads) + " on the CPU"] if offloads else []))


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What a micro-batch is to the memory: positions with padding, tiles (or patches), supervised positions."""

    positions: int
    tiles: int
    labels: int

    @classmethod
    def of(cls, batch: Batch) -> BatchSize:
        """The size of a real micro-batch."""
        tiles = 0 if batch.pixels is None else batch.pixels.shape[0]
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
        """The sum of all parts, in bytes."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GB:.2f}" for name, value in asdict(self).items() if value)
        return f"{self.total / GB:.2f} GB ({parts})"


def estimate(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, bf16: bool
) -> MemoryEstimate:
    """What a step of `config` needs on each GPU; the model's parameters are frozen and freed, and not yet sharded."""
    kept = _Kept.of(model, config, placement, bf16)
    weights, masters, gradients, optimizer = _parameters(model, config, placement, kept)
    ranks = placement.data_ranks
    sharded = ranks if placement.fsdp or placement.zero >= 1 else 1
    on_gpu = not placement.offload_optimizer
    in_shares = placement.zero >= 2 or (placement.fsdp and not adds_up_whole_gradients(config))
    return MemoryEstimate(
        weights=0.0 if placement.offload_weights else weights / (ranks if placement.fsdp or placement.zero == 3 else 1),
        copies=on_gpu * masters / sharded if placement.zero else _autocast_copies(model, config, placement, kept),
        gradients=gradients / (ranks if in_shares else 1),
        optimizer=on_gpu * optimizer / sharded,
        activations=_activations(model, config, placement, size, kept),
        logits=_logits(model, placement, size, kept),
    )


def adds_up_whole_gradients(config: TrainConfig) -> bool:
    """Whether each process of FSDP holds its gradients whole until a step's last micro-batch."""
    return config.gradient_accumulation_steps > 1 and not config.fsdp_sync_each_batch


def estimate_validation(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, bf16: bool
) -> MemoryEstimate:
    """What a validation batch of `size` needs on each GPU in mid-run: no gradients, but the optimizer's state."""
    kept = _Kept.of(model, config, placement, bf16)
    step = estimate(model, config, placement, size, bf16)
    return replace(
        step,
        gradients=step.gradients if placement.zero else 0.0,  # DeepSpeed has buffers for them
        activations=_forward_alone(model, placement, size, kept),
        logits=_scores(model, placement, size, kept),
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """In which form parameters lie on a device: `narrow` ones in 2 bytes, `halved` ones in 2 and 2 more beside them."""

    bf16: bool
    zero: bool
    narrow: set[torch.Tensor]
    halved: set[torch.Tensor]

    @classmethod
    def of(cls, model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, bf16: bool) -> _Kept:
        if not bf16 or placement.zero:
            return cls(bf16, placement.zero > 0, set(), set())
        whole = not placement.fsdp and placement.tp == 1
        halved = halvable(model) if whole and config.optim == "adamw_bf16" else []
        return cls(bf16, False, set(narrowable(model, config)), set(halved))

    def in_bf16(self, parameter: torch.Tensor) -> bool:
        """Whether the model itself holds it in bfloat16."""
        own = parameter.dtype == torch.bfloat16
        return own or (self.bf16 and (self.zero or parameter in self.narrow or parameter in self.halved))


def _parameters(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, kept: _Kept
) -> tuple[float, float, float, float]:
    """Bytes of weights, DeepSpeed's fp32 masters, gradients and optimizer state, before data ranks share them."""
    moments = 4 if config.optim == "adamw_bf16" else 8
    average = 4 if config.ema_decay else 0
    weights = masters = gradients = optimizer = 0.0
    for name, parameters in model.parts():
        share = placement.tp if name == "language_model" else 1
        for parameter in parameters:
            count = parameter.numel() / share
            narrow = kept.in_bf16(parameter) and parameter.is_floating_point()
            weights += count * (2 if narrow else parameter.element_size())
            if parameter.requires_grad:
                masters += count * 4 * (kept.zero and kept.bf16)
                gradients += count * (2 if narrow else 4)
                optimizer += count * (moments + 2 * (parameter in kept.halved) + average)
    return weights, masters, gradients, optimizer


def _autocast_copies(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, kept: _Kept
) -> float:
    """Copies in bf16 of fp32 matrices that live until the backward pass has used them."""
    if not kept.bf16:
        return 0.0
    if placement.fsdp:  # gathered layer by layer: the one that is used, and the next one on its way
        layers = 2 * max(_numel(layer.parameters()) for layer in layers_of(model.get_decoder()))
        return 2.0 * (layers + model.get_input_embeddings().weight.numel()) / placement.tp
    frozen_tower = not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    modules: list[nn.Module] = [model.mm_projector, model.get_decoder()]
    modules = modules if frozen_tower else [*modules, model.vision_tower]
    matrices = [m.weight for one in modules for m in one.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    wide = [weight for weight in matrices if weight.is_floating_point() and not kept.in_bf16(weight)]
    if config.gradient_checkpointing:
        wide = [weight for weight in wide if weight.requires_grad]
    return 2.0 * _numel(wide) / placement.tp


def _numel(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _logits(model: ParsitForConditionalGeneration, placement: Placement, size: BatchSize, kept: _Kept) -> float:
    weight = model.get_output_embeddings().weight
    of_weight = 0.0
    if weight.requires_grad:
        of_weight += 4 + (2 if kept.bf16 else 4)
    if kept.bf16 and not kept.in_bf16(weight):
        of_weight += 2
    return _scores(model, placement, size, kept) + of_weight * weight.numel() / placement.tp


def _scores(model: ParsitForConditionalGeneration, placement: Placement, size: BatchSize, kept: _Kept) -> float:
    """One chunk's scores."""
    entries = model.get_output_embeddings().weight.shape[0] / placement.tp
    return min(size.labels, max(CHUNK_BYTES // (4 * entries), 1)) * entries * (6 if kept.bf16 else 4)


def _forward_alone(model: ParsitForConditionalGeneration, placement: Placement, size: BatchSize, kept: _Kept) -> float:
    """The most that a forward pass holds at once where no backward pass follows."""
    text, vision = model.config.text_config, model.config.vision_config
    number = 2 if kept.bf16 else 4
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = 2 * (text.num_attention_heads + text.num_key_value_heads) * head_dim
    widest = max(3 * text.intermediate_size, heads) / placement.tp
    decoder = size.positions * (3 * 4 * text.hidden_size + number * widest)
    patches = size.tiles * model.layout.patches_per_side**2
    tower = patches * (3 * 4 * vision.hidden_size + number * max(2 * vision.intermediate_size, 4 * vision.hidden_size))
    return _pixels(model, size) + max(decoder, tower)


def _pixels(model: ParsitForConditionalGeneration, size: BatchSize) -> float:
    """As bytes and as the tower's numbers."""
    return 5.0 * 3 * model.layout.image_size**2 * size.tiles


def _activations(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, kept: _Kept
) -> float:
    decoder, tower = _decoder(model, config, placement, size, kept), _tower(model, config, size, kept)
    trained = any(parameter.requires_grad for parameter in model.vision_tower.parameters())
    # A frozen tower has let go of all it computed before the decoder begins.
    return _pixels(model, size) + (decoder + tower if trained else max(decoder, tower))


def _decoder(
    model: ParsitForConditionalGeneration, config: TrainConfig, placement: Placement, size: BatchSize, kept: _Kept
) -> float:
    text = model.config.text_config
    hidden = text.hidden_size
    head_dim = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    heads = (text.num_attention_heads + text.num_key_value_heads) * head_dim / placement.tp
    inner = text.intermediate_size / placement.tp
    narrow = kept.in_bf16(model.get_input_embeddings().weight)
    if kept.bf16:
        layer = (8 if narrow else 12) * hidden + 8 * heads + 8 * inner
    else:
        layer = 16 * hidden + 16 * heads + 16 * inner
    layer += _of_adapters(model, config, 2 if kept.bf16 else 4)
    depth = text.num_hidden_layers
    recomputed = 0
    if config.gradient_checkpointing:
        chosen = layer_range(config.gradient_checkpointing_layers, "gradient_checkpointing_layers")
        recomputed = len([number for number in chosen or range(depth) if number < depth])
    # Embeddings, the same with the images in them, and their gradient; in the type of the sums along the layers.
    row = (2 if narrow else 4) * hidden
    around = 3 * row
    once = (1 if recomputed else 0) + 1
    stored = recomputed * row + (depth - recomputed) * layer
    return float(size.positions * (stored + once * layer + around))


def _of_adapters(model: ParsitForConditionalGeneration, config: TrainConfig, number: int) -> float:
    """What adapters add to a decoder layer, in bytes a position; `number`: bytes of a computed one.

    Dropout keeps a dropped copy of each adapted matrix's input, and its mask, instead of the input that neighbouring
    matrices share. DoRA keeps three numbers of each output.
    """
    adapted: dict[str, nn.Linear] = {
        name.rpartition(".")[2]: module.base_layer
        for layer in layers_of(model.get_decoder())[:1]
        for name, module in layer.named_modules()
        if hasattr(module, "lora_A") and isinstance(module.base_layer, nn.Linear)
    }
    added = 0.0
    if config.lora_dropout:
        shared = {_SHARED_INPUT.get(name, name): base.in_features for name, base in adapted.items()}
        added += (number + 1) * sum(base.in_features for base in adapted.values()) - number * sum(shared.values())
    if config.use_dora:
        added += 3 * number * sum(base.out_features for base in adapted.values())
    return added


def _tower(model: ParsitForConditionalGeneration, config: TrainConfig, size: BatchSize, kept: _Kept) -> float:
    vision = model.config.vision_config
    patches = size.tiles * model.layout.patches_per_side**2
    hidden = vision.hidden_size
    narrow = kept.in_bf16(next(model.vision_tower.parameters()))
    layer = (16 if narrow else 20 if kept.bf16 else 32) * hidden + (4 if kept.bf16 else 8) * vision.intermediate_size
    if not any(parameter.requires_grad for parameter in model.vision_tower.parameters()):
        return float(patches * layer)
    depth = model.config.num_vision_layers
    row = (2 if narrow else 4) * hidden
    stored = depth * row + 2 * layer if config.gradient_checkpointing else (depth + 1) * layer
    return float(patches * stored)
