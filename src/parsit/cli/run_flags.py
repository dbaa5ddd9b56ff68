"""The flags of a run, for `parsit train` and `parsit check`: in groups, the everyday ones named."""

from __future__ import annotations

from typing import Any

from parsit.cli.parser import Parser
from parsit.config import (
    LLAVA_FLAGS,
    MULTIMODAL_FLAGS,
    PROCESSING_FLAGS,
    TrainConfig,
    architecture_names,
    load_preset,
    preset_names,
)
from parsit.types import UsageError

GROUPS: dict[str, tuple[str, ...]] = {
    "the run": (
        "output_dir",
        "resume",
        "seed",
        "max_steps",
        "max_hours",
        "num_train_epochs",
        "eval_steps",
        "save_steps",
        "save_total_limit",
        "async_save",
        "metric_for_best",
        "keep_best",
        "sample_count",
    ),
    "data": (
        "data",
        "eval_data",
        "image_folder",
        "data_format",
        "model_max_length",
        "over_long",
        "max_bad_fraction",
        "packing",
        "max_tiles_per_pack",
        "max_eval_samples",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
    ),
    "model": (
        "model_name_or_path",
        "vision_tower",
        "pretrain_mm_mlp_adapter",
        "from_scratch",
        *MULTIMODAL_FLAGS,
        *PROCESSING_FLAGS,
    ),
    "what is trained": (
        "mm_tunable_parts",
        "mm_tunable_vision_layers",
        "lora_enable",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "use_dora",
        "lora_targets_language",
        "lora_targets_vision",
        "bits",
        "double_quant",
        "quant_type",
        "glyph_loss_weight",
        "ctc_loss_weight",
        "language_loss_weight",
    ),
    "optimizer": (
        "learning_rate",
        "mm_projector_lr",
        "mm_vision_tower_lr",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "optim",
        "ema_decay",
        "lr_scheduler_type",
        "warmup_ratio",
        "warmup_steps",
        "min_lr_ratio",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
    ),
    "memory and devices": (
        "bf16",
        "attn_implementation",
        "tf32",
        "gradient_checkpointing",
        "gradient_checkpointing_layers",
        "torch_compile",
        "num_processes",
        "hang_timeout",
        "deepspeed",
        "fsdp",
        "fsdp_sync_each_batch",
        "tp",
        "ddp_timeout",
        "per_device_eval_batch_size",
    ),
    "logging": ("report_to", "run_name", "logging_steps", "sample_steps"),
}
EVERYDAY = (
    "output_dir", "resume", "max_steps", "num_train_epochs", "eval_steps", "save_steps", "data", "eval_data",
    "image_folder", "model_max_length", "packing", "model_name_or_path", "mm_tunable_parts", "lora_enable",
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
    "num_processes", "deepspeed", "fsdp", "report_to",
)  # fmt: skip
_METAVARS = {
    "output_dir": "DIR",
    "image_folder": "DIR",
    "resume": "auto|never|PATH",
    "model_name_or_path": "MODEL",
    "vision_tower": "MODEL",
    "pretrain_mm_mlp_adapter": "PATH",
    "mm_tunable_parts": "PARTS",
    "mm_tunable_vision_layers": "FIRST-LAST",
    "gradient_checkpointing_layers": "FIRST-LAST",
    "lora_targets_language": "LAYERS",
    "lora_targets_vision": "LAYERS",
    "run_name": "NAME",
    "deepspeed": "zero2|zero3|zero3_4b|FILE",
}


def run_parser(verb: str, description: str, own: tuple[str, ...] = ()) -> Parser:
    """A parser of the flags of a run.

    Args:
        verb: as it is typed, such as `parsit train`.
        description: what it does.
        own: names of flags that the verb will add, which `--help` always shows.
    """
    everyday = (*own, *EVERYDAY)
    parser = Parser(verb, description, groups=GROUPS, everyday=everyday, needed=("data", "output_dir"))
    parser.add_argument("preset", metavar="PRESET[/STAGE]", help=f"where the settings start from: {_presets()}")
    parser.add_argument(
        "--data", nargs="+", metavar="FILE", help="training files of any known format, or a mixture .yaml"
    )
    parser.add_argument("--eval_data", nargs="+", metavar="FILE", help="validation files, never trained on")
    parser.add_class_arguments(TrainConfig, as_group=False, skip={"data", "eval_data", "architecture"})
    for action in parser._actions:
        action.metavar = _METAVARS.get(action.dest, action.metavar)
    return parser


def _presets() -> str:
    """The presets in few words: the architectures, the stages that all have, and those that some have."""
    architectures = architecture_names()
    stages = list(dict.fromkeys(name.split("/")[1] for name in preset_names()))
    shared = [stage for stage in stages if all(f"{name}/{stage}" in preset_names() for name in architectures)]
    others = [name for name in preset_names() if name.split("/")[1] not in shared]
    each = f"{', '.join(architectures)}, each with /{', /'.join(shared)}; also {', '.join(others)}"
    return f"{each}; or an architecture's YAML file, with or without a stage"


def parse_run(parser: Parser, argv: list[str], own: tuple[str, ...] = ()) -> tuple[TrainConfig, dict[str, Any]]:
    """The resolved configuration of a command line, and the values of the verb's `own` flags.

    Raises:
        UsageError: an unknown preset, flag or value.
    """
    named = bool(argv) and not argv[0].startswith("-")
    preset = load_preset(argv[0]) if named else {}
    architecture = preset.pop("architecture", "")
    parser.set_defaults(preset)
    _refuse_llavas(parser, argv)
    values = vars(parser.parse_args(_lowered(argv))).copy()
    if values.pop("preset") != argv[0] or not named:
        raise UsageError(f"{parser.prog}: PRESET[/STAGE] comes first, before the flags")
    others = {name: values.pop(name) for name in own}
    config = TrainConfig(architecture=architecture, **values)
    for flag in ("data", "output_dir"):
        if not getattr(config, flag):
            raise UsageError(f"{parser.prog} needs --{flag} (`{parser.prog} --help` lists the flags)")
    return config, others


def _refuse_llavas(parser: Parser, argv: list[str]) -> None:
    """Where LLaVA-NeXT's flags are among those that Parsit has not, answer all at once.

    Raises:
        UsageError: what to give instead of each.
    """
    names = [word.partition("=")[0] for word in argv if word.startswith("--") and len(word) > 2]
    unknown = [name for name in dict.fromkeys(names) if name not in parser._option_string_actions and name != "--help"]
    if any(name.removeprefix("--") in LLAVA_FLAGS for name in unknown):
        answers = [
            f"{name}: {LLAVA_FLAGS[name.removeprefix('--')]}"
            if name.removeprefix("--") in LLAVA_FLAGS
            else parser.unknown(name).replace(";", ",")
            for name in unknown
        ]
        raise UsageError(f"flags of LLaVA-NeXT: {'; '.join(answers)} (docs/training.md has them all)".replace("`", ""))


def _lowered(argv: list[str]) -> list[str]:
    """`--bf16 True` as `--bf16 true`, and `--tf32`: LLaVA's scripts, and Python, write it so."""
    lowered = list(argv)
    for place, word in enumerate(argv):
        after_flag = place > 0 and argv[place - 1] in ("--bf16", "--tf32")
        if (after_flag or word.startswith(("--bf16=", "--tf32="))) and word.split("=")[-1] in ("True", "False"):
            lowered[place] = word.lower()
    return lowered
