"""`ParsitModel`: vision tower, projector and a decoder without `lm_head`.

The part of `ParsitForConditionalGeneration` that turns images and ids into hidden states, and a model of its own for
programs that bring their own head and attention (vLLM's Transformers backend). What is decided here: where image
features go in the sequence, that each forward pass in training makes the same module calls on every rank, image or not
(design D5, D6), and that weights load strictly.

A folder holds the keys of the whole model, whatever loads it (design D10): this model finds its decoder's under
`language_model.model.`.

Shape suffixes: B batch, T positions, N tiles, P patches or features of a tile, D hidden size, M image tokens. Under
native resolution a tile is one patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from parsit.model import native
from parsit.model.configuration import ParsitConfig
from parsit.model.merge import merge_images, pool_tiles
from parsit.model.projector import build_projector
from parsit.model.vision import build_vision_tower, pixel_shuffle
from parsit.model.weight_files import aligned, some
from parsit.tiling import ImagePlan, NativeLayout

# From the keys of a folder to a model without `lm_head`, as patterns.
DECODER_KEYS = {r"^language_model\.model\.": "language_model."}
HEAD = "language_model.lm_head."


class ParsitModel(PreTrainedModel):
    """Images and ids in, hidden states out."""

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
    key_mapping: ClassVar[dict[str, str]] = DECODER_KEYS

    def __init__(self, config: ParsitConfig) -> None:
        super().__init__(config)
        self.layout = config.layout
        self.vision_tower = build_vision_tower(config)
        hidden_size = config.text_config.hidden_size
        vision_size = config.vision_config.hidden_size * config.mm_pixel_shuffle**2
        self.mm_projector = build_projector(config.mm_projector_type, vision_size, hidden_size)
        self.image_newline = nn.Parameter(torch.zeros(hidden_size)) if self.layout.has_newline else None
        self.language_model: Any = self._new_language_model()
        self.post_init()
        if self.image_newline is not None and self.image_newline.device.type != "meta":
            # LLaVA's scale: the norm of a typical embedding, whatever the hidden size.
            nn.init.normal_(self.image_newline, std=hidden_size**-0.5)

    def _new_language_model(self) -> PreTrainedModel:
        """The language model of the configuration, with random weights."""
        return AutoModel.from_config(self.config.text_config)

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

    def get_output_embeddings(self) -> nn.Module | None:
        """None: there is no `lm_head`."""
        return None

    def get_decoder(self) -> nn.Module:
        """The language model without `lm_head`."""
        return self.language_model

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
        return self._merge(vision_features_NPD, self.plans(image_sizes, vision_features_NPD.shape[0]))

    def plans(self, image_sizes: torch.Tensor, num_tiles: int) -> list[ImagePlan]:
        """The plans of images that have `num_tiles` tiles in all. Raises `ValueError`: they have not."""
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
            `float[B, T, D]` and the tower's features `float[N, P, D_vision]`: without images those of
            the blank tile, or None.

        Raises:
            ValueError: placeholders and image features differ in number; both numbers are named.
        """
        embeds_BTD = self.get_input_embeddings()(input_ids)
        if image_positions is None:
            image_positions = (input_ids == self.config.image_token_id).flatten().nonzero()[:, 0]
        num_placeholders = len(image_positions)
        if pixel_values is None or pixel_values.shape[0] == 0:
            _check_same_number(num_placeholders, 0)
            if not always_run_tower:
                return embeds_BTD, None
            zero, vision_features_NPD = self._blank_tile(embeds_BTD)
            return embeds_BTD + zero, vision_features_NPD
        if image_sizes is None:
            raise ValueError("pixel_values without image_sizes: pass both, as the processor gives them")
        plans = self.plans(image_sizes, pixel_values.shape[0])
        vision_features_NPD = self.encode_tiles(pixel_values, plans)
        tokens_MD = self._merge(vision_features_NPD, plans)
        _check_same_number(num_placeholders, tokens_MD.shape[0])
        tokens_MD = tokens_MD.to(embeds_BTD.dtype)
        # Not through a flattened view: compiled layers tell a view from what the layer before hands them.
        length = input_ids.shape[1]
        rows, columns = image_positions.div(length, rounding_mode="floor"), image_positions.remainder(length)
        return embeds_BTD.index_put((rows, columns), tokens_MD), vision_features_NPD

    def _blank_tile(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Zero, computed through every vision parameter, and the tower's features of what it was computed from.

        Each rank runs the tower in each step (design D6), and hands on features in each step: where ZeRO-3's ranks have
        other outputs with a gradient, their hooks run in another order, and they wait for each other for ever.
        """
        layout = self.layout
        size = layout.image_size
        if isinstance(layout, NativeLayout):
            smallest = [layout.plan(1, 1)]
            patches = torch.zeros(smallest[0].num_tiles, 3, size, size, device=like.device)
            features_NPD = self.encode_tiles(patches, smallest)
            return (self._merge(features_NPD, smallest).sum() * 0.0).to(like.dtype), features_NPD
        tile = torch.zeros(1, 3, size, size, device=like.device)
        features_NPD = self.encode_tiles(tile)
        shuffled = pixel_shuffle(features_NPD, layout.patches_per_side, layout.mm_pixel_shuffle)
        total = self.mm_projector(shuffled).sum()
        if self.image_newline is not None:
            total = total + self.image_newline.sum()
        return (total * 0.0).to(like.dtype), features_NPD

    def get_image_features(
        self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, return_dict: bool = True, **_: Any
    ) -> BaseModelOutputWithPooling | tuple[torch.Tensor, ...]:
        """Each image's tokens by themselves, as transformers' models of images give them.

        Args:
            pixel_values: `float[N, 3, H, W]`, see `embed`; or `float[images, N, 3, H, W]`, of images that have as many
                tiles each.
            image_sizes: `int[images, 2]`, (height, width) of each image in pixels.
            return_dict: give an object with the images' tokens as `pooler_output`, instead of the tokens.

        Returns:
            For each image `float[its tokens, D]`.

        Raises:
            ValueError: the tiles are not those that images of these sizes have.
        """
        tiles = pixel_values.flatten(0, -4) if pixel_values.ndim > 4 else pixel_values
        plans = self.plans(image_sizes, tiles.shape[0])
        tokens_MD = self._merge(self.encode_tiles(tiles, plans), plans)
        of_images = tokens_MD.split([plan.num_tokens for plan in plans])
        return BaseModelOutputWithPooling(pooler_output=of_images) if return_dict else of_images  # type: ignore

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """One pass to hidden states.

        Args:
            input_ids: `int[B, T]`, with `image_token_id` wherever an image token goes.
            pixel_values: `float[N, 3, H, W]`, see `embed`.
            image_sizes: `int[images, 2]`, (height, width) in pixels.
            attention_mask: `int[B, T]`, 0 for padding.
            position_ids: `int[B, T]`; None: 0, 1, 2, …
            inputs_embeds: `float[B, T, D]` instead of `input_ids` and images.
            kwargs: handed to the decoder.

        Returns:
            What the decoder gives: hidden states `float[B, T, D]` first.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("forward needs input_ids or inputs_embeds")
            inputs_embeds, _ = self.embed(input_ids, pixel_values, image_sizes)
        return self.get_decoder()(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers`, but strict: every weight of the model must be in the file, and no other.

        Raises:
            ValueError: missing, unexpected or wrongly shaped weights, by name.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        if cls.key_mapping:
            kwargs.setdefault("key_mapping", cls.key_mapping)
        model, info = super().from_pretrained(  # type: ignore[misc]  (a pair, with output_loading_info)
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        tied = {HEAD + "weight"} if model.config.text_config.tie_word_embeddings else set()
        unused = () if model.get_output_embeddings() is not None else HEAD
        problems = {
            "missing": set(info["missing_keys"]) - tied,
            "unexpected": {key for key in info["unexpected_keys"] if not key.startswith(unused)},
            "of another shape": {str(key) for key in info["mismatched_keys"]},
        }
        if any(problems.values()):
            found = "; ".join(f"{kind}: {some(keys)}" for kind, keys in problems.items() if keys)
            raise ValueError(f"{pretrained_model_name_or_path}: the weights do not fit the model: {found}")
        for parameter in model.parameters():
            parameter.data = aligned(parameter.data)
        return (model, info) if wants_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused here: without `lm_head` the folder would be no model's. The whole model saves itself.

        Raises:
            TypeError: always, for a model without `lm_head`.
        """
        if self.get_output_embeddings() is None:
            raise TypeError("ParsitModel has no lm_head to save: save ParsitForConditionalGeneration")
        super().save_pretrained(*args, **kwargs)

    def parts(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        """The model's parts by name with their parameters, each parameter once, tied ones included once."""
        yield "vision_tower", list(self.vision_tower.parameters())
        yield "projector", list(self.mm_projector.parameters())
        if self.image_newline is not None:
            yield "image_newline", [self.image_newline]
        yield "language_model", list(self.language_model.parameters())


def _check_same_number(num_placeholders: int, num_features: int) -> None:
    if num_placeholders != num_features:
        raise ValueError(
            f"the prompt has {num_placeholders} image tokens, but the images give {num_features} features: "
            "the two must be made by the same processor, and no truncation may cut an image"
        )
