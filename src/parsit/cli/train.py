"""`parsit train PRESET[/STAGE] --data FILE --output_dir DIR`: from flags to a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from parsit.cli.parser import Parser
from parsit.config import (
    MULTIMODAL_FLAGS,
    PROCESSING_FLAGS,
    Architecture,
    TrainConfig,
    layer_range,
    load_architecture,
    load_preset,
    preset_names,
)
from parsit.types import InputError, ParsitError, UsageError

if TYPE_CHECKING:
    from parsit.data.dataset import DataSet
    from parsit.model import ParsitForConditionalGeneration
    from parsit.model.adapter_files import BaseModel
    from parsit.model.adapters import AdapterSettings
    from parsit.processing.processor import ParsitProcessor
    from parsit.train.loop import ReadSamples
    from parsit.train.world import World

# Validation samples that are read every `--sample_steps`.
SAMPLES_READ = 8
# What decides which sample is seen when, and what the weights are: these may not change on resume.
FIXED_ON_RESUME = ("architecture", "mm_tunable_parts", "mm_tunable_vision_layers", "glyph_loss_weight")
FIXED_ON_RESUME += ("lora_enable", "lora_r", "lora_alpha", "use_dora", "lora_targets_language", "lora_targets_vision")
FIXED_ON_RESUME += ("bits", "optim", *MULTIMODAL_FLAGS, *PROCESSING_FLAGS)


def parse(argv: list[str]) -> TrainConfig:
    """The resolved configuration of a command line.

    Raises:
        UsageError: an unknown preset, flag or value.
    """
    parser = Parser("parsit train", "Train a model. PRESET[/STAGE] is one of: " + ", ".join(preset_names()))
    parser.add_argument("preset", metavar="PRESET[/STAGE]", help="where the settings start from")
    parser.add_argument(
        "--data", nargs="+", metavar="FILE", help="training files of any known format, or a mixture .yaml"
    )
    parser.add_argument("--eval_data", nargs="+", metavar="FILE", help="validation files, never trained on")
    parser.add_class_arguments(TrainConfig, as_group=False, skip={"data", "eval_data", "architecture"})
    if argv and not argv[0].startswith("-"):
        preset = load_preset(argv[0])
        architecture = preset.pop("architecture")
        parser.set_defaults(preset)
    values = vars(parser.parse_args(argv)).copy()
    if values.pop("preset") != argv[0]:
        raise UsageError("parsit train: PRESET[/STAGE] comes first, before the flags")
    config = TrainConfig(architecture=architecture, **values)
    for flag in ("data", "output_dir"):
        if not getattr(config, flag):
            raise UsageError(f"parsit train needs --{flag} (`parsit train --help` lists the flags)")
    return config


def main(argv: list[str]) -> int:
    """Run the verb: in this process, or in one for each GPU."""
    config = parse(argv)
    from parsit.cli.launch import num_processes, run_processes, set_defaults
    from parsit.train.host_memory import keep_freed_memory
    from parsit.train.world import join, leave, place_in_environment

    processes = 1 if place_in_environment() else num_processes(config.num_processes)
    set_defaults(processes)
    if processes > 1:
        return run_processes(["train", *argv], processes)
    world = join()
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        return _run(config, world)
    except ParsitError:
        if world.is_first:
            raise
        return 1  # the first process has said it
    finally:
        leave()


def _run(config: TrainConfig, world: World) -> int:
    from parsit import hf
    from parsit.cli.console import quiet_libraries, say
    from parsit.cli.part_table import tell_parts
    from parsit.train import train
    from parsit.train.adapters import set_trainable
    from parsit.train.world import data_size

    quiet_libraries()
    data_size(world.size, config.tp)  # refuses what does not fit, before anything is loaded
    output_dir = Path(str(config.output_dir))
    checkpoint = world.on_first(lambda: _checkpoint_to_resume(config, output_dir))
    architecture = architecture_of(config)
    start = checkpoint or parsit_folder(config.model_name_or_path)
    processor = hf.load_processor(start) if start else hf.new_processor(architecture)
    training = data_set(config.data or [], config, processor, "training", world)
    validation = data_set(config.eval_data, config, processor, "validation", world) if config.eval_data else None
    if world.is_first:
        output_dir.mkdir(parents=True, exist_ok=True)
    model, base = _model(config, architecture, processor, start, checkpoint is not None, world)
    require_given_flags(config, model, processor)
    vision_layers = layer_range(config.mm_tunable_vision_layers, "mm_tunable_vision_layers")
    set_trainable(model, config.tunable_parts, vision_layers)
    if world.is_first:
        training.write_findings(output_dir / "set_aside.jsonl")
        tell_parts(model, config)
        if checkpoint:
            say(f"resuming from {checkpoint}")
    world.on_first(lambda: _require_ready(config, model, processor, training, world))
    read_samples = sampler(processor, validation) if config.sample_steps and validation is not None else None
    result = train(config, model, processor, training, validation, checkpoint, world, read_samples, base)
    if world.is_first:
        ending = f", validation loss {result.eval_loss:.4f}" if result.eval_loss is not None else ""
        say(f"trained {result.steps} steps{ending}; saved {result.checkpoint}")
    return 0


def _require_ready(
    config: TrainConfig,
    model: ParsitForConditionalGeneration,
    processor: ParsitProcessor,
    training: DataSet,
    world: World,
) -> None:
    """The cheap checks of `parsit check`.

    Raises:
        InputError: the first one that failed, with its remedy.
    """
    from parsit.train.preflight import preflight

    for check in preflight(config, model, processor, training, world):
        if not check.ok:
            raise InputError(f"{check.name}: {check.detail}: {check.remedy} (`parsit check` looks at everything)")


def _checkpoint_to_resume(config: TrainConfig, output_dir: Path) -> Path | None:
    """The checkpoint that the run goes on from, verified.

    Raises:
        InputError: the named one is not whole, or the folder holds a run and is not to be resumed.
        UsageError: settings that may not change between the run and its continuation.
    """
    from parsit.train.checkpoint import find_newest, list_checkpoints, require_good

    if config.resume == "never":
        if list_checkpoints(output_dir):
            raise InputError(f"{output_dir}: holds a run already; give another --output_dir, or --resume auto to go on")
        return None
    if config.resume != "auto":
        checkpoint: Path | None = require_good(Path(config.resume))
    else:
        checkpoint = find_newest(output_dir, warn=lambda line: print(line, file=sys.stderr))
        if checkpoint is None and list_checkpoints(output_dir):
            raise InputError(f"{output_dir}: none of its checkpoints is whole; start again in another --output_dir")
    if checkpoint is not None:
        _require_same_settings(config, checkpoint)
    return checkpoint


def _require_same_settings(config: TrainConfig, checkpoint: Path) -> None:
    earlier: dict[str, Any] = yaml.safe_load((checkpoint / "train_config.yaml").read_text(encoding="utf-8"))
    for name in FIXED_ON_RESUME:
        if name in earlier and earlier[name] != getattr(config, name):  # an older version knew fewer flags
            raise UsageError(
                f"--{name} is {getattr(config, name)}, but {checkpoint} was trained with {earlier[name]}: "
                "give the same value, or start a new --output_dir with --model_name_or_path"
            )


def parsit_folder(name: str | None) -> Path | None:
    """The folder, where `--model_name_or_path` names a Parsit model or a run."""
    if name is None or not Path(name).is_dir():
        return None
    from parsit.parse.locate import find_model, is_parsit_model

    folder = find_model(name)
    return folder if is_parsit_model(folder) else None


def architecture_of(config: TrainConfig) -> Architecture:
    """The preset's architecture with the flags' changes, and the tokenizer of the language model that is named."""
    architecture = load_architecture(config.architecture)
    if config.model_name_or_path:
        architecture = replace(architecture, model_name_or_path=config.model_name_or_path, tokenizer=None)
    return replace(
        architecture,
        multimodal=architecture.multimodal | config.given(MULTIMODAL_FLAGS),
        processing=architecture.processing | config.given(PROCESSING_FLAGS),
    )


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


def _model(
    config: TrainConfig,
    architecture: Architecture,
    processor: ParsitProcessor,
    start: Path | None,
    resumes: bool,
    world: World,
) -> tuple[ParsitForConditionalGeneration, BaseModel | None]:
    """The model to train and, where it gets adapters, the base that they are added to.

    `start` is the folder that it comes from, a checkpoint of this very run where that `resumes`.
    A base that is not a folder yet (pretrained parts, random weights) is written to `output_dir`/base first: adapters
    are worth nothing without the very weights that they were trained on.
    """
    from parsit.model.adapter_files import BaseModel, base_of, is_adapter_folder, load_with_adapters

    if not config.lora_enable:
        model = starting_model(config, architecture, processor, start, with_projector=not resumes)
        in_fp32(model)
        return model, None
    if start and resumes:
        if not is_adapter_folder(start):
            raise InputError(f"{start}: was trained without --lora_enable; start a new --output_dir from it")
        model = load_with_adapters(start, merge=False)
        in_fp32(model)
        _set_compute_dtype(model, config, world)
        return model, base_of(start)
    model = starting_model(config, architecture, processor, start)
    folder = start
    if folder is None or config.pretrain_mm_mlp_adapter:
        folder = Path(str(config.output_dir)) / "base"
        if world.is_first:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        world.barrier()
    base = world.on_first(lambda: BaseModel.of(folder))
    give_adapters(model, config, world)
    return model, base


def starting_model(
    config: TrainConfig,
    architecture: Architecture,
    processor: ParsitProcessor,
    start: Path | None,
    with_projector: bool = True,
) -> ParsitForConditionalGeneration:
    """The model of a folder, or a new one, with the projector that `--pretrain_mm_mlp_adapter` names."""
    from parsit import hf
    from parsit.model.import_weights import load_projector

    model = hf.load_model(start) if start else new_model(config, architecture, processor)
    if config.pretrain_mm_mlp_adapter and with_projector:
        load_projector(model, projector_place(config.pretrain_mm_mlp_adapter))
    return model


def give_adapters(model: ParsitForConditionalGeneration, config: TrainConfig, world: World) -> None:
    """Add fresh adapters, as the flags ask for them."""
    from parsit.model.adapters import add_adapters

    in_fp32(model)
    add_adapters(model, adapter_settings(config), config.seed)
    _set_compute_dtype(model, config, world)


def in_fp32(model: ParsitForConditionalGeneration) -> None:
    """A run begins with fp32 weights; transformers 5.x loads a half-precision file as it is.

    What is frozen is narrowed again where the run computes in bfloat16 (`parsit.train.parts.narrow_frozen`); weights
    in four bits are no numbers of their own and stay.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def adapter_settings(config: TrainConfig) -> AdapterSettings:
    """The flags that are the adapters'."""
    from parsit.model.adapters import AdapterSettings

    return AdapterSettings(**{field.name: getattr(config, field.name) for field in fields(AdapterSettings)})


def projector_place(name: str) -> Path:
    """A file, a folder that holds a projector, or the checkpoint of a run."""
    from parsit.parse.locate import find_model

    path = Path(name)
    is_run = path.is_dir() and ((path / "best.json").exists() or any(path.glob("checkpoint-*")))
    return find_model(path) if is_run else path


def _set_compute_dtype(model: ParsitForConditionalGeneration, config: TrainConfig, world: World) -> None:
    """Let 4-bit matrices compute in bfloat16 where the run does."""
    from parsit.model.quantize import set_compute_dtype
    from parsit.train.strategies.base import wants_bf16

    if config.bits == 4 and wants_bf16(config.bf16, world.device):
        import torch

        set_compute_dtype(model, torch.bfloat16)


def new_model(
    config: TrainConfig, architecture: Architecture, processor: ParsitProcessor
) -> ParsitForConditionalGeneration:
    """A model that is in no folder yet: from the architecture's pretrained parts, or all at random."""
    from parsit import hf

    if config.from_scratch:
        return hf.new_model(architecture, processor, config.seed)
    return hf.model_from_parts(
        architecture,
        processor,
        config.seed,
        config.vision_tower or architecture.vision_tower,
        config.model_name_or_path or architecture.model_name_or_path,
    )


def sampler(processor: ParsitProcessor, validation: DataSet) -> ReadSamples:
    """Reads the first validation samples that end with an answer; the character error rate of those readings."""
    from parsit.parse.engine import ModelEngine
    from parsit.scores import corpus_cer

    first = (validation.samples[number] for number in range(min(len(validation), SAMPLES_READ)))
    samples = [sample for sample in first if sample.turns[-1].role == "assistant"]
    longest = max((len(s.turns[-1].text) for s in samples), default=0)

    def read(model: ParsitForConditionalGeneration) -> tuple[str, float]:
        engine = ModelEngine(model, processor, batch_size=SAMPLES_READ)
        # A token is a character at least; what runs on costs time and says nothing more.
        readings = engine.generate([sample.turns[:-1] for sample in samples], max_new_tokens=min(longest + 8, 256))
        truths = [sample.turns[-1].text for sample in samples]
        texts = [reading.text for reading in readings]
        lines = [
            f"{sample.id}: {truth!r} -> {text!r}" for sample, truth, text in zip(samples, truths, texts, strict=True)
        ]
        return "\n".join(lines), corpus_cer(truths, texts)

    return read


def data_set(paths: list[str], config: TrainConfig, processor: ParsitProcessor, what: str, world: World) -> DataSet:
    """What is trained on, checked before anything is trained, with a progress bar where there is something to do.

    The first process makes the index; the others then open it.
    """
    from parsit.cli.console import bars, say
    from parsit.data.dataset import Limits, open_data
    from parsit.data.sources import read_sources

    tiles = config.max_tiles_per_pack if config.packing and what == "training" else 0
    limits = Limits(config.model_max_length, config.over_long, tiles, config.max_bad_fraction)

    def opened(advance: Callable[[Path, int, int], None] | None) -> DataSet:
        sources = read_sources(paths, config.image_folder)
        return open_data(
            sources, processor, limits, format_name=config.data_format, seed=config.seed, on_progress=advance
        )

    mine: list[DataSet] = []

    def make() -> None:
        with bars(f"checking {what} data") as advance:
            mine.append(opened(advance))
        say(f"{what} data: {mine[0].describe()}")

    world.on_first(make)
    return mine[0] if mine else opened(None)
