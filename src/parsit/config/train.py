"""`TrainConfig`: every flag of a training run, with LLaVA's and Hugging Face's names.

A run's configuration is a preset's YAML, overridden by the command line; the resolved result lies
beside every checkpoint. Values that contradict each other are refused here, before anything is loaded; what flags there
are stands in `parsit.config.flags` and `parsit.config.saving`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from math import inf
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from parsit.config.architecture import architecture_names, is_architecture, unknown
from parsit.config.flags import DataArguments, ModelArguments, TrainingArguments
from parsit.config.saving import SavingArguments
from parsit.config.stages import stage_values
from parsit.types import UsageError

TUNABLE_PARTS = ("mm_vision_tower", "mm_mlp_adapter", "mm_language_model")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelArguments, DataArguments, TrainingArguments, SavingArguments):
    """All settings of one training run.

    Raises:
        UsageError: a value that is out of range or contradicts another, with the flag's name.
    """

    @classmethod
    def from_preset(cls, name: str, **flags: Any) -> TrainConfig:
        """The settings of `ARCHITECTURE[/STAGE]` with some of them changed, as `parsit train` has them.

        Args:
            name: a preset, such as `tiny/scratch`.
            flags: fields by name; a path may be a `Path`, and a single data file need not be in a list.

        Raises:
            UsageError: no such preset or field, or a value that is out of range or contradicts another.
        """
        known = [field.name for field in fields(cls) if field.name != "architecture"]
        for flag in flags:
            if flag not in known:
                raise UsageError(unknown("setting", flag, known))
        return cls(**load_preset(name) | {flag: _plain(flag, value) for flag, value in flags.items()})

    def __post_init__(self) -> None:
        for name, choices in _choices(type(self)).items():
            if getattr(self, name) not in choices:
                raise UsageError(unknown(f"value of --{name}", str(getattr(self, name)), [str(one) for one in choices]))
        if not is_architecture(self.architecture):
            raise UsageError(unknown("architecture", self.architecture, architecture_names()))
        for part in self.tunable_parts:
            if part not in TUNABLE_PARTS:
                raise UsageError(unknown("part in --mm_tunable_parts", part, list(TUNABLE_PARTS)))
        if not self.tunable_parts:
            raise UsageError(
                f"--mm_tunable_parts is empty: nothing would be trained; name some of {', '.join(TUNABLE_PARTS)}"
            )
        at_least_one = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        at_least_one += (
            "logging_steps",
            "save_steps",
            "model_max_length",
            "dataloader_prefetch_factor",
            "tp",
            "ddp_timeout",
            "lora_r",
            "keep_best",
            "sample_count",
        )
        for name in at_least_one:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        not_negative = ("dataloader_num_workers", "eval_steps", "save_total_limit", "warmup_steps", "seed")
        not_negative += ("sample_steps", "num_processes", "max_eval_samples", "hang_timeout")
        for name in (*not_negative, "max_tiles_per_pack"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("weight_decay", "max_grad_norm", "glyph_loss_weight", "ctc_loss_weight", "language_loss_weight"):
            _require(0 <= getattr(self, name) < inf, name, getattr(self, name), "0 or more")
        _require(0 <= self.max_hours < inf, "max_hours", self.max_hours, "0 or more")
        for name in ("warmup_ratio", "min_lr_ratio", "max_bad_fraction"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        for name in ("adam_beta1", "adam_beta2", "lora_dropout", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more and less than 1")
        for name in ("learning_rate", "adam_epsilon", "lora_alpha"):
            _require(0 < getattr(self, name) < inf, name, getattr(self, name), "more than 0")
        for name, part in (("mm_projector_lr", "mm_mlp_adapter"), ("mm_vision_tower_lr", "mm_vision_tower")):
            rate = getattr(self, name)
            wanted = f"more than 0 (what is not to be trained is left out of --mm_tunable_parts: {part})"
            _require(rate is None or 0 < rate < inf, name, rate, wanted)
        _require(self.max_steps == -1 or self.max_steps >= 1, "max_steps", self.max_steps, "-1 or at least 1")
        _require(0 < self.num_train_epochs < inf, "num_train_epochs", self.num_train_epochs, "more than 0")
        self._require_consistent()

    def _require_consistent(self) -> None:
        """Refuse what does not go together, with the reason."""
        ways = [name for name, on in (("deepspeed", self.deepspeed), ("fsdp", self.fsdp), ("tp", self.tp > 1)) if on]
        if self.deepspeed and len(ways) > 1:
            raise UsageError(f"--{' and --'.join(ways)} each place the weights in their own way: choose one of them")
        if self.fsdp_sync_each_batch and not self.fsdp:
            raise UsageError("--fsdp_sync_each_batch is about --fsdp true, which is not given")
        if self.optim == "muon" and ways:
            raise UsageError(f"--optim muon needs whole matrices, which --{ways[0]} cuts: use --optim adamw")
        if self.bits == 4 and not self.lora_enable:
            raise UsageError("--bits 4 freezes the language model's matrices: nothing trains them; add --lora_enable")
        if self.bits == 4 and ways:
            raise UsageError(f"--bits 4 packs matrices into bytes, which --{ways[0]} cannot shard: train it without")
        if self.lora_enable and self.tp > 1:
            raise UsageError("--lora_enable and --tp cannot be combined: adapters have no plan; use --fsdp")
        if self.torch_compile and (self.deepspeed or self.tp > 1):
            way = "deepspeed" if self.deepspeed else "tp"
            raise UsageError(f"--torch_compile and --{way} cannot be combined: its hooks lie inside compiled layers")
        if self.attn_implementation == "eager" and self.packing:
            raise UsageError("--attn_implementation eager does not pack: samples of a row would see each other; use "
                             "sdpa, or --packing false")  # fmt: skip
        if self.attn_implementation == "flash_attention_2" and self.bf16 == "false":
            raise UsageError(
                "--attn_implementation flash_attention_2 computes in half precision alone: use --bf16 true"
            )
        if self.ema_decay and self.deepspeed:
            raise UsageError("--ema_decay and --deepspeed cannot be combined: the weights in fp32 are in DeepSpeed's "
                             "own buffers; use --fsdp true, which shards as much")  # fmt: skip
        if not self.language_loss_weight:
            self._require_tower_alone()
        for name in ("mm_tunable_vision_layers", "gradient_checkpointing_layers"):
            layer_range(getattr(self, name), name)
        if self.data is not None:  # else these are not a run's settings yet
            self.require_measured(self.eval_data, self.sample_steps)

    def _require_tower_alone(self) -> None:
        """Refuse what a run without the language model's loss does not train."""
        if not self.glyph_loss_weight and not self.ctc_loss_weight:
            raise UsageError(
                "--language_loss_weight 0 leaves nothing to learn from: "
                "add --glyph_loss_weight 1 or --ctc_loss_weight 1"
            )
        if self.tunable_parts != ("mm_vision_tower",):
            raise UsageError(
                "--language_loss_weight 0 trains the tower alone: projector and language model do not run; "
                "use --mm_tunable_parts mm_vision_tower"
            )

    def to_yaml(self) -> str:
        """All values, in the order of the fields."""
        return yaml.safe_dump({f.name: getattr(self, f.name) for f in fields(self)}, sort_keys=False)


def _plain(flag: str, value: Any) -> Any:
    """A value as the command line would give it: paths are strings, data files are in a list."""
    if flag in ("data", "eval_data") and isinstance(value, str | PurePath):
        value = [value]
    if isinstance(value, list | tuple):
        return [_plain("", one) for one in value]
    if flag in ("bf16", "tf32") and isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, PurePath) else value


@cache
def _choices(config: type) -> dict[str, tuple[Any, ...]]:
    """The values that fields may have, of those that list them."""
    hints = get_type_hints(config)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def layer_range(text: str | None, flag: str) -> range | None:
    """`20-25` as the layers 20 to 25, `3` as that one; None: all.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise UsageError(f"--{flag} is {text!r}: it must be FIRST-LAST, such as 20-25, counted from 0")
    return range(int(first), int(last or first) + 1)


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise UsageError(f"--{name} is {value}: it must be {wanted}")


def load_preset(name: str) -> dict[str, Any]:
    """The values of `ARCHITECTURE[/STAGE]`, to be overridden by the command line (`parsit.config.stages`).

    Raises:
        UsageError: no such preset, or a key in it that no flag has.
        InputError: no such architecture file.
    """
    values = stage_values(name)
    known = [f.name for f in fields(TrainConfig)]
    for key in values:
        if key not in known:
            raise UsageError(f"preset {name}: " + unknown("key", key, known))
    return values
