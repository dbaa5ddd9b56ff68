"""What a run's processor and model begin as: a Parsit folder, pretrained parts or nothing; and the base of adapters.

What the flags name is found, loaded or drawn here; that it is what the flags say is seen to as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from parsit import hf
from parsit.config import (
    MULTIMODAL_FLAGS,
    PROCESSING_FLAGS,
    Architecture,
    TrainConfig,
    load_architecture,
)
from parsit.files import refuse_inputs, whole_folder
from parsit.files.manifest import require_sound_model
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapter_files import BaseModel, base_of, is_adapter_folder, load_with_adapters
from parsit.model.adapters import AdapterSettings, add_adapters
from parsit.model.import_weights import load_projector
from parsit.model.quantize import set_compute_dtype
from parsit.processing.processor import ParsitProcessor
from parsit.tiling import NATIVE
from parsit.train.agreement import agreed
from parsit.train.hand_over import read_once
from parsit.train.places import parsit_folder, projector_place
from parsit.train.strategies.base import wants_bf16
from parsit.train.world import World
from parsit.types import InputError, UsageError


@dataclass(frozen=True, slots=True)
class Started:
    """A model as it is before adapters are added, and which of its parts were drawn at random."""

    model: ParsitForConditionalGeneration
    drawn: frozenset[str] = frozenset()


def architecture_of(config: TrainConfig) -> Architecture:
    """The architecture with the flags' changes, and the tokenizer of the language model that is named."""
    architecture = load_architecture(config.architecture)
    if config.model_name_or_path:
        architecture = replace(architecture, model_name_or_path=config.model_name_or_path, tokenizer=None)
    multimodal = architecture.multimodal | config.given(MULTIMODAL_FLAGS)
    if multimodal.get("image_aspect_ratio") == NATIVE and config.image_grid_pinpoints is not None:
        raise UsageError(
            "--image_grid_pinpoints says into which tiles images are cut, and image_aspect_ratio native has none: "
            "--max_image_tokens bounds an image"
        )
    return replace(
        architecture,
        multimodal=multimodal,
        processing=architecture.processing | config.given(PROCESSING_FLAGS),
    )


def composed(config: TrainConfig) -> Architecture:
    """The architecture with the parts that the flags name, in their own shapes.

    A folder that holds a tokenizer alone is enough where all weights are drawn; the shapes are then the architecture's.
    """
    decoder = config.model_name_or_path
    if decoder and config.from_scratch and Path(decoder).is_dir() and not (Path(decoder) / "config.json").is_file():
        decoder = None
    with _naming_flags():
        return hf.compose(architecture_of(config), config.vision_tower, decoder)


def told_of_added(tokens: Sequence[str], config: TrainConfig) -> str:
    """What is to be known of tokens that the language model has never seen."""
    trained = "mm_language_model" in config.tunable_parts and not config.lora_enable
    fate = "are trained with it" if trained else "stay as they are drawn, as its embeddings are frozen"
    return f"tokenizer: {', '.join(tokens)} are new to the language model; their rows {fate}"


def sound_folder(name: str | None, world: World) -> Path | None:
    """The folder, where `--model_name_or_path` names a Parsit model or a run; its weights are what was saved."""
    folder = parsit_folder(name)
    if folder and world.is_first:
        require_sound_model(folder)  # reads its weights
    return folder


def require_given_flags(config: TrainConfig, model: ParsitForConditionalGeneration, processor: ParsitProcessor) -> None:
    """Refuse a flag that the model of a folder contradicts: it would have no effect.

    Raises:
        UsageError: which flag, and what the model has.
    """
    for name, value in (config.given(MULTIMODAL_FLAGS) | config.given(("mm_use_im_start_end",))).items():
        found = getattr(processor if name == "mm_use_im_start_end" else model.config, name)
        if found != value:
            raise UsageError(
                f"--{name} is {value}, but the model in {config.model_name_or_path} was built with {found}"
            )


def start_and_base(
    config: TrainConfig,
    architecture: Architecture,
    processor: ParsitProcessor,
    start: Path | None,
    resumes: bool,
    world: World,
    dry: bool,
) -> tuple[Started, BaseModel | None]:
    """The model to train and, where it gets adapters, the base that they are added to.

    `start` is the folder that it comes from, a checkpoint of this very run where that `resumes`.
    """
    goes_on = start if config.lora_enable and resumes else None
    if goes_on and not is_adapter_folder(goes_on):
        raise InputError(f"{goes_on}: was trained without --lora_enable; start a new --output_dir from it")

    def load() -> Started:
        if goes_on:
            return Started(load_with_adapters(goes_on, merge=False))
        return _starting_model(config, architecture, processor, start, with_projector=not resumes)

    # Weights in four bits are no plain tensors, which alone can be handed over.
    quantized = goes_on and config.bits == 4
    started = agreed(world, "model", load if quantized else lambda: read_once(world, load))
    model = started.model
    base = base_of(goes_on) if goes_on else None
    if config.lora_enable and not goes_on and not dry:
        base = _write_base(config, model, processor, start, world)
    _in_fp32(model)
    if config.lora_enable and not goes_on:
        add_adapters(model, _adapter_settings(config), config.seed)
    if config.bits == 4 and wants_bf16(config.bf16, world.device):
        set_compute_dtype(model, torch.bfloat16)  # 4-bit matrices compute in bfloat16 where the run does
    return started, base


def _starting_model(
    config: TrainConfig,
    architecture: Architecture,
    processor: ParsitProcessor,
    start: Path | None,
    with_projector: bool,
) -> Started:
    """The model of a folder, or a new one, with the projector that `--pretrain_mm_mlp_adapter` names."""
    started = Started(hf.load_model(start)) if start else _new_model(config, architecture, processor)
    if not config.pretrain_mm_mlp_adapter or not with_projector:
        return started
    loaded = load_projector(started.model, projector_place(config.pretrain_mm_mlp_adapter))
    names = {"projector"} | ({"image_newline"} & loaded.weights.keys())
    return replace(started, drawn=started.drawn - names)


def new_processor(architecture: Architecture) -> ParsitProcessor:
    """The processor of a model that is in no folder yet. Raises `InputError`."""
    with _naming_flags():
        return hf.new_processor(architecture)


@contextmanager
def _naming_flags() -> Iterator[None]:
    """Say which flag names the part that cannot be had: not every verb that needs parts has these flags."""
    try:
        yield
    except hf.PartError as error:
        flag = "--vision_tower" if error.part == "vision tower" else "--model_name_or_path"
        advice = f"; name a folder that holds it with {flag}" if error.needs_hub else f" ({flag})"
        raise InputError(f"{error}{advice}") from error


def _new_model(config: TrainConfig, architecture: Architecture, processor: ParsitProcessor) -> Started:
    """A model that is in no folder yet: from the architecture's pretrained parts, or all at random."""
    tower = language_model = None
    if not config.from_scratch:
        tower = config.vision_tower or architecture.vision_tower
        language_model = config.model_name_or_path or architecture.model_name_or_path
    with _naming_flags():
        model = hf.model_from_parts(architecture, processor, config.seed, tower, language_model)
    named = {"vision_tower": tower, "language_model": language_model}
    return Started(model, frozenset(name for name, _ in model.parts() if not named.get(name)))


def _write_base(
    config: TrainConfig,
    model: ParsitForConditionalGeneration,
    processor: ParsitProcessor,
    start: Path | None,
    world: World,
) -> BaseModel:
    """What adapters are added to, as a folder with its digest.

    A base that is not a folder yet (pretrained parts, random weights) is written to `output_dir`/base first: adapters
    are worth nothing without the very weights that they were trained on.
    """
    folder = start
    if folder is None or config.pretrain_mm_mlp_adapter:
        folder = Path(str(config.output_dir)) / "base"
        refuse_inputs(folder, [start] if start else [], "--output_dir")

        def write() -> None:
            with whole_folder(folder, replaces=True) as draft:
                model.save_pretrained(draft)
                processor.save_pretrained(draft)

        world.on_first(write)
    return world.on_first(lambda: BaseModel.of(folder))


def _in_fp32(model: ParsitForConditionalGeneration) -> None:
    """A run begins with fp32 weights; transformers 5.x loads a half-precision file as it is.

    What is frozen is narrowed again where the run computes in bfloat16 (`parsit.train.parts.narrow_frozen`); weights
    in four bits are no numbers of their own and stay.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def _adapter_settings(config: TrainConfig) -> AdapterSettings:
    """The flags that are the adapters'."""
    return AdapterSettings(**{field.name: getattr(config, field.name) for field in fields(AdapterSettings)})
