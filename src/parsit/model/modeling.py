"""`ParsitForConditionalGeneration`: vision tower -> projector -> language model.

An ordinary `PreTrainedModel`, put together from `transformers`' own towers and decoders through
their Auto classes; nothing of theirs is copied or patched. What is decided here: where image
features go in the sequence, which positions meet `lm_head`, and that each forward pass in
training makes the same module calls on every rank, image or not (design D5, D6).

Shape suffixes: B batch, T positions, N tiles, P patches or features of a tile, D hidden size. Under native resolution a
tile is one patch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from parsit.model import native, packed_attention
from parsit.model.configuration import ParsitConfig
from parsit.model.fused import fuse_norms
from parsit.model.head import SupervisedHead
from parsit.model.loss import supervised_loss
from parsit.model.merge import merge_images, pool_tiles
from parsit.model.projector import build_projector
from parsit.model.vision import build_vision_tower, pixel_shuffle
from parsit.model.weight_files import aligned
from parsit.tiling import ImagePlan, NativeLayout

# What the decoder calls its cache: transformers 5.24 renamed it in arguments and outputs, and warns of the old name.
CACHE = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"


@dataclass
class ParsitOutput(ModelOutput):
    """What a forward pass gives.

    `loss`: scalar, with labels only. `logits`: `float[B, K, vocabulary]`, without labels only (K:
    the positions asked for). `cache`: the decoder's, which is `past_key_values` as well. `vision_features_NPD`: the
    tower's output per tile and patch, None where the batch has no image.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Any = None
    vision_features_NPD: torch.Tensor | None = None

    @property
    def past_key_values(self) -> Any:
        """The name that `cache` had before transformers 5.24."""
        return self.cache


class ParsitForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Reads documents: images and text in, text out."""

    config_class = ParsitConfig
    config: ParsitConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012  (transformers' interface)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _supports_flex_attn = True
    _supports_cache_class = True
    _supports_attention_backend = True

    def __init__(self, config: ParsitConfig) -> None:
        super().__init__(config)
        self.layout = config.layout
        self.vision_tower = build_vision_tower(config)
        hidden_size = config.text_config.hidden_size
        vision_size = config.vision_config.hidden_size * config.mm_pixel_shuffle**2
        self.mm_projector = build_projector(config.mm_projector_type, vision_size, hidden_size)
        self.image_newline = nn.Parameter(torch.zeros(hidden_size)) if self.layout.has_newline else None
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.set_output_embeddings(self.language_model.get_output_embeddings())
        fuse_norms(self)
        self.post_init()
        if self.image_newline is not None and self.image_newline.device.type != "meta":
            # LLaVA's scale: the norm of a typical embedding, whatever the hidden size.
            nn.init.normal_(self.image_newline, std=hidden_size**-0.5)

    def _init_weights(self, module: nn.Module) -> None:
        """Weights of the projector; the towers drew theirs in their own constructors."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

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

    def encode_tiles(self, pixel_values: torch.Tensor, plans: Sequence[ImagePlan] = ()) -> torch.Tensor:
        """`float[N, 3, H, W]` to the tower's features, `float[N, P, D_vision]`.

        Args:
            pixel_values: tiles of all images, image by image.
            plans: the images', which a tower of native resolution needs.
        """
        pixel_values = pixel_values.to(next(self.vision_tower.parameters()).dtype)
        if isinstance(self.layout, NativeLayout):
            return self.vision_tower(pixel_values, [plan.grid for plan in plans])[:, None]
        return self.vision_tower(pixel_values=pixel_values).last_hidden_state

    def image_tokens(self, vision_features_NPD: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
        """All images' tokens, one after another: `float[sum of tokens, D]`.

        Args:
            vision_features_NPD: the tower's features of all tiles, image by image, overview first.
            image_sizes: `int[images, 2]`, (height, width) of each image in pixels. On the CPU; elsewhere it is waited
                for.

        Raises:
            ValueError: the tiles are not those that images of these sizes have.
        """
        return self._merge(vision_features_NPD, self._plans(image_sizes, vision_features_NPD.shape[0]))

    def _plans(self, image_sizes: torch.Tensor, num_tiles: int) -> list[ImagePlan]:
        """The plans of images that have `num_tiles` tiles in all."""
        plans = [self.layout.plan(width, height) for height, width in image_sizes.tolist()]
        expected = sum(plan.num_tiles for plan in plans)
        if expected != num_tiles:
            raise ValueError(
                f"pixel_values has {num_tiles} {self.layout.unit}, but {len(plans)} images of these sizes "
                f"have {expected}: use the model's own processor for both"
            )
        return plans

    def _merge(self, vision_features_NPD: torch.Tensor, plans: Sequence[ImagePlan]) -> torch.Tensor:
        """The tower's features to all images' tokens."""
        layout = self.layout
        if isinstance(layout, NativeLayout):
            features_ND = vision_features_NPD[:, 0]
            return native.image_tokens(features_ND, plans, layout, self.mm_projector, self.image_newline)
        shuffled = pixel_shuffle(vision_features_NPD, layout.patches_per_side, layout.mm_pixel_shuffle)
        features_NPD = pool_tiles(self.mm_projector(shuffled), layout)
        return merge_images(features_NPD, plans, layout, self.image_newline)

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_positions: torch.Tensor | None = None,
        always_run_tower: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The decoder's input, image features in the place of their placeholders.

        Args:
            input_ids: `int[B, T]`.
            pixel_values: `float[N, 3, H, W]`, tiles of all images of the batch in order, or None.
            image_sizes: `int[images, 2]`, (height, width) in pixels; required with `pixel_values`.
            image_positions: `int[M]`, where `input_ids`, flattened, has its placeholders, in order; None: it is looked
                for, which waits for the GPU.
            always_run_tower: without images, run the tower on a blank tile that counts nothing (design D6).

        Returns:
            `float[B, T, D]` and the tower's features `float[N, P, D_vision]` (None without images).

        Raises:
            ValueError: placeholders and image features differ in number; both numbers are named.
        """
        embeds_BTD = self.get_input_embeddings()(input_ids)
        if image_positions is None:
            image_positions = (input_ids == self.config.image_token_id).flatten().nonzero()[:, 0]
        num_placeholders = len(image_positions)
        if pixel_values is None or pixel_values.shape[0] == 0:
            _check_same_number(num_placeholders, 0)
            if always_run_tower:
                embeds_BTD = embeds_BTD + self._blank_tile(embeds_BTD)
            return embeds_BTD, None
        if image_sizes is None:
            raise ValueError("pixel_values without image_sizes: pass both, as the processor gives them")
        plans = self._plans(image_sizes, pixel_values.shape[0])
        vision_features_NPD = self.encode_tiles(pixel_values, plans)
        tokens_MD = self._merge(vision_features_NPD, plans)
        _check_same_number(num_placeholders, tokens_MD.shape[0])
        tokens_MD = tokens_MD.to(embeds_BTD.dtype)
        # Not through a flattened view: compiled layers tell a view from what the layer before hands them.
        length = input_ids.shape[1]
        rows, columns = image_positions.div(length, rounding_mode="floor"), image_positions.remainder(length)
        return embeds_BTD.index_put((rows, columns), tokens_MD), vision_features_NPD

    def _blank_tile(self, like: torch.Tensor) -> torch.Tensor:
        """Zero, computed through every vision parameter: each rank runs the tower in each step (design D6)."""
        layout = self.layout
        size = layout.image_size
        if isinstance(layout, NativeLayout):
            smallest = [layout.plan(1, 1)]
            patches = torch.zeros(smallest[0].num_tiles, 3, size, size, device=like.device)
            return (self._merge(self.encode_tiles(patches, smallest), smallest).sum() * 0.0).to(like.dtype)
        tile = torch.zeros(1, 3, size, size, device=like.device)
        shuffled = pixel_shuffle(self.encode_tiles(tile), layout.patches_per_side, layout.mm_pixel_shuffle)
        total = self.mm_projector(shuffled).sum()
        if self.image_newline is not None:
            total = total + self.image_newline.sum()
        return (total * 0.0).to(like.dtype)

    def forward(
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers`, but strict: every weight of the model must be in the file, and no other.

        Raises:
            ValueError: missing, unexpected or wrongly shaped weights, by name.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(  # type: ignore[misc]  (a pair, with output_loading_info)
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        tied = {"language_model.lm_head.weight"} if model.config.text_config.tie_word_embeddings else set()
        problems = {
            "missing": sorted(set(info["missing_keys"]) - tied),
            "unexpected": sorted(info["unexpected_keys"]),
            "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
        }
        if any(problems.values()):
            found = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
            raise ValueError(f"{pretrained_model_name_or_path}: the weights do not fit the model: {found}")
        for parameter in model.parameters():
            parameter.data = aligned(parameter.data)
        return (model, info) if wants_info else model

    def parts(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        """The model's parts by name with their parameters, each parameter once, tied ones included once."""
        yield "vision_tower", list(self.vision_tower.parameters())
        yield "projector", list(self.mm_projector.parameters())
        if self.image_newline is not None:
            yield "image_newline", [self.image_newline]
        yield "language_model", list(self.language_model.parameters())


def _some(keys: list[str], limit: int = 5) -> str:
    """The first keys by name and how many there are."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _check_same_number(num_placeholders: int, num_features: int) -> None:
    if num_placeholders != num_features:
        raise ValueError(
            f"the prompt has {num_placeholders} image tokens, but the images give {num_features} features: "
            "the two must be made by the same processor, and no truncation may cut an image"
        )
