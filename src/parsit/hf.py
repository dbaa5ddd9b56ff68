"""Parsit's model and processor under `transformers`' Auto classes, and the ways to get one.

Importing this module is all it takes for `AutoModelForImageTextToText.from_pretrained` and
`AutoProcessor.from_pretrained` to know a Parsit folder. Four ways in: a new model from a preset
with random weights (`new_model`), pretrained parts joined by a new projector (`model_from_parts`),
a Parsit folder (`load_model`), and the same without weights on the meta device (`meta_model`).
Parts of other shapes than a preset's become an architecture of their own first (`compose`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# From its own module: some 5.x versions (5.17) give out a stand-in without torchvision, which Parsit does without.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from parsit import hub
from parsit.config import (
    MULTIMODAL_FLAGS,
    Architecture,
    architecture_names,
    is_architecture,
    load_architecture,
    unknown,
)
from parsit.model import ParsitConfig, ParsitForConditionalGeneration, ParsitModel
from parsit.model.adapter_files import is_adapter_folder, load_with_adapters
from parsit.model.decoder_trial import require_computes_alike
from parsit.model.part_config import language_config, own_language_config, own_tower_config, tower_config
from parsit.model.projector import build_projector
from parsit.model.vision import is_unused_tower_key
from parsit.model.weight_files import read_tower
from parsit.processing.chat import IM_END, PAD_TOKEN, add_missing_tokens
from parsit.processing.image_processor import ParsitImageProcessor, require_siglips_scale
from parsit.processing.processor import ParsitProcessor
from parsit.types import InputError, UsageError

AutoConfig.register("parsit", ParsitConfig, exist_ok=True)
AutoModel.register(ParsitConfig, ParsitModel, exist_ok=True)
AutoModelForImageTextToText.register(ParsitConfig, ParsitForConditionalGeneration, exist_ok=True)
AutoProcessor.register(ParsitConfig, ParsitProcessor, exist_ok=True)
AutoImageProcessor.register(ParsitConfig, slow_image_processor_class=ParsitImageProcessor, exist_ok=True)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")


class PartError(InputError):
    """A pretrained part cannot be had; `part` is the kind: tokenizer, language model or vision tower.

    `needs_hub`: it is on no Hub that answers from here, so that a folder would have to be named.
    """

    def __init__(self, message: str, part: str, needs_hub: bool = False) -> None:
        super().__init__(message)
        self.part, self.needs_hub = part, needs_hub


def compose(
    architecture: Architecture, vision_tower: str | None = None, model_name_or_path: str | None = None
) -> Architecture:
    """An architecture with other parts, each with its own configuration; weights are not looked at.

    Args:
        architecture: says how the parts are joined, and the parts that are not named. Where it has no configuration of
            a part, that part is looked at as if it were named here.
        vision_tower: Hub id or folder of a SigLIP model.
        model_name_or_path: Hub id or folder of a decoder, with its tokenizer.

    Raises:
        PartError: a part that cannot be had.
        InputError: a part that does not fit, by name.
    """
    vision_tower = vision_tower or (None if architecture.vision_config else architecture.vision_tower)
    decoder = model_name_or_path or (None if architecture.text_config else architecture.model_name_or_path)
    if vision_tower is not None:
        own = own_tower_config(_fetch(AutoConfig, vision_tower, "vision tower"), vision_tower)
        require_siglips_scale(_part_folder(vision_tower, "vision tower", weights=False), vision_tower)
        architecture = replace(architecture, vision_tower=vision_tower, vision_config=own)
    if decoder is not None:
        own = own_language_config(_fetch(AutoConfig, decoder, "language model"), decoder)
        architecture = replace(architecture, model_name_or_path=decoder, text_config=own, tokenizer=None)
    return architecture


def config_of(architecture: Architecture, image_token_id: int | None = None) -> ParsitConfig:
    """The preset's `ParsitConfig`. `image_token_id` None: the last id, for counting without a tokenizer."""
    last: int = architecture.text_config["vocab_size"] - 1
    return ParsitConfig(
        vision_config=architecture.vision_config,
        text_config=architecture.text_config,
        image_token_id=last if image_token_id is None else image_token_id,
        **architecture.multimodal,
    )


def sound_config(architecture: Architecture) -> ParsitConfig:
    """`config_of`, where the architecture was made of flags.

    Raises:
        UsageError: values that make no model; which flag, and what it may be.
    """
    try:
        config = config_of(architecture)
        with torch.device("meta"):
            features = config.vision_config.hidden_size * config.mm_pixel_shuffle**2
            build_projector(config.mm_projector_type, features, config.text_config.hidden_size)
    except ValueError as error:
        flags = "|".join(MULTIMODAL_FLAGS)
        raise UsageError(re.sub(rf"\b({flags})\b", r"--\1", str(error))) from error
    return config


def meta_model(config: ParsitConfig) -> ParsitForConditionalGeneration:
    """The model without memory: shapes and parameter counts only."""
    with torch.device("meta"):
        return ParsitForConditionalGeneration(config)


def new_processor(architecture: Architecture, tokenizer: PreTrainedTokenizerFast | None = None) -> ParsitProcessor:
    """The preset's processor.

    Args:
        architecture: the preset.
        tokenizer: None: the shipped one, or the language model's own.

    Raises:
        InputError: a tokenizer that cannot be had or used, or with `mm_use_im_patch_token` false one that lacks a token
            which the chat format needs.
    """
    processing = dict(architecture.processing)
    may_add = processing.pop("mm_use_im_patch_token", True)
    if tokenizer is None:
        tokenizer = _own_tokenizer(architecture)
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer for {architecture.name}: is none of tokenizers' (no tokenizer.json): "
                         "text could not be told from special tokens")  # fmt: skip
    added = add_missing_tokens(tokenizer, processing.get("mm_use_im_start_end", True)) if may_add else ()
    vision = architecture.vision_config
    joined = {
        k: v for k, v in architecture.multimodal.items() if k not in ("mm_projector_type", "mm_vision_select_layer")
    }
    image_processor = ParsitImageProcessor(
        image_size=vision.get("image_size"), patch_size=vision["patch_size"], **joined
    )
    try:
        processor = ParsitProcessor(image_processor, tokenizer, **processing)
    except ValueError as error:
        raise InputError(f"the tokenizer for {architecture.name}: {error}") from error
    processor.added_tokens = added
    return processor


def _own_tokenizer(architecture: Architecture) -> PreTrainedTokenizerFast:
    if architecture.tokenizer is not None:
        return shipped_tokenizer(architecture.tokenizer)
    return _fetch(AutoTokenizer, str(architecture.model_name_or_path), "tokenizer")


def _fetch(auto_class: Any, name: str, what: str) -> Any:
    """A pretrained part from a folder, the Hub, or where that does not answer its cache.

    Raises:
        PartError: it cannot be had, in one line; transformers' own message has several.
    """
    folder = _part_folder(name, what, weights=auto_class not in (AutoConfig, AutoTokenizer))
    try:
        return auto_class.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PartError(f"cannot get the {what} of {name}: {reason}", what) from error


def _part_folder(name: str, what: str, weights: bool) -> Path:
    """The folder of a pretrained part: `name` itself, or the Hub's.

    Raises:
        PartError: the folder is not there, with the nearest name that is, or holds no such part.
    """
    path = Path(name)
    if path.is_dir():
        # Of a folder without a tokenizer transformers makes one without a vocabulary, and says nothing.
        needed = TOKENIZER_FILES if what == "tokenizer" else ("config.json",)
        if not any((path / file).is_file() for file in needed):
            raise PartError(f"{name}: no {what} there: a folder with {needed[0]} is needed", what)
        return path
    if name.startswith((".", "/", "~")) or ("/" in name and not hub.looks_like_id(name)):
        raise PartError(f"{name}: no such folder{hub.nearest_folder(name)}", what)
    try:
        return hub.fetch(name, weights)
    except hub.HubError as error:
        raise PartError(f"cannot get the {what} of {name}: {error.reason}", what, error.no_answer) from error


def shipped_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer that comes with Parsit (`tiny`)."""
    with resources.as_file(resources.files("parsit.processing") / "tokenizers" / f"{name}.json") as path:
        return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token=PAD_TOKEN, eos_token=IM_END)


def new_model(architecture: Architecture, processor: ParsitProcessor, seed: int) -> ParsitForConditionalGeneration:
    """The preset's model with random weights drawn from `seed`.

    Raises:
        ValueError: the processor's tokenizer does not fit the preset's vocabulary.
    """
    config = config_for(architecture, processor)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ParsitForConditionalGeneration(config)
    _set_generation(model, processor)
    return model


def model_from_parts(
    architecture: Architecture,
    processor: ParsitProcessor,
    seed: int,
    vision_tower: str | None = None,
    model_name_or_path: str | None = None,
) -> ParsitForConditionalGeneration:
    """Pretrained parts, each loaded strictly, with a new projector (and new parts where none is named).

    A part keeps its own configuration (`parsit.model.part_config`); one of other shapes goes through `compose` first.

    Args:
        architecture: the preset whose shapes the parts must have.
        processor: its processor.
        seed: for what is drawn.
        vision_tower: Hub id or folder of a SigLIP model.
        model_name_or_path: Hub id or folder of a language model.

    Raises:
        InputError: a part that does not fit, by name.
    """
    if vision_tower is not None:
        found = _fetch(AutoConfig, vision_tower, "vision tower")
        own = tower_config(found, architecture.vision_config, vision_tower, architecture.name)
        architecture = replace(architecture, vision_config=own)
    if model_name_or_path is not None:
        found = _fetch(AutoConfig, model_name_or_path, "language model")
        own = language_config(found, architecture.text_config, model_name_or_path, architecture.name)
        architecture = replace(architecture, text_config=own)
    model = new_model(architecture, processor, seed)
    # One after the other: beside the model there is only one part's file in memory at a time.
    if vision_tower is not None:
        _copy_tower(model, vision_tower)
    if model_name_or_path is not None:
        _copy_language_model(model, model_name_or_path, seed)
    require_computes_alike(model, model_name_or_path or architecture.name)
    return model


def _copy_tower(model: ParsitForConditionalGeneration, name: str) -> None:
    """Copy a SigLIP's weights; only keys of parts that are not built may be left over.

    Read from its file by name, as most of a whole SigLIP2 is a text tower, which nobody needs.
    """
    folder = _part_folder(name, "vision tower", weights=True)
    try:
        weights = read_tower(folder)
    except InputError as error:
        raise PartError(f"cannot get the vision tower of {name}: {error}", "vision tower") from error
    kept = {key: value for key, value in weights.items() if not is_unused_tower_key(key, model.config)}
    _load_strictly(model.vision_tower, kept, name)


def _copy_language_model(model: ParsitForConditionalGeneration, name: str, seed: int) -> None:
    """Copy a language model's weights; rows for added tokens are drawn as its own embeddings are distributed."""
    source: PreTrainedModel = _fetch(AutoModelForCausalLM, name, "language model")
    size = model.config.text_config.vocab_size
    if source.config.vocab_size < size:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            source.resize_token_embeddings(size)
    _load_strictly(model.language_model, source.state_dict(), name)


def _load_strictly(part: nn.Module, weights: dict[str, torch.Tensor], name: str) -> None:
    try:
        part.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"{name}: its weights do not fit the preset: {' '.join(str(error).split())}") from error


def load_model(path: str | Path, **kwargs: Any) -> ParsitForConditionalGeneration:
    """A Parsit folder's model, loaded strictly; where the folder holds adapters, its base with them merged in.

    Raises:
        InputError: no such folder, weights that do not fit, or another base than the adapters'.
    """
    _require_folder(path)
    if is_adapter_folder(Path(path)):
        return load_with_adapters(Path(path), **kwargs)
    try:
        return ParsitForConditionalGeneration.from_pretrained(path, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: cannot load the model: {' '.join(str(error).split())}") from error


def load_processor(path: str | Path) -> ParsitProcessor:
    """A Parsit folder's processor.

    Raises:
        InputError: no such folder, or files that cannot be read.
    """
    _require_folder(path)
    try:
        return ParsitProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot load the processor: {' '.join(str(error).split())}") from error


def processor_named(name: str) -> ParsitProcessor:
    """The processor of a Parsit folder, or of an architecture: a preset or a YAML file.

    Raises:
        InputError: neither has that name; the nearest preset is named.
    """
    if Path(name).is_dir():
        return load_processor(name)
    if not is_architecture(name):
        raise InputError(unknown("preset or folder", name, architecture_names()))
    return new_processor(compose(load_architecture(name)))


def _require_folder(path: str | Path) -> None:
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(f"{path}: no Parsit model there (a folder with config.json and model.safetensors is needed)")


def config_for(architecture: Architecture, processor: ParsitProcessor) -> ParsitConfig:
    """The architecture's configuration, with rows for the tokens that were added to the tokenizer.

    Raises:
        ValueError: the processor's tokenizer does not fit the architecture's vocabulary.
    """
    rows, tokens = architecture.text_config["vocab_size"], len(processor.tokenizer)
    if tokens - len(processor.added_tokens) > rows:
        raise ValueError(
            f"the tokenizer has {tokens} tokens, the preset {architecture.name} has room for "
            f"{rows}: use the tokenizer that belongs to the language model"
        )
    text_config = architecture.text_config | {"vocab_size": max(rows, tokens)}
    return config_of(replace(architecture, text_config=text_config), processor.chat_tokens.image)


def _set_generation(model: ParsitForConditionalGeneration, processor: ParsitProcessor) -> None:
    """Greedy decoding that ends where a turn ends."""
    tokens = processor.chat_tokens
    for part in (model, model.language_model):
        part.generation_config.eos_token_id = tokens.im_end
        part.generation_config.pad_token_id = tokens.pad
        part.generation_config.do_sample = False
    for config in (model.config, model.config.text_config):
        config.eos_token_id, config.pad_token_id = tokens.im_end, tokens.pad


__all__ = [
    "compose",
    "config_for",
    "config_of",
    "load_model",
    "load_processor",
    "meta_model",
    "model_from_parts",
    "new_model",
    "new_processor",
    "shipped_tokenizer",
    "sound_config",
]
