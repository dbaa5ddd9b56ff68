"""What vLLM needs to know of Parsit; the entry point `vllm.general_plugins` loads it in each of its processes.

vLLM's Transformers backend runs `ParsitModel` as it is, with its own attention and `lm_head`. It looks for a model's
class in `transformers` by name, and asks transformers' conversions how a folder's keys become the model's.
"""

from __future__ import annotations

import transformers


def register() -> None:
    """Let vLLM find the model, and its weights."""
    # Of transformers 5.x, which vLLM needs; 4.x has neither.
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    from parsit.hf import ParsitForConditionalGeneration, ParsitModel

    transformers.ParsitForConditionalGeneration = ParsitForConditionalGeneration  # type: ignore[attr-defined]
    renamings = [WeightRenaming(source, target) for source, target in ParsitModel.key_mapping.items()]
    register_checkpoint_conversion_mapping(ParsitModel.__name__, renamings, overwrite=True)  # type: ignore[arg-type]
