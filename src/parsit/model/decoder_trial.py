"""A decoder of another family than those that are tested is tried on a few tokens before anything is trained with it.

Parsit does two things in transformers' place: packed rows go through its attention, and scores are `lm_head` of the
last hidden state. A decoder that does more (scales its scores, adds a bias to attention) would load, train and give
other text. No configuration shows that for all of them, but a few numbers do.
"""

from __future__ import annotations

import torch

from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.types import InputError

# Families whose every use here has a test of its own (docs/models.md).
TESTED = ("qwen3", "qwen2", "llama")
# Largest difference of a score, as a share of the largest one. Sums in another order differ by 1e-6.
TOLERANCE = 1e-4
_LENGTHS = (6, 5)


@torch.no_grad()
def require_computes_alike(model: ParsitForConditionalGeneration, name: str) -> None:
    """Refuse a decoder whose scores, or whose packed rows, are not those that transformers computes.

    Args:
        model: the model with its weights in fp32; one on the meta device, or of a tested family, is not tried.
        name: what errors name.

    Raises:
        InputError: which of the two differs, and by how much.
    """
    text = model.config.text_config
    if text.model_type in TESTED or model.device.type == "meta":
        return
    training = model.training
    before = [(config, config._attn_implementation) for config in (text, model.language_model.config)]
    model.eval()
    embeds_BTD = model.get_input_embeddings()(torch.arange(sum(_LENGTHS))[None] % text.vocab_size)
    segments = embeds_BTD.split(_LENGTHS, dim=1)
    expected = torch.cat([model.language_model(inputs_embeds=segment).logits for segment in segments], 1)
    found = torch.cat([model(inputs_embeds=segment).logits for segment in segments], 1)
    _require_same(expected, found, f"{name}: its scores are not its lm_head's ({{}})")
    model.enable_packing()
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])[None]
    cuts = torch.tensor([0, *_LENGTHS]).cumsum(0).int()
    packed = model(inputs_embeds=embeds_BTD, position_ids=positions, cu_seq_lens=cuts).logits
    _require_same(expected, packed, f"{name}: its packed rows compute something else ({{}})")
    for config, implementation in before:
        config._attn_implementation = implementation
    model.train(training)


def _require_same(expected: torch.Tensor, found: torch.Tensor, message: str) -> None:
    difference = float((expected - found).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:  # NaN is larger too
        told = message.format(f"they differ by {difference:.1e} of the largest")
        raise InputError(f"{told}: choose a decoder of {', '.join(TESTED)}, or one that is built like these")
