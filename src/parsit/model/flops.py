"""Floating-point operations of a training step, counted from the shapes of its matrix products.

A product of [m, k] and [k, n] counts 2 m k n in the forward pass, as much again where its weight is trained, and as
much again where something before it is trained, to which the gradient must pass: a frozen base under adapters has two
products for each weight, not three. Norms, activations and the input embedding's look-up
count nothing. Source of the counting: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1, with
attention added.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.model.quantize import num_parameters
from parsit.tiling import NativeLayout


@dataclass(frozen=True, slots=True)
class StepFlops:
    """Operations of a forward and backward pass.

    `per_token`: of the decoder's matrices. `per_token_squared`: of causal attention, times the square of a
    conversation's length. `per_label`: of `lm_head`, for each supervised position. `per_tile`: of tower and projector.
    `per_tile_squared`: under native resolution, where a tile is one patch, of the tower's attention, times the square
    of an image's patches.
    """

    per_token: float
    per_token_squared: float
    per_label: float
    per_tile: float
    per_tile_squared: float = 0.0


def step_flops(model: ParsitForConditionalGeneration) -> StepFlops:
    """What a step of this model costs, by what of it is trained."""
    text, vision = model.config.text_config, model.config.vision_config
    decoder, tower, projector = model.get_decoder(), model.vision_tower, model.mm_projector
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    patches = model.layout.patches_per_side**2
    # Causal: half of the products of queries with keys, and of weights with values.
    attention = 2 * text.num_hidden_layers * text.num_attention_heads * head_dim
    before_projector = _is_trained(tower)
    tower_attention = (3 if before_projector else 1) * 4 * model.config.num_vision_layers * vision.hidden_size
    sees_alone = not isinstance(model.layout, NativeLayout)
    before_decoder = before_projector or _is_trained(projector) or _is_trained(model.get_input_embeddings())
    before_head = before_decoder or _is_trained(decoder)
    tokens_of_tile = patches / model.config.mm_pixel_shuffle**2
    return StepFlops(
        per_token=2 * _products(decoder, before_decoder),
        per_token_squared=(3 if before_head else 1) * attention,
        per_label=2 * _products(model.get_output_embeddings(), before_head),
        per_tile=2 * _products(tower, False) * patches
        + (tower_attention * patches**2 if sees_alone else 0)
        + 2 * _products(projector, before_projector) * tokens_of_tile,
        per_tile_squared=0 if sees_alone else tower_attention,
    )


def _products(module: nn.Module, gradient_beyond: bool) -> int:
    """Weights of linear and convolution layers, each as often as it is multiplied; embeddings are looked up.

    Args:
        module: its layers are taken in their order.
        gradient_beyond: something before the module is trained.
    """
    products, gradient = 0, gradient_beyond
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            trained = layer.weight.requires_grad
            products += num_parameters(layer.weight) * (1 + trained + gradient)
            gradient = gradient or trained
    return products


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
