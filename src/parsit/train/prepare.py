"""From a configuration to all that a run needs: where it goes on from, processor, data, model, and what is trained.

`prepare` is used by training, by `parsit check` and by tests, so that they cannot build different runs. It decides, in
this order: the checkpoint to resume from; processor and model from that, else from the Parsit folder in
`--model_name_or_path`, else from the architecture; adapters and their base; which parameters are free. A fault on any
process is told by all of them at once, so that none waits for one that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from parsit import hf
from parsit.config import (
    MULTIMODAL_FLAGS,
    PROCESSING_FLAGS,
    Architecture,
    TrainConfig,
    layer_range,
    load_architecture,
    zero_settings,
)
from parsit.data.dataset import DataLimits, DataSet, open_data
from parsit.data.sources import files_read, read_sources
from parsit.files import refuse_inputs, whole_folder
from parsit.files.manifest import require_sound_model
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapter_files import BaseModel, base_of, is_adapter_folder, load_with_adapters
from parsit.model.adapters import AdapterSettings, add_adapters
from parsit.model.import_weights import load_projector
from parsit.model.quantize import set_compute_dtype
from parsit.processing.processor import ParsitProcessor
from parsit.tiling import NATIVE
from parsit.train.adapters import set_trainable
from parsit.train.best import require_measured
from parsit.train.hand_over import read_once
from parsit.train.parts import PartReport
from parsit.train.places import parsit_folder, projector_place
from parsit.train.readings import ReadSamples, sampler
from parsit.train.resume import SET_ASIDE_FILE, checkpoint_to_resume, named_checkpoint, require_apart
from parsit.train.stages import write_stages
from parsit.train.strategies.base import wants_bf16
from parsit.train.world import World, data_size
from parsit.types import InputError, UsageError

Result = TypeVar("Result")
# Called with (file, records done since the last call, records in the file).
Advance = Callable[[Path, int, int], None]
# Called with a title: a progress bar for each file, while the context is open.
Bars = Callable[[str], AbstractContextManager[Advance]]
Stage = Literal["data", "model", "step"]


class PreparationError(InputError):
    """What a run begins with cannot be had; `stage` says which part of it (`step`: the batch of its first step)."""

    def __init__(self, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.stage: Stage = stage


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can begin.

    `parts`: what is trained of `model`, part by part; its parameters are frozen and freed accordingly. `checkpoint`:
    the run goes on from here, and `model` has its weights; None: it begins. `base`: of a model with adapters, what they
    were added to. `read_samples`: reads some validation samples, where `--sample_steps` asks for it. `drawn`: names of
    the model's parts that were drawn at random for this run; the others were loaded.
    """

    config: TrainConfig
    world: World
    model: ParsitForConditionalGeneration
    processor: ParsitProcessor
    training: DataSet
    validation: DataSet | None
    parts: list[PartReport]
    checkpoint: Path | None = None
    base: BaseModel | None = None
    read_samples: ReadSamples | None = None
    drawn: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Started:
    """A model as it is before adapters are added, and which of its parts were drawn at random."""

    model: ParsitForConditionalGeneration
    drawn: frozenset[str] = frozenset()


@contextmanager
def no_bars(title: str) -> Iterator[Advance]:
    """No progress bar."""
    yield lambda path, done, total: None


def prepare(
    config: TrainConfig,
    world: World,
    *,
    bars: Bars = no_bars,
    say: Callable[[str], None] = lambda line: None,
    dry: bool = False,
) -> Prepared:
    """Everything that a run needs before its first step. All processes call this at once.

    Args:
        config: the resolved configuration; `data` and `output_dir` are set.
        world: the processes of the run.
        bars: makes progress bars for the data, on the first process.
        say: told a line at a time what was found, on the first process.
        dry: begin at the beginning whatever `output_dir` holds, and write nothing but the data's index.

    Raises:
        PreparationError: data or a model that cannot be read, the same on all processes.
        InputError: a checkpoint that cannot be gone on from, or no file where --deepspeed names one.
        UsageError: flags that contradict each other, the checkpoint or the model.
    """
    data_size(world.size, config.tp)  # refuses what does not fit, before anything is loaded
    if config.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise InputError("--attn_implementation flash_attention_2: needs a GPU and the package flash-attn, made for "
                         "this torch; sdpa needs neither")  # fmt: skip
    if config.deepspeed:
        zero_settings(config.deepspeed)  # likewise
    checkpoint = world.on_first(lambda: named_checkpoint(config) if dry else checkpoint_to_resume(config, say))
    checkpoint = None if dry else checkpoint
    architecture = architecture_of(config)
    start = checkpoint or agreed(world, "model", lambda: _sound_folder(config.model_name_or_path, world))
    if start and not checkpoint and config.vision_tower:
        model = config.model_name_or_path
        raise UsageError(f"--vision_tower {config.vision_tower}: the model in {model} has a tower; leave the flag out")
    if not start:
        architecture = agreed(world, "model", lambda: _composed(config))
        hf.sound_config(architecture)  # flags that make no model are refused before data or weights are looked at
    processor = agreed(world, "model", lambda: hf.load_processor(start) if start else _new_processor(architecture))
    processor.tasks = ()  # what the model can do afterwards is up to the data
    if world.is_first and processor.added_tokens:
        say(_told_of_added(processor.added_tokens, config))
    training = _data_set(config.data or [], config, processor, "training", world, bars, say)
    validation = None
    if config.eval_data:
        validation = _data_set(config.eval_data, config, processor, "validation", world, bars, say)
    if world.is_first and not dry:
        Path(str(config.output_dir)).mkdir(parents=True, exist_ok=True)
        training.write_findings(Path(str(config.output_dir)) / SET_ASIDE_FILE)
        if checkpoint is None:
            write_stages(config, architecture, start, training, validation)
    started, base = _start_and_base(config, architecture, processor, start, checkpoint is not None, world, dry)
    model = started.model
    if config.attn_implementation != "sdpa":  # which transformers takes by itself
        model.set_attention(config.attn_implementation)
    _require_given_flags(config, model, processor)
    read_samples = None
    if config.sample_steps and validation is not None:
        read_samples = sampler(processor, validation, config.sample_count)
        require_measured(config, len(read_samples.samples))
    if checkpoint and world.is_first:
        say(f"resuming from {checkpoint}")
    parts = set_free(model, config)
    return Prepared(
        config, world, model, processor, training, validation, parts, checkpoint, base, read_samples, started.drawn
    )


def set_free(model: ParsitForConditionalGeneration, config: TrainConfig) -> list[PartReport]:
    """Free the parameters that the run trains and freeze the others; what is trained, part by part."""
    layers = layer_range(config.mm_tunable_vision_layers, "mm_tunable_vision_layers")
    return set_trainable(model, config.tunable_parts, layers)


def agreed(world: World, stage: Stage, work: Callable[[], Result]) -> Result:
    """What `work` gives here, if every process could do it: none goes on and waits for one that could not.

    Raises:
        PreparationError: the fault of the first process that could not.
    """
    done: list[Result] = []
    fault: InputError | None = None
    try:
        done.append(work())
    except InputError as error:
        fault = error
    faults = [one for one in world.gather(None if fault is None else str(fault)) if one is not None]
    if faults:
        raise PreparationError(stage, faults[0]) from fault
    return done[0]


def _data_set(
    paths: list[str],
    config: TrainConfig,
    processor: ParsitProcessor,
    what: str,
    world: World,
    bars: Bars,
    say: Callable[[str], None],
) -> DataSet:
    """What is trained or validated on. The first process makes the index; the others then open it."""
    tiles = config.max_tiles_per_pack if config.packing else 0
    limits = DataLimits(config.model_max_length, config.over_long, tiles, config.max_bad_fraction)
    aside = Path(config.output_dir) / SET_ASIDE_FILE if what == "training" and config.output_dir else None
    mine: list[DataSet] = []

    def opened(advance: Advance | None = None) -> DataSet:
        sources = read_sources(paths, config.image_folder)
        require_apart(Path(str(config.output_dir)), files_read(paths, sources))
        return open_data(
            sources,
            processor,
            limits,
            format_name=config.data_format,
            seed=config.seed,
            on_progress=advance,
            findings_file=aside,
        )

    def make() -> None:
        with bars(f"checking {what} data") as advance:
            mine.append(opened(advance))
        say(f"{what} data: {mine[0].describe()}")

    def make_or_open() -> DataSet:
        world.on_first(make)
        return mine[0] if mine else opened()

    return agreed(world, "data", make_or_open)


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


def _composed(config: TrainConfig) -> Architecture:
    """The architecture with the parts that the flags name, in their own shapes.

    A folder that holds a tokenizer alone is enough where all weights are drawn; the shapes are then the architecture's.
    """
    decoder = config.model_name_or_path
    if decoder and config.from_scratch and Path(decoder).is_dir() and not (Path(decoder) / "config.json").is_file():
        decoder = None
    with _naming_flags():
        return hf.compose(architecture_of(config), config.vision_tower, decoder)


def _told_of_added(tokens: Sequence[str], config: TrainConfig) -> str:
    """What is to be known of tokens that the language model has never seen."""
    trained = "mm_language_model" in config.tunable_parts and not config.lora_enable
    fate = "are trained with it" if trained else "stay as they are drawn, as its embeddings are frozen"
    return f"tokenizer: {', '.join(tokens)} are new to the language model; their rows {fate}"


def _sound_folder(name: str | None, world: World) -> Path | None:
    """The folder, where `--model_name_or_path` names a Parsit model or a run; its weights are what was saved."""
    folder = parsit_folder(name)
    if folder and world.is_first:
        require_sound_model(folder)  # reads its weights
    return folder


def _require_given_flags(
    config: TrainConfig, model: ParsitForConditionalGeneration, processor: ParsitProcessor
) -> None:
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


def _start_and_base(
    config: TrainConfig,
    architecture: Architecture,
    processor: ParsitProcessor,
    start: Path | None,
    resumes: bool,
    world: World,
    dry: bool,
) -> tuple[_Started, BaseModel | None]:
    """The model to train and, where it gets adapters, the base that they are added to.

    `start` is the folder that it comes from, a checkpoint of this very run where that `resumes`.
    """
    goes_on = start if config.lora_enable and resumes else None
    if goes_on and not is_adapter_folder(goes_on):
        raise InputError(f"{goes_on}: was trained without --lora_enable; start a new --output_dir from it")

    def load() -> _Started:
        if goes_on:
            return _Started(load_with_adapters(goes_on, merge=False))
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
) -> _Started:
    """The model of a folder, or a new one, with the projector that `--pretrain_mm_mlp_adapter` names."""
    started = _Started(hf.load_model(start)) if start else _new_model(config, architecture, processor)
    if not config.pretrain_mm_mlp_adapter or not with_projector:
        return started
    loaded = load_projector(started.model, projector_place(config.pretrain_mm_mlp_adapter))
    names = {"projector"} | ({"image_newline"} & loaded.weights.keys())
    return replace(started, drawn=started.drawn - names)


def _new_processor(architecture: Architecture) -> ParsitProcessor:
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


def _new_model(config: TrainConfig, architecture: Architecture, processor: ParsitProcessor) -> _Started:
    """A model that is in no folder yet: from the architecture's pretrained parts, or all at random."""
    tower = language_model = None
    if not config.from_scratch:
        tower = config.vision_tower or architecture.vision_tower
        language_model = config.model_name_or_path or architecture.model_name_or_path
    with _naming_flags():
        model = hf.model_from_parts(architecture, processor, config.seed, tower, language_model)
    named = {"vision_tower": tower, "language_model": language_model}
    return _Started(model, frozenset(name for name, _ in model.parts() if not named.get(name)))


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
