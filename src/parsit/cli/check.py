"""`parsit check PRESET[/STAGE] …`: the flags of `parsit train`, and every check before a run, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parsit.cli.train import parse
from parsit.types import InputError, UsageError

if TYPE_CHECKING:
    from parsit.config import Architecture, TrainConfig
    from parsit.model import ParsitForConditionalGeneration
    from parsit.processing.processor import ParsitProcessor
    from parsit.train.checks import Check
    from parsit.train.world import World

USAGE = """usage: parsit check PRESET[/STAGE] --data FILE --output_dir DIR [--max_memory_gb GB] [--no_step] [flags]

Look for what would stop a training run: packages, device, disk, data, tokens, trained parts, memory; then compute one
step on the largest micro-batch and take it back. Nothing is written but the data's index.

  --max_memory_gb GB   memory of a GPU (10^9 bytes); by default what this machine's has
  --no_step            leave the step out
  flags                those of `parsit train` (`parsit train --help`); --num_processes N estimates for N GPUs

Exit codes: 0 nothing found, 1 a check failed, 2 wrong usage."""


def main(argv: list[str]) -> int:
    """Run the verb."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    flags, max_memory_gb, with_step = own_flags(argv)
    config = parse(flags)
    from parsit.cli.console import quiet_libraries

    quiet_libraries()
    checks, outlook = _checks(config, max_memory_gb, with_step)
    for check in checks:
        _tell(check)
    failed = [check.name for check in checks if not check.ok]
    if failed:
        print(f"not ready: {', '.join(failed)}")
        return 1
    print(f"ready: {outlook}")
    return 0


def own_flags(argv: list[str]) -> tuple[list[str], float | None, bool]:
    """(the flags of `parsit train`, --max_memory_gb, whether to try a step).

    Raises:
        UsageError: --max_memory_gb without a number above 0.
    """
    rest, limit, with_step = [], None, True
    words = iter(argv)
    for word in words:
        name, _, value = word.partition("=")
        if name == "--max_memory_gb":
            value = value or next(words, "")
            try:
                limit = float(value)
            except ValueError:
                limit = 0.0
            if not limit > 0:
                raise UsageError(f"--max_memory_gb is {value!r}: it must be a number above 0")
        elif word == "--no_step":
            with_step = False
        else:
            rest.append(word)
    return rest, limit, with_step


def _tell(check: Check) -> None:
    print(f"{'ok    ' if check.ok else 'FAILED'}  {check.name:<11}{check.detail}")
    if not check.ok and check.remedy:
        print(f"{'':19}do: {check.remedy}")


def _world(config: TrainConfig) -> World:
    """The processes that the run will have, seen from the first of them."""
    import torch

    from parsit.cli.launch import num_processes
    from parsit.train.world import World

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return World(size=num_processes(config.num_processes), device=device)


def _model(
    config: TrainConfig, architecture: Architecture, processor: ParsitProcessor, start: Path | None
) -> ParsitForConditionalGeneration:
    """The model as a new run would begin with it, adapters and all; nothing is written."""
    from parsit import hf
    from parsit.cli.train import adapter_settings, new_model, projector_place
    from parsit.model.adapters import add_adapters
    from parsit.model.import_weights import load_projector

    model = hf.load_model(start) if start else new_model(config, architecture, processor)
    if config.pretrain_mm_mlp_adapter:
        load_projector(model, projector_place(config.pretrain_mm_mlp_adapter))
    if config.lora_enable:
        add_adapters(model, adapter_settings(config), config.seed)
    return model


def _checks(config: TrainConfig, max_memory_gb: float | None, with_step: bool) -> tuple[list[Check], str]:
    """All checks, and what will be trained for how long."""
    from parsit import hf
    from parsit.cli.train import architecture_of, data_set, parsit_folder, require_given_flags
    from parsit.config import layer_range
    from parsit.train import trial as trials
    from parsit.train.adapters import set_trainable
    from parsit.train.checks import Check
    from parsit.train.memory import Placement
    from parsit.train.preflight import preflight
    from parsit.train.world import World

    world = _world(config)
    architecture = architecture_of(config)
    start = parsit_folder(config.model_name_or_path)
    try:
        processor = hf.load_processor(start) if start else hf.new_processor(architecture)
        model = _model(config, architecture, processor, start)
    except InputError as error:
        return [Check("model", False, str(error), "mend it, or name another --model_name_or_path")], ""
    require_given_flags(config, model, processor)
    vision_layers = layer_range(config.mm_tunable_vision_layers, "mm_tunable_vision_layers")
    set_trainable(model, config.tunable_parts, vision_layers)
    try:
        training = data_set(config.data or [], config, processor, "training", World())
        if config.eval_data:
            data_set(config.eval_data, config, processor, "validation", World())
    except InputError as error:
        remedy = "`parsit data validate` lists every fault; is --image_folder right?"
        return [Check("data", False, str(error), remedy)], ""
    checks = [Check("data", True, training.describe())]
    checks += preflight(config, model, processor, training, world, max_memory_gb)
    placement = Placement.of(config, world.size)
    trial = None
    micro_batches = trials.micro_batches_of(config, training, model)
    if with_step and all(check.ok for check in checks):
        if placement.zero or placement.fsdp or placement.tp > 1:
            checks.append(Check("step", True, f"not tried: {placement} is not this one process"))
        else:
            samples = trials.largest(micro_batches, config.seed)
            batch = trials.make_batch(config, training, processor, micro_batches, samples)
            check, trial = trials.check_step(config, model, batch, micro_batches.work(samples))
            checks.append(check)
    return checks, trials.outlook(config, micro_batches, placement, trial)
