"""What a model is made of, from its configuration alone: exact parameter counts, image tokens, memory."""

from __future__ import annotations

from dataclasses import dataclass

from parsit.model.configuration import ParsitConfig
from parsit.model.modeling import ParsitForConditionalGeneration

# An A4 page is 8.27 x 11.69 inches; at 150 dpi that is the page that the image tokens are given for.
A4_INCHES = (8.27, 11.69)
A4_AT_150_DPI = (1240, 1754)

# Bytes per parameter. Inference: bf16. Training in mixed precision: fp32 weight, fp32 gradient and
# AdamW's two fp32 moments for what is trained; the fp32 weight alone for what is frozen.
INFERENCE_BYTES, TRAINED_BYTES, FROZEN_BYTES = 2, 16, 4


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in numbers.

    `parts`: parameters by part, tied ones once. `context`: positions of the language model. `page_tokens`,
    `page_tiles`: of an A4 page at 150 dpi; `page_grid`: (columns, rows) of tiles; `page_dpi`: resolution at which
    the tower sees that page. `kv_cache_bytes`: bf16 cache of that page and 1,024 tokens of answer. `unit`: what is
    counted as tiles, `tiles` or `patches`. Memory is of weights, gradients, optimizer and cache; the activations
    of a training step come on top and depend on batch and length.
    """

    parts: dict[str, int]
    context: int
    page_tokens: int
    page_tiles: int
    page_grid: tuple[int, int]
    page_dpi: float
    kv_cache_bytes: int
    unit: str = "tiles"

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts.values())

    @property
    def inference_bytes(self) -> int:
        """bf16 weights and the cache of one page."""
        return self.total * INFERENCE_BYTES + self.kv_cache_bytes

    @property
    def full_training_bytes(self) -> int:
        """Weights, gradients and AdamW with everything trained."""
        return self.total * TRAINED_BYTES

    @property
    def projector_training_bytes(self) -> int:
        """The same with the projector (and `image_newline`) trained and the rest frozen."""
        trained = self.parts["projector"] + self.parts.get("image_newline", 0)
        return trained * TRAINED_BYTES + (self.total - trained) * FROZEN_BYTES


def summarize(model: ParsitForConditionalGeneration) -> ModelSummary:
    """The numbers of a model, which may be on the meta device."""
    config = model.config
    plan = config.layout.plan(*A4_AT_150_DPI)
    return ModelSummary(
        parts={name: sum(parameter.numel() for parameter in parameters) for name, parameters in model.parts()},
        context=config.text_config.max_position_embeddings,
        page_tokens=plan.num_tokens,
        page_tiles=plan.num_tiles,
        page_grid=plan.grid,
        page_dpi=plan.resized[1] / A4_INCHES[1],
        kv_cache_bytes=_kv_cache_bytes(config, plan.num_tokens + 1024),
        unit=config.layout.unit,
    )


def _kv_cache_bytes(config: ParsitConfig, positions: int) -> int:
    """Keys and values in bf16 of all layers."""
    text = config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * positions * 2
