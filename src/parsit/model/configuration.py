"""`ParsitConfig`: a vision tower's and a language model's configurations, and how they are joined.

The names are LLaVA's, so that its users know every one. What the two sub-configs mean is left to
`transformers`: any vision model with SigLIP's interface and any causal language model fit.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, Siglip2VisionConfig
from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from parsit.tiling import NATIVE, Layout, layout_of

# The tower of native resolution. transformers 4.x knows the whole SigLIP2 by its name, and not the tower alone.
NATIVE_TOWER = Siglip2VisionConfig.model_type
if NATIVE_TOWER not in CONFIG_MAPPING:
    AutoConfig.register(NATIVE_TOWER, Siglip2VisionConfig)


class ParsitConfig(PretrainedConfig):
    """Configuration of `ParsitForConditionalGeneration`.

    Args:
        vision_config: the vision tower's configuration (or its dictionary with `model_type`).
        text_config: the language model's configuration (or its dictionary with `model_type`).
        image_token_id: id of the placeholder that image features replace.
        mm_projector_type: `linear`, `identity` or `mlpNx_gelu` (N linear layers, LayerNorm after the first).
        mm_vision_select_layer: whose output of the tower is used; -1 the last layer's, -2 the last but one's.
            Layers behind it are not built.
        image_aspect_ratio, image_grid_pinpoints, mm_patch_merge_type, mm_spatial_pool_stride,
        mm_spatial_pool_mode, mm_pixel_shuffle: see `parsit.tiling.ImageLayout`.
        max_image_tokens, image_height: with `image_aspect_ratio` native, see `parsit.tiling.NativeLayout`.

    Raises:
        ValueError: values that do not fit each other.
    """

    model_type = "parsit"
    # transformers' interface (a property in 5.x, a plain attribute in 4.x, which 5.x takes as well)
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # type: ignore  # noqa: RUF012
    has_no_defaults_at_init = True

    def __init__(
        self,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        image_token_id: int = 151655,
        mm_projector_type: str = "mlp2x_gelu",
        mm_vision_select_layer: int = -2,
        image_aspect_ratio: str = "anyres",
        image_grid_pinpoints: str | list[list[int]] = "(1x1),...,(2x2)",
        mm_patch_merge_type: str = "spatial_unpad",
        mm_spatial_pool_stride: int = 1,
        mm_spatial_pool_mode: str = "bilinear",
        mm_pixel_shuffle: int = 1,
        max_image_tokens: int | None = None,
        image_height: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _sub_config(vision_config, "siglip_vision_model")
        self.text_config = _sub_config(text_config, "qwen3")
        self.image_token_id = image_token_id
        self.mm_projector_type = mm_projector_type
        self.mm_vision_select_layer = mm_vision_select_layer
        self.image_aspect_ratio = image_aspect_ratio
        self.image_grid_pinpoints = image_grid_pinpoints
        self.mm_patch_merge_type = mm_patch_merge_type
        self.mm_spatial_pool_stride = mm_spatial_pool_stride
        self.mm_spatial_pool_mode = mm_spatial_pool_mode
        self.mm_pixel_shuffle = mm_pixel_shuffle
        self.max_image_tokens = max_image_tokens
        self.image_height = image_height
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        super().__init__(**kwargs)
        self._require_fitting_tower()
        _ = self.layout, self.num_vision_layers  # what does not fit is refused here, not in the first forward pass

    @property
    def layout(self) -> Layout:
        """The rules from an image's size to its tokens."""
        return layout_of(self, getattr(self.vision_config, "image_size", None), self.vision_config.patch_size)

    def _require_fitting_tower(self) -> None:
        """Refuse tiles for a tower of native resolution, and the other way round."""
        tower = self.vision_config.model_type
        if (tower == NATIVE_TOWER) != (self.image_aspect_ratio == NATIVE):
            takes = "tiles of one size alone: begin with a preset that cuts them"
            if tower == NATIVE_TOWER:
                takes = "images at native resolution alone: use native, and max_image_tokens"
            raise ValueError(
                f"image_aspect_ratio is {self.image_aspect_ratio}, but a tower of type {tower} takes {takes}"
            )

    @property
    def num_vision_layers(self) -> int:
        """Layers of the tower that are built: those up to `mm_vision_select_layer`."""
        depth, select = self.vision_config.num_hidden_layers, self.mm_vision_select_layer
        # hidden_states has depth + 1 entries (the embeddings first), so layer -1 is number `depth`.
        layers = depth + 1 + select if select < 0 else select
        if not 0 <= layers <= depth:
            raise ValueError(f"mm_vision_select_layer {select} does not exist in a tower of {depth} layers")
        return layers


def _sub_config(config: PretrainedConfig | dict[str, Any] | None, default_type: str) -> PretrainedConfig:
    if isinstance(config, PretrainedConfig):
        return config
    values = _with_rope_theta(dict(config or {}))
    return AutoConfig.for_model(values.pop("model_type", default_type), **values)


def _with_rope_theta(values: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, as transformers 5.x writes it, in the words that 4.x and 5.x both understand.

    4.x would ignore it and rotate with its default base: no error, other logits.
    """
    rope = dict(values.pop("rope_parameters", None) or {})
    if "rope_theta" in rope:
        values["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        values["rope_scaling"] = rope
    return values
