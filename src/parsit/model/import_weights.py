"""Weights from LLaVA-NeXT and from older Parsit: their names and their projectors in Parsit's.

The names are those that LLaVA-NeXT's model gives its parts (`llava/model/llava_arch.py`: `embed_tokens`, `layers` and
`norm` beside `mm_projector`, `vision_tower` and `image_newline` under `model.`; `lm_head`), with its SigLIP wrapper's
(`llava/model/multimodal_encoder/siglip_encoder.py`: `vision_tower.vision_tower.vision_model.`). Its `mlpNx_gelu`
(`llava/model/multimodal_projector/builder.py`) is Linear, then GELU and Linear N - 1 times. Parsit's, old and new, has
a LayerNorm after the first Linear. The two are told apart by the tensors' shapes, and are not equal to each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from parsit.model.configuration import ParsitConfig
from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.model.vision import is_unused_tower_key
from parsit.model.weight_files import Weights, copy_strictly, read_weights, some
from parsit.types import InputError

# LLaVA's names and Parsit's.
_RENAMED = (
    (r"model\.mm_projector\.", "mm_projector."),
    (r"model\.image_newline$", "image_newline"),
    (r"model\.vision_tower\.vision_tower\.(?:vision_model\.)?", "vision_tower."),
    (r"model\.(embed_tokens|layers|norm)\.", r"language_model.model.\1."),
    (r"lm_head\.", "language_model.lm_head."),
)
# Tables that older versions of transformers saved and that are computed now.
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$|\.embeddings\.position_ids$")
_PROJECTOR = re.compile(r"(?:^|\.)(mm_projector\.|image_newline$)")


@dataclass(frozen=True, slots=True)
class Projector:
    """A projector's weights under Parsit's names (`mm_projector.…`, `image_newline`) and what they are.

    `type`: LLaVA's name, such as `mlp2x_gelu`. `has_norm`: a LayerNorm follows its first layer, as in Parsit's.
    """

    weights: Weights
    type: str
    has_norm: bool


def projector_in(weights: Mapping[str, torch.Tensor], source: object) -> Projector:
    """The projector among weights under any of LLaVA's or Parsit's prefixes; other tensors are not looked at.

    Raises:
        InputError: there is none, or it is of a kind that Parsit does not have.
    """
    found = {
        match[1] + name[match.end() :]: value for name, value in weights.items() if (match := _PROJECTOR.search(name))
    }
    layers = {name.removeprefix("mm_projector."): value for name, value in found.items() if name != "image_newline"}
    if layers.keys() <= {"weight", "bias"} and layers:
        return Projector(found, "linear", has_norm=False)
    ndims = {
        int(name.split(".")[0]): value.ndim for name, value in layers.items() if re.fullmatch(r"\d+\.weight", name)
    }
    linear = [index for index, ndim in sorted(ndims.items()) if ndim == 2]
    norms = [index for index, ndim in sorted(ndims.items()) if ndim == 1]
    expected = {f"{index}.{kind}" for index in ndims for kind in ("weight", "bias")}
    kind = f"mlp{len(linear)}x_gelu"
    if layers and expected == layers.keys():
        if not norms and linear == [2 * i for i in range(len(linear))]:
            return Projector(found, f"{kind}_no_norm", has_norm=False)
        if norms == [1] and linear == [0, *(2 * i + 1 for i in range(1, len(linear)))]:
            return Projector(found, kind, has_norm=True)
    what = f"a projector with {some(layers)}: Parsit knows linear and mlpNx_gelu" if layers else "no projector there"
    raise InputError(f"{source}: {what}")


def is_projector(name: str) -> bool:
    """Whether a tensor's name is a projector's or `image_newline`."""
    return _PROJECTOR.search(name) is not None


def require_fitting(projector: Projector, projector_type: str, source: object) -> None:
    """Refuse a projector that a model of `projector_type` cannot compute.

    Raises:
        InputError: it is of another type.
    """
    if projector.type != projector_type:
        raise InputError(f"{source}: holds a {projector.type} projector, the model has {projector_type}: "
                         f"build the model with --mm_projector_type {projector.type}")  # fmt: skip


def read_projector(path: Path) -> Projector:
    """The projector in a file of its own, or in a folder with more.

    Raises:
        InputError: a file that cannot be read, or holds other tensors too; or as `projector_in`.
    """
    weights = read_weights(path, is_projector if path.is_dir() else lambda _: True)
    others = {name for name in weights if not is_projector(name)}
    if others:
        raise InputError(f"{path}: holds more than a projector: {some(others)}")
    return projector_in(weights, path)


def load_projector(model: ParsitForConditionalGeneration, path: Path) -> Projector:
    """Load a pretrained projector, and `image_newline` where the file has it (`--pretrain_mm_mlp_adapter`).

    Args:
        model: the model; its other weights stay as they are.
        path: LLaVA's `mm_projector.bin`, a `.safetensors` file, or a model's folder, of which only the projector is
            taken.

    Returns:
        What was loaded.

    Raises:
        InputError: a file that cannot be read, holds other tensors too, or does not fit the model.
    """
    projector = read_projector(path)
    require_fitting(projector, model.config.mm_projector_type, path)
    into = {name: parameter for name, parameter in model.named_parameters() if is_projector(name)}
    if "image_newline" not in projector.weights:
        into.pop("image_newline", None)
    copy_strictly(into, projector.weights, path)
    return projector


def load_checkpoint(
    model: ParsitForConditionalGeneration, weights: Weights, source: object, with_tower: bool = True
) -> list[str]:
    """Load all weights of a LLaVA-NeXT or old Parsit model.

    Args:
        model: the model, built with the checkpoint's shapes.
        weights: LLaVA's names with tensors.
        source: what errors name.
        with_tower: False: the tower is not among the weights and stays as it is.

    Returns:
        Names that were left out on purpose: layers of the tower that are never run, and computed tables.

    Raises:
        InputError: missing, unexpected or wrongly shaped weights, by name; a projector without a LayerNorm.
    """
    renamed, left_out = _parsit_names(weights, model.config)
    require_fitting(projector_in(renamed, source), model.config.mm_projector_type, source)
    head, embeddings = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    if model.config.text_config.tie_word_embeddings and embeddings in renamed:
        renamed.setdefault(head, renamed[embeddings])
        if not torch.equal(renamed[head], renamed[embeddings]):
            raise InputError(
                f"{source}: lm_head and embed_tokens differ, but the architecture ties them: it is of another one"
            )
    into = {n: value for n, value in model.state_dict().items() if with_tower or not n.startswith("vision_tower.")}
    copy_strictly(into, renamed, source)
    return left_out


def _parsit_names(weights: Weights, config: ParsitConfig) -> tuple[Weights, list[str]]:
    renamed: Weights = {}
    left_out = []
    for name, value in weights.items():
        new = name
        for pattern, replacement in _RENAMED:
            new, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                break
        tower_key = new.removeprefix("vision_tower.")
        if _COMPUTED.search(name) or (tower_key != new and is_unused_tower_key(tower_key, config)):
            left_out.append(name)
        else:
            renamed[new] = value
    return renamed, left_out
