"""Checks before a run: what would stop it after hours, found in seconds.

`preflight` has the cheap ones, which every run can afford; `parsit.train.trial` computes a step as well. Nothing here
changes weights, files or random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from parsit.config import TrainConfig
from parsit.data.dataset import DataSet
from parsit.model import ParsitForConditionalGeneration
from parsit.processing.chat import IMAGE_TOKEN
from parsit.processing.processor import Features, ParsitProcessor
from parsit.train.batches import validation_batches
from parsit.train.checks import (
    Check,
    check_added_tokens,
    check_device,
    check_disk,
    check_groups,
    check_origin,
    check_parts,
    check_tokens,
    check_versions,
    check_vocabulary,
    groups_of_run,
)
from parsit.train.memory import (
    GB,
    BatchSize,
    MemoryEstimate,
    Placement,
    adds_up_whole_gradients,
    estimate,
    estimate_validation,
)
from parsit.train.prepare import Prepared
from parsit.train.shared_memory import check_shared_memory, processes_here
from parsit.train.strategies.base import wants_bf16
from parsit.train.world import World
from parsit.types import InputError, Sample

# What CUDA's context, cuDNN, NCCL and a fragmented allocator take of a GPU, beside what the estimate counts.
_OVERHEAD_BYTES = 2e9
_AT_RANDOM = 3


def preflight(prepared: Prepared, world: World | None = None, max_memory_gb: float | None = None) -> list[Check]:
    """The cheap checks of a run.

    Args:
        prepared: the run; its model is not yet sharded.
        world: the processes that the run will have; None: those that it was prepared in.
        max_memory_gb: memory of a GPU in units of 10⁹ bytes; None: what the device has, no limit on a CPU.

    Raises:
        InputError: the file that --deepspeed names cannot be read.
    """
    config, model, processor, training = prepared.config, prepared.model, prepared.processor, prepared.training
    world = world or prepared.world
    placement = Placement.of(config, world.size)
    parts = check_parts(model)
    checks = [check_versions(config, world), check_device(config, world), check_tokens(processor.chat_tokens)]
    checks += [check_vocabulary(model, processor), parts]
    if parts.ok:
        checks += [check_origin(model, config, prepared.drawn)]
        # The image token's own row is never looked up, and of a decoder that was drawn all rows are alike.
        added = [token for token in processor.added_tokens if token != IMAGE_TOKEN]
        if added and "language_model" not in prepared.drawn:
            checks += [check_added_tokens(model, added)]
        checks += [check_groups(groups_of_run(model, config)), check_disk(model, config)]
    try:
        looked_at = look_at(training, processor, config.seed)
    except InputError as error:
        return [*checks, Check("samples", False, str(error), "`parsit data validate` lists all such samples")]
    checks.append(check_samples(model, training, looked_at))
    if parts.ok:
        size = largest_batch(training, config, looked_at)
        checks.append(check_memory(model, config, placement, size, world.device, max_memory_gb))
        checks.append(check_shared_memory(config, training, looked_at, size, processes_here(world.size)))
        if prepared.validation is not None:
            checks.append(check_validation(prepared, prepared.validation, placement, world.device, max_memory_gb))
    return checks


def require_ready(prepared: Prepared, say: Callable[[str], None]) -> None:
    """The cheap checks before a run that is to begin now. All processes call this at once.

    Args:
        prepared: the run.
        say: told what may go wrong, on the first process.

    Raises:
        InputError: the first check that failed, with its remedy; the same on all processes.
    """

    def check() -> None:
        for found in preflight(prepared):
            if not found.ok:
                raise InputError(f"{found.name}: {found.detail}: {found.remedy} (`parsit check` looks at everything)")
            if found.warns:
                say(f"warning: {found.name}: {found.detail}; do: {found.remedy}")

    prepared.world.on_first(check)


def look_at(training: DataSet, processor: ParsitProcessor, seed: int) -> list[tuple[Sample, Features]]:
    """The longest sample, the one with the most tiles, and some at random, decoded and tokenised.

    Raises:
        InputError: one cannot be read, with its place.
    """
    numbers = [int(training.num_tokens.argmax()), int(training.num_tiles.argmax())]
    numbers += np.random.default_rng(seed).integers(len(training), size=_AT_RANDOM).tolist()
    looked_at = []
    for number in dict.fromkeys(numbers):
        sample = training.samples[number]
        try:
            looked_at.append((sample, processor.encode(sample.turns)))
        except InputError as error:
            raise InputError(f"{sample.place}: {error}") from error
    return looked_at


def check_samples(
    model: ParsitForConditionalGeneration, training: DataSet, looked_at: Sequence[tuple[Sample, Features]]
) -> Check:
    """Image tokens in the text are as many as the images' features, and something is learnt."""
    images = tokens = 0
    for sample, features in looked_at:
        placeholders = int((features.input_ids == model.config.image_token_id).sum())
        plans = [model.layout.plan(width, height) for height, width in features.image_sizes.tolist()]
        expected = sum(plan.num_tokens for plan in plans), sum(plan.num_tiles for plan in plans)
        found = placeholders, 0 if features.pixels is None else features.pixels.shape[0]
        if found != expected:
            return Check(
                "samples",
                False,
                f"{sample.place}: {found[0]} image tokens and {found[1]} {model.layout.unit}, but the model makes "
                f"{expected[0]} features of {expected[1]} {model.layout.unit}",
                "model and processor must come from the same folder or preset",
            )
        if features.num_supervised == 0:
            return Check("samples", False, f"{sample.place}: no token is learnt", "`parsit data show` shows the sample")
        images += len(plans)
        tokens += placeholders
    most = f"most {model.layout.unit} {int(training.num_tiles.max()):,}"
    longest = f"longest {int(training.num_tokens.max()):,} tokens, {most}"
    return Check("samples", True, f"{longest}; {images} images read, {tokens:,} image tokens are as many features")


def largest_batch(training: DataSet, config: TrainConfig, looked_at: Sequence[tuple[Sample, Features]]) -> BatchSize:
    """About the largest micro-batch: the longest samples together, or a full row where they are packed.

    Of its positions so many carry a label as in the sample, of those that were looked at, where it is the most.
    """
    size = config.per_device_train_batch_size
    tokens, tiles = training.num_tokens, training.num_tiles
    share = _share_of_labels(looked_at)
    if config.packing:
        positions = min(size * config.model_max_length, int(tokens.sum()))
        # No row has more tiles for each token than the sample that has most of them.
        densest = math.ceil(float((tiles / np.maximum(tokens, 1)).max()) * positions)
        most = min(densest, int(tiles.sum()), config.max_tiles_per_pack or densest)
    else:
        positions = int(tokens.max()) * min(size, len(tokens))
        most = int(np.sort(tiles)[-size:].sum())
    return BatchSize(positions, most, math.ceil(share * positions))


def _share_of_labels(looked_at: Sequence[tuple[Sample, Features]]) -> float:
    return max(features.num_supervised / len(features.input_ids) for _, features in looked_at)


def check_memory(
    model: ParsitForConditionalGeneration,
    config: TrainConfig,
    placement: Placement,
    size: BatchSize,
    device: torch.device,
    max_memory_gb: float | None,
) -> Check:
    """The estimate (`parsit.train.memory`) against what a GPU has.

    More than the GPU of this machine has is a warning: the estimate errs by some 10 to 20 %, and a step tells for sure.
    More than a limit that was given is a failure.
    """
    estimated = estimate(model, config, placement, size, wants_bf16(config.bf16, device))
    return _against_limit(
        "memory", f"{placement}: {estimated}", estimated, device, max_memory_gb, _savings(config, placement)
    )


def check_validation(
    prepared: Prepared, validation: DataSet, placement: Placement, device: torch.device, max_memory_gb: float | None
) -> Check:
    """Validation samples can be read, and the largest batch of them fits beside what the run holds.

    The arguments are those of `check_memory`.
    """
    config, model = prepared.config, prepared.model
    try:
        looked_at = look_at(validation, prepared.processor, config.seed)
    except InputError as error:
        return Check("validation", False, str(error), "`parsit data validate` lists all such samples")
    batches = validation_batches(config, validation, model)
    positions = int(batches.positions.max())
    size = BatchSize(positions, int(batches.tiles.max()), math.ceil(_share_of_labels(looked_at) * positions))
    estimated = estimate_validation(model, config, placement, size, wants_bf16(config.bf16, device))
    count = sum(len(batch) for batch in batches.batches)
    detail = f"{count:,} samples in {len(batches):,} batches of at most {positions:,} positions: {estimated}"
    smaller = "a smaller --per_device_train_batch_size or --model_max_length, which bound it"
    savings = [smaller] if config.packing else ["a smaller --per_device_eval_batch_size", smaller]
    return _against_limit("validation", detail, estimated, device, max_memory_gb, savings)


def _against_limit(
    name: str,
    detail: str,
    estimated: MemoryEstimate,
    device: torch.device,
    max_memory_gb: float | None,
    savings: Iterable[str],
) -> Check:
    if device.type == "cuda":
        limit = torch.cuda.get_device_properties(device).total_memory - _OVERHEAD_BYTES
        limit = min(limit, max_memory_gb * GB) if max_memory_gb else limit
    elif max_memory_gb is None:
        return Check(name, True, f"{detail}, no limit given")
    else:
        limit = max_memory_gb * GB
    if estimated.total <= limit:
        return Check(name, True, f"{detail} of {limit / GB:.1f} GB")
    warns = max_memory_gb is None
    detail += f", more than {limit / GB:.1f} GB"
    return Check(name, warns, detail, "; ".join(savings), warns)


def _savings(config: TrainConfig, placement: Placement) -> Iterator[str]:
    """What takes less memory, the cheapest first."""
    if not config.gradient_checkpointing:
        yield "--gradient_checkpointing true"
    if config.per_device_train_batch_size > 1:
        yield "a smaller --per_device_train_batch_size with more --gradient_accumulation_steps"
    if config.optim == "adamw":
        yield "--optim adamw_bf16"
    if not placement.zero and not placement.fsdp:
        offload = "--deepspeed zero3_4b (ZeRO-3 with the CPU's memory), or " if placement.tp == 1 else ""
        yield f"{offload}--fsdp true on several GPUs"
    if placement.fsdp and adds_up_whole_gradients(config):
        yield "--fsdp_sync_each_batch true"
    if not config.lora_enable:
        yield "the lora preset"
    yield "a smaller --model_max_length"
