"""From a configuration to all that a run needs: where it goes on from, processor, data, model, and what is trained.

`prepare` is used by training, by `parsit check` and by tests, so that they cannot build different runs. It decides, in
this order: the checkpoint to resume from; processor and model from that, else from the Parsit folder in
`--model_name_or_path`, else from the architecture (`parsit.train.start`); adapters and their base; which parameters are
free. A fault on any process is told by all of them at once (`parsit.train.agreement`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers.utils.import_utils import is_flash_attn_2_available

from parsit import hf
from parsit.config import (
    TrainConfig,
    layer_range,
    zero_settings,
)
from parsit.data.dataset import DataLimits, DataSet, open_data
from parsit.data.sources import files_read, read_sources
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapter_files import BaseModel
from parsit.processing.processor import ParsitProcessor
from parsit.train.adapters import set_trainable
from parsit.train.agreement import agreed
from parsit.train.best import require_measured
from parsit.train.parts import PartReport
from parsit.train.readings import ReadSamples, sampler
from parsit.train.resume import SET_ASIDE_FILE, checkpoint_to_resume, named_checkpoint, require_apart
from parsit.train.stages import write_stages
from parsit.train.start import (
    architecture_of,
    composed,
    new_processor,
    require_given_flags,
    sound_folder,
    start_and_base,
    told_of_added,
)
from parsit.train.world import World, data_size
from parsit.types import InputError, UsageError

# Called with (file, records done since the last call, records in the file).
Advance = Callable[[Path, int, int], None]
# Called with a title: a progress bar for each file, while the context is open.
Bars = Callable[[str], AbstractContextManager[Advance]]


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
    start = checkpoint or agreed(world, "model", lambda: sound_folder(config.model_name_or_path, world))
    if start and not checkpoint and config.vision_tower:
        model = config.model_name_or_path
        raise UsageError(f"--vision_tower {config.vision_tower}: the model in {model} has a tower; leave the flag out")
    if not start:
        architecture = agreed(world, "model", lambda: composed(config))
        hf.sound_config(architecture)  # flags that make no model are refused before data or weights are looked at
    processor = agreed(world, "model", lambda: hf.load_processor(start) if start else new_processor(architecture))
    processor.tasks = ()  # what the model can do afterwards is up to the data
    if world.is_first and processor.added_tokens:
        say(told_of_added(processor.added_tokens, config))
    training = _data_set(config.data or [], config, processor, "training", world, bars, say)
    validation = None
    if config.eval_data:
        validation = _data_set(config.eval_data, config, processor, "validation", world, bars, say)
    if world.is_first and not dry:
        Path(str(config.output_dir)).mkdir(parents=True, exist_ok=True)
        training.write_findings(Path(str(config.output_dir)) / SET_ASIDE_FILE)
        if checkpoint is None:
            write_stages(config, architecture, start, training, validation)
    started, base = start_and_base(config, architecture, processor, start, checkpoint is not None, world, dry)
    model = started.model
    if config.attn_implementation != "sdpa":  # which transformers takes by itself
        model.set_attention(config.attn_implementation)
    require_given_flags(config, model, processor)
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
