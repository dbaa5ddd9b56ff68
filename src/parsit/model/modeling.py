"""`ParsitForConditionalGeneration`: vision tower -> projector -> language model.

An ordinary `PreTrainedModel`, put together from `transformers`' own towers and decoders through
their Auto classes; nothing of theirs is copied or patched. `ParsitModel` is what comes before `lm_head`; what is
decided here is which positions meet it (design D5).

Shape suffixes: B batch, T positions, N tiles, P patches or features of a tile, D hidden size, K positions with logits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from parsit.model import packed_attention
from parsit.model.base import ParsitModel
from parsit.model.configuration import ParsitConfig
from parsit.model.fused import fuse_norms
from parsit.model.head import SupervisedHead
from parsit.model.loss import supervised_loss
from parsit.tiling import NativeLayout

# What the decoder calls its cache: transformers 5.24 renamed it in arguments and outputs, and warns of the old name.
CACHE = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"


@dataclass
class ParsitOutput(ModelOutput):
    """What a forward pass gives.

    `loss`: scalar, with labels only. `logits`: `float[B, K, vocabulary]`, without labels only (K:
    the positions asked for). `cache`: the decoder's, which is `past_key_values` as well. `vision_features_NPD`: the
    tower's output per tile and patch; where the batch has no image, of a blank tile in training, else None.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Any = None
    vision_features_NPD: torch.Tensor | None = None

    @property
    def past_key_values(self) -> Any:
        """The name that `cache` had before transformers 5.24."""
        return self.cache


class ParsitForConditionalGeneration(ParsitModel, GenerationMixin):
    """Reads documents: images and text in, text out."""

    key_mapping: ClassVar[dict[str, str]] = {}

    def __init__(self, config: ParsitConfig) -> None:
        super().__init__(config)
        fuse_norms(self)

    def _new_language_model(self) -> PreTrainedModel:
        language_model = AutoModelForCausalLM.from_config(self.config.text_config)
        language_model.set_output_embeddings(SupervisedHead.of(language_model.get_output_embeddings()))
        return language_model

    def get_output_embeddings(self) -> SupervisedHead:
        """The language model's `lm_head`."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the language model's `lm_head`; it stays one that computes its loss in chunks."""
        self.language_model.set_output_embeddings(SupervisedHead.of(new_embeddings))

    def get_decoder(self) -> nn.Module:
        """The language model without `lm_head`."""
        return self.language_model.get_decoder()

    def set_attention(self, implementation: str) -> None:
        """Compute attention in tower and language model by `implementation`, as transformers calls it.

        A tower of native resolution keeps its own, which tells its images apart.
        """
        configs: list[Any] = [self.config.text_config, self.language_model.config]
        if not isinstance(self.layout, NativeLayout):
            configs.append(self.vision_tower.config)
        for config in configs:
            config._attn_implementation = implementation

    def enable_packing(self) -> None:
        """Give the language model the attention that packed batches need; others are computed by SDPA as before.

        FlashAttention packs by itself, and stays.
        """
        if self.language_model.config._attn_implementation in packed_attention.FLASH:
            return
        packed_attention.register()
        for config in (self.config.text_config, self.language_model.config):
            config._attn_implementation = packed_attention.NAME

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cu_seq_lens: torch.Tensor | None = None,
        image_positions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        label_positions: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> ParsitOutput:
        """One pass.

        Args:
            input_ids: `int[B, T]`, with `image_token_id` wherever an image token goes.
            pixel_values: `float[N, 3, H, W]`, see `embed`.
            image_sizes: `int[images, 2]`, (height, width) in pixels.
            attention_mask: `int[B, T]`, 0 for padding.
            position_ids: `int[B, T]`; None: 0, 1, 2, …
            cu_seq_lens: `int[conversations + 1]` on the CPU: the row is packed, conversations begin at these places
                and cannot see each other; needs `enable_packing()`, and `position_ids` that begin again with each.
            image_positions: see `embed`.
            labels: `int[B, T]`, -100 where nothing is learnt; with labels there are no logits.
            label_positions: see `supervised_loss`.
            num_items_in_batch: divisor of the summed loss, see `supervised_loss`.
            inputs_embeds: `float[B, T, D]` instead of `input_ids` and images.
            past_key_values: the decoder's cache.
            use_cache: whether to return a cache.
            logits_to_keep: how many last positions get logits, or which; 0: all.
            kwargs: handed to the decoder.

        Returns:
            `ParsitOutput`.
        """
        vision_features_NPD = None
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("forward needs input_ids or inputs_embeds")
            inputs_embeds, vision_features_NPD = self.embed(
                input_ids, pixel_values, image_sizes, image_positions, self.training or labels is not None
            )
        if cu_seq_lens is not None:
            kwargs |= packed_attention.packed_inputs(
                inputs_embeds, cu_seq_lens, self.language_model.config._attn_implementation
            )
            attention_mask = kwargs.pop("attention_mask")
        if past_key_values is not None:
            kwargs[CACHE] = past_key_values
        decoded = self.get_decoder()(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False if labels is not None else use_cache,
            **kwargs,
        )
        hidden_BTD = decoded.last_hidden_state
        lm_head = self.get_output_embeddings()
        loss, logits = None, None
        if labels is not None:
            loss = supervised_loss(hidden_BTD, labels, lm_head, num_items_in_batch, label_positions)
        else:
            # slice(-0, None) is everything, which is what 0 asks for.
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = lm_head(hidden_BTD[:, keep])
        return ParsitOutput(
            loss=loss,
            logits=logits,
            cache=getattr(decoded, CACHE),
            vision_features_NPD=vision_features_NPD,
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """`transformers`' generation on the language model, after the images were read once.

        The language model gets both ids and embeddings, so the result starts with the prompt, as
        with any other model, and the images are not read again for each token.

        Args:
            input_ids: `int[B, T]`, padded on the left.
            pixel_values: see `embed`.
            image_sizes: see `embed`.
            attention_mask: `int[B, T]`, 0 for padding.
            image_positions: see `embed`.
            kwargs: as for `GenerationMixin.generate`.

        Returns:
            `int[B, T + new]`, or what `return_dict_in_generate` gives.
        """
        inputs_embeds, _ = self.embed(input_ids, pixel_values, image_sizes, image_positions)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        generation_config = copy.deepcopy(kwargs.pop("generation_config", None) or self.generation_config)
        rest = generation_config.update(**kwargs)  # gives back what is no generation setting
        return self.language_model.generate(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=generation_config,
            **rest,
        )
