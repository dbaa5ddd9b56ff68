"""The rules of going on: from which checkpoint, with what changed, and what becomes of the checkpoints beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from parsit.config import MULTIMODAL_FLAGS, PROCESSING_FLAGS, TrainConfig
from parsit.data.plan import Plan
from parsit.files import refuse_inputs
from parsit.files.manifest import CONFIG_FILE, STATE_FOLDER, verify
from parsit.files.run_folder import (
    BEST_FILE,
    checkpoint_path,
    find_newest,
    list_checkpoints,
    require_good,
    supersede,
)
from parsit.train.batches import num_steps
from parsit.train.checkpoint import TrainState, write_best
from parsit.train.left_out import LEFT_OUT_FILE
from parsit.train.metrics import METRICS_FILE, SAMPLES_FILE
from parsit.train.optimizer import learning_rate_factor
from parsit.train.trackers.common import MEMORY_FILE
from parsit.types import InputError, ParsitError, UsageError

SET_ASIDE_FILE = "set_aside.jsonl"
Say = Callable[[str], None]
# What the weights are, and how their optimizer state is kept: these may not change on resume.
FIXED_ON_RESUME = ("architecture", "mm_tunable_parts", "mm_tunable_vision_layers", "glyph_loss_weight")
FIXED_ON_RESUME += ("ctc_loss_weight", "language_loss_weight")
FIXED_ON_RESUME += ("lora_enable", "lora_r", "lora_alpha", "use_dora", "lora_targets_language", "lora_targets_vision")
FIXED_ON_RESUME += ("lora_dropout", "bits", "double_quant", "quant_type", "optim")
FIXED_ON_RESUME += (*MULTIMODAL_FLAGS, *PROCESSING_FLAGS)
# What decides the learning rate of a step: this may change, and is said where the rate jumps.
SCHEDULE = ("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_ratio", "warmup_steps")
SCHEDULE += ("min_lr_ratio",)
# What may change and is said: what it changes from here on. Data, batch size, packing and seed are in the digest of the
# data's order, and what is not listed changes neither weights nor validation.
NOTED = {
    "the learning rates": (*SCHEDULE, "mm_projector_lr", "mm_vision_tower_lr"),
    "the updates": ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    "the moving average of the weights": ("ema_decay",),
    "how is computed: losses are no longer equal to the bit": (
        *(
            "bf16",
            "torch_compile",
            "gradient_checkpointing",
            "gradient_checkpointing_layers",
            "deepspeed",
            "fsdp",
            "tp",
        ),
        "gradient_accumulation_steps",
    ),
    "nothing, as the weights are the checkpoint's": (
        *("model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter", "from_scratch"),
    ),
}


def checkpoint_to_resume(config: TrainConfig, say: Say) -> Path | None:
    """The verified checkpoint that the run goes on from; None: it begins.

    Args:
        config: the run's configuration; `output_dir` is set.
        say: told of checkpoints that are passed over.

    Raises:
        InputError: the named checkpoint is not whole or holds a pickle, or the folder holds a run that is not resumed,
            or cannot be.
        UsageError: settings that may not change between the run and its continuation.
    """
    output_dir = Path(str(config.output_dir))
    if config.resume == "never":
        if list_checkpoints(output_dir):
            raise InputError(f"{output_dir}: holds a run already; give another --output_dir, or --resume auto to go on")
        return None
    checkpoint = named_checkpoint(config)
    if checkpoint is None:
        checkpoint = find_newest(output_dir, warn=say)
        if checkpoint is None and list_checkpoints(output_dir):
            raise InputError(f"{output_dir}: none of its checkpoints is whole; start again in another --output_dir")
    if checkpoint is not None:
        _require_no_pickle(checkpoint)
        _require_same_settings(config, checkpoint)
    return checkpoint


def named_checkpoint(config: TrainConfig) -> Path | None:
    """The checkpoint that `--resume` names. Raises `InputError` where it is not whole."""
    return None if config.resume in ("auto", "never") else require_good(Path(config.resume))


def require_apart(output_dir: Path, inputs: Iterable[Path]) -> None:
    """Refuse data that lie where the run writes its own files.

    Args:
        output_dir: the run's folder.
        inputs: the files that are read.

    Raises:
        UsageError: the first such file.
    """
    inputs = list(inputs)
    for name in (METRICS_FILE, SET_ASIDE_FILE, LEFT_OUT_FILE, BEST_FILE, MEMORY_FILE):
        refuse_inputs(output_dir / name, inputs, "--output_dir")


def changed_schedule(config: TrainConfig, checkpoint: Path, plan: Plan, step: int) -> str:
    """What to say where the run's learning rate does not go on as it was falling; empty: it does.

    A run that goes on with more or fewer steps, or another schedule, jumps to where the new schedule stands then.

    Args:
        config: the run's configuration now.
        checkpoint: where it goes on from.
        plan: the run's steps.
        step: optimizer steps done.
    """
    values = _settings(checkpoint)
    before = replace(config, **{name: values[name] for name in SCHEDULE if name in values})
    totals = num_steps(before, plan), num_steps(config, plan)
    rates = [
        one.learning_rate * learning_rate_factor(min(step, total - 1), total, one)
        for one, total in zip((before, config), totals, strict=True)
    ]
    if step >= totals[1] or abs(rates[1] - rates[0]) <= 0.01 * rates[0]:
        return ""
    steps = f"the run had {totals[0]} steps and has {totals[1]} now: " if totals[0] != totals[1] else ""
    return (
        f"warning: {steps}at step {step} the learning rate goes on at {rates[1]:.1e}, not at {rates[0]:.1e}; "
        "for a rate that only falls, begin a new --output_dir with --model_name_or_path"
    )


def changed_settings(config: TrainConfig, checkpoint: Path) -> list[str]:
    """A line for each kind of flag that is not what the checkpoint was trained with: from what to what."""
    earlier = _settings(checkpoint)
    lines = []
    for what, names in NOTED.items():
        changed = [name for name in names if name in earlier and earlier[name] != getattr(config, name)]
        if changed:
            told = ", ".join(f"--{name} from {earlier[name]} to {getattr(config, name)}" for name in changed)
            lines.append(f"changed since {checkpoint.name}: {told}: this changes {what}")
    return lines


def settle(config: TrainConfig, checkpoint: Path, state: TrainState) -> tuple[TrainState, list[str]]:
    """Make the run's folder that of a run which stands at `checkpoint`: what lies beyond is moved aside, never deleted.

    Args:
        config: the run's configuration.
        checkpoint: where the run goes on from.
        state: what it holds.

    Returns:
        The state, without the best whose checkpoints are not in the folder or damaged; and what to say.

    Raises:
        ParsitError: the folder cannot be written.
    """
    output_dir = Path(str(config.output_dir))
    try:
        moved = supersede(output_dir, checkpoint, state.step, (METRICS_FILE, SAMPLES_FILE, LEFT_OUT_FILE))
        state, lines = _with_sound_best(output_dir, checkpoint, state)
        if not state.best:
            (output_dir / BEST_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise ParsitError(f"{output_dir}: cannot go on there: {error}; mend the folder, or copy the run") from error
    write_best(output_dir, state)
    if moved is not None:
        aside, paths = moved
        names = ", ".join(path.name for path in paths)
        lines.append(
            f"going on from {checkpoint}: {names} moved to {aside}, with the record of their steps; delete it to have "
            "room"
        )
    return state, lines


def _with_sound_best(output_dir: Path, checkpoint: Path, state: TrainState) -> tuple[TrainState, list[str]]:
    """The state without those of the best whose checkpoints are gone or damaged; and what to say of the latter.

    Nothing would put it right later: a run keeps its best checkpoints and does not read them.
    """
    kept, lines = [], []
    for best in state.best:
        path = checkpoint_path(output_dir, best.step)
        if not path.is_dir():
            continue
        problem = None if path.resolve() == checkpoint.resolve() else verify(path)  # that one was just verified
        if problem:
            lines.append(
                f"warning: {path} validated best, but is not as it was saved: {problem}; the best is chosen anew"
            )
        else:
            kept.append(best)
    return replace(state, best=tuple(kept)), lines


def how_to_go_on(config: TrainConfig) -> str:
    """Which command goes on with a run that was stopped."""
    if config.resume in ("auto", "never"):
        return "the same command goes on" + (" with --resume auto" if config.resume == "never" else "")
    return f"the same command without --resume {config.resume} goes on"


def _settings(checkpoint: Path) -> dict[str, Any]:
    return yaml.safe_load((checkpoint / CONFIG_FILE).read_text(encoding="utf-8"))


def _require_no_pickle(checkpoint: Path) -> None:
    """Refuse what earlier versions wrote under --deepspeed: DeepSpeed's own state, which runs what it names."""
    own = checkpoint / STATE_FOLDER / "deepspeed"
    if own.exists():
        raise InputError(
            f"{own}: is a pickle of an earlier version, which is not read: finish the run with that version, or start "
            "a new --output_dir with --model_name_or_path"
        )


def _require_same_settings(config: TrainConfig, checkpoint: Path) -> None:
    earlier = _settings(checkpoint)
    for name in FIXED_ON_RESUME:
        if name in earlier and earlier[name] != getattr(config, name):  # an older version knew fewer flags
            raise UsageError(
                f"--{name} is {getattr(config, name)}, but {checkpoint} was trained with {earlier[name]}: "
                "give the same value, or start a new --output_dir with --model_name_or_path"
            )
