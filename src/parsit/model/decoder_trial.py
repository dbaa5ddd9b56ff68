"""A decoder of another family than those that are tested is tried on a few tokens before anything is trained with it.

Parsit does two things in transformers' place: packed rows go through its attention, and scores are `lm_head` of the last
hidden state. A decoder that does more (scales its scores, adds a bias to attention) would load, train and give other
text. No configuration shows that for all of them, but a few numbers do.
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
    ids = torch.arange(sum(_LENGTHS))[None] % text.vocab_size
    training, implementation = model.training, text._attn_implementation
    model.eval()
    segments = ids.split(_LENGTHS, dim=1)
    expected = [model.language_model(input_ids=segment).logits for segment in segments]
    found = [model(input_ids=segment).logits for segment in segments]
    _require_same(torch.cat(expected, 1), torch.cat(found, 1), f"{name}: its scores are not its lm_head's ({{}})")
    model.enable_packing()
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])[None]
    cuts = torch.tensor([0, *_LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    packed = model(input_ids=ids, position_ids=positions, cu_seq_lens=cuts).logits
    _require_same(torch.cat(expected, 1), packed, f"{name}: its packed rows compute something else ({{}})")
    for config in (text, model.language_model.config):
        config._attn_implementation = implementation
    model.train(training)


def _require_same(expected: torch.Tensor, found: torch.Tensor, message: str) -> None:
    difference = float((expected - found).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:  # NaN is larger too
        told = message.format(f"they differ by {difference:.1e} of the largest")
        raise InputError(f"{told}: choose a decoder of {', '.join(TESTED)}, or one that is built like these")
