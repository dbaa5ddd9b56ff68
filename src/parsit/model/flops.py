"""Floating-point operations of a training step, counted from the shapes of its matrix products.

A product of [m, k] and [k, n] counts 2 m k n; the backward pass twice as much as the forward pass where weights are
trained, and as much again where gradients only pass through. Norms, activations and the input embedding's look-up
count nothing. Source of the counting: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1, with
attention added.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from parsit.model.modeling import ParsitForConditionalGeneration


@dataclass(frozen=True, slots=True)
class StepFlops:
    """Operations of a forward and backward pass.

    `per_token`: of the decoder's matrices. `per_token_squared`: of causal attention, times the square of a
    conversation's length. `per_label`: of `lm_head`, for each supervised position. `per_tile`: of tower and projector.
    """

    per_token: float
    per_token_squared: float
    per_label: float
    per_tile: float


def step_flops(model: ParsitForConditionalGeneration) -> StepFlops:
    """What a step of this model costs, by what of it is trained."""
    text, vision = model.config.text_config, model.config.vision_config
    decoder, tower, projector = model.get_decoder(), model.vision_tower, model.mm_projector
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    patches = (vision.image_size // vision.patch_size) ** 2
    # Causal: half of the products of queries with keys, and of weights with values.
    attention = 2 * text.num_hidden_layers * text.num_attention_heads * head_dim
    tower_attention = 4 * model.config.num_vision_layers * vision.hidden_size * patches**2
    tower_passes = _passes(tower, gradient_beyond=False)
    projector_passes = _passes(projector, gradient_beyond=_is_trained(tower))
    decoder_passes = _passes(decoder, gradient_beyond=_is_trained(tower) or _is_trained(projector))
    tokens_of_tile = patches / model.config.mm_pixel_shuffle**2
    return StepFlops(
        per_token=2 * decoder_passes * _matrix_weights(decoder),
        per_token_squared=(3 if decoder_passes > 1 else 1) * attention,
        per_label=2 * decoder_passes * text.vocab_size * text.hidden_size,
        per_tile=2 * tower_passes * _matrix_weights(tower) * patches
        + (3 if tower_passes > 1 else 1) * tower_attention
        + 2 * projector_passes * _matrix_weights(projector) * tokens_of_tile,
    )


def _matrix_weights(module: nn.Module) -> int:
    """Weights of linear and convolution layers; tables of embeddings are looked up, not multiplied."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _passes(module: nn.Module, gradient_beyond: bool) -> int:
    """Products for each weight: forward, gradient of the input, gradient of the weight."""
    if _is_trained(module):
        return 3
    return 2 if gradient_beyond else 1
