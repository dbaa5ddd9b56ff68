"""`TrainConfig`: every flag of a training run, with LLaVA's and Hugging Face's names.

A run's configuration is a preset's YAML, overridden by the command line; the resolved result lies
beside every checkpoint. Values that contradict each other are refused here, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import inf
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from parsit.config.architecture import architecture_names, is_architecture, unknown
from parsit.config.saving import SavingArguments
from parsit.config.stages import stage_values
from parsit.types import UsageError

TUNABLE_PARTS = ("mm_vision_tower", "mm_mlp_adapter", "mm_language_model")


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """What is trained.

    Args:
        architecture: architecture preset, such as tiny, or the path of an architecture's YAML; set by PRESET.
        model_name_or_path: Parsit model to start from, or a language model of any shape: a folder, or
            ORG/NAME[@REVISION] on the Hub; by default the architecture's own.
        vision_tower: a SigLIP tower of any shape: a folder, or ORG/NAME[@REVISION] on the Hub; by default the
            architecture's own.
        mm_tunable_parts: parts that are trained, by commas: mm_vision_tower, mm_mlp_adapter (with image_newline),
            mm_language_model.
        from_scratch: draw all weights at random instead of loading pretrained parts.
        mm_projector_type: linear, identity, mlpNx_gelu, or LLaVA's mlpNx_gelu_no_norm; this and the following: by
            default the architecture's own.
        mm_vision_select_layer: whose output of the tower is used; -1 the last layer's, -2 the last but one's.
        image_aspect_ratio: pad, anyres or anyres_max_N, or native with a tower of native resolution (SigLIP2 NaFlex).
        image_grid_pinpoints: grids of tiles for anyres, as (1x1),...,(4x5), columns x rows.
        mm_patch_merge_type: flat, spatial or spatial_unpad; with _nobase without the overview tile.
        mm_spatial_pool_stride: side of the square of tokens pooled into one, after the projector.
        mm_spatial_pool_mode: average, max or bilinear.
        mm_pixel_shuffle: side of the square of patches joined into one token, before the projector.
        max_image_tokens: with native, the most tokens of an image, row ends included; a larger one is scaled down.
        image_height: with native, the height in pixels that every image is scaled to, for models that read lines; by
            default an image keeps its size.
        mm_use_im_start_end: put <|vision_start|> and <|vision_end|> around each image.
        mm_use_im_patch_token: add the tokens of the chat format that a tokenizer lacks, the image tokens among them, as
            is done by default; false: refuse such a tokenizer.
        mm_tunable_vision_layers: of the tower only these layers, as FIRST-LAST from 0, such as 20-25; by default all.
        pretrain_mm_mlp_adapter: take the projector from here: a run, a Parsit model, or LLaVA's mm_projector.bin.
        lora_enable: train small matrices beside the frozen ones of the towers (LoRA); the projector trains fully.
        lora_r: LoRA's rank.
        lora_alpha: LoRA's scale, times 1 / lora_r.
        lora_dropout: LoRA's dropout.
        use_dora: train directions and lengths apart (DoRA).
        lora_targets_language: layers of the language model that get LoRA: all-linear, or names by commas.
        lora_targets_vision: the same of the vision tower; by default none.
        bits: 4 keeps the language model's frozen matrices in four bits (QLoRA); 16 leaves them alone.
        double_quant: with 4 bits, quantise the scales as well.
        quant_type: with 4 bits, the code: nf4 or fp4.
    """

    architecture: str = "tiny"
    model_name_or_path: str | None = None
    vision_tower: str | None = None
    mm_tunable_parts: str = "mm_vision_tower,mm_mlp_adapter,mm_language_model"
    from_scratch: bool = False
    mm_projector_type: str | None = None
    mm_vision_select_layer: int | None = None
    image_aspect_ratio: str | None = None
    image_grid_pinpoints: str | None = None
    mm_patch_merge_type: str | None = None
    mm_spatial_pool_stride: int | None = None
    mm_spatial_pool_mode: str | None = None
    mm_pixel_shuffle: int | None = None
    max_image_tokens: int | None = None
    image_height: int | None = None
    mm_use_im_start_end: bool | None = None
    mm_use_im_patch_token: bool | None = None
    mm_tunable_vision_layers: str | None = None
    pretrain_mm_mlp_adapter: str | None = None
    lora_enable: bool = False
    lora_r: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.0
    use_dora: bool = False
    lora_targets_language: str = "all-linear"
    lora_targets_vision: str = ""
    bits: Literal[4, 16] = 16
    double_quant: bool = True
    quant_type: Literal["nf4", "fp4"] = "nf4"

    def given(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the flags `names` that were set, with their values."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def tunable_parts(self) -> tuple[str, ...]:
        """`mm_tunable_parts`, split."""
        return tuple(part.strip() for part in self.mm_tunable_parts.split(",") if part.strip())


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """What it is trained on.

    Args:
        data: training files of any known format, {a,b}.json, or a mixture .yaml.
        data_format: the records' format; auto: detect, record by record.
        image_folder: folder that the records' image paths start from; by default each file's own.
        eval_data: validation files, never trained on.
        model_max_length: longest sample in tokens.
        over_long: a longer sample is set aside (skip), cut at a turn's end (truncate), or stops the run (error).
        max_bad_fraction: share of broken records above which nothing is trained.
        packing: put samples that cannot see each other into rows of per_device_train_batch_size times
            model_max_length tokens, instead of padding per_device_train_batch_size samples to one length.
        max_tiles_per_pack: most tiles (under native resolution: patches) in such a row; 0: no limit.
        max_eval_samples: validate on this many of the validation samples, chosen by seed, always the same; 0: on all.
        dataloader_num_workers: processes that decode and tokenise; 0: the training process itself.
        dataloader_prefetch_factor: batches that each worker holds ready.
    """

    data: list[str] | None = None
    data_format: str = "auto"
    image_folder: str | None = None
    eval_data: list[str] | None = None
    model_max_length: int = 4096
    over_long: Literal["skip", "truncate", "error"] = "skip"
    max_bad_fraction: float = 0.001
    packing: bool = False
    max_tiles_per_pack: int = 0
    max_eval_samples: int = 0
    dataloader_num_workers: int = 1
    dataloader_prefetch_factor: int = 4


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """How it is trained.

    Args:
        output_dir: folder of the run: checkpoints, metrics.jsonl, configuration.
        resume: auto (go on where the folder's newest good checkpoint stands), never, or a checkpoint's path.
        seed: seed of weights and data order.
        max_steps: optimizer steps; -1: as num_train_epochs says.
        max_hours: save and stop in time for this many hours from the start; 0: no limit.
        num_train_epochs: passes over the data where max_steps is -1.
        per_device_train_batch_size: samples in one forward pass.
        per_device_eval_batch_size: most samples in one forward pass of the validation; never more positions than
            per_device_train_batch_size times model_max_length, and where the run packs, full rows of so many.
        gradient_accumulation_steps: forward passes in one optimizer step.
        learning_rate: peak learning rate.
        mm_projector_lr: peak learning rate of projector and image_newline; by default learning_rate.
        mm_vision_tower_lr: peak learning rate of the vision tower; by default learning_rate.
        optim: adamw; adamw_bf16 (moments in bfloat16, weights as two halves: 10 bytes a parameter instead of 18); or
            muon (for the matrices inside the layers, AdamW for the rest): learns from fewer samples when weights are
            drawn at random, at a quarter of the speed of a very small model.
        lr_scheduler_type: cosine, linear or constant, each after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises.
        warmup_steps: the same in steps; 0: as warmup_ratio says.
        min_lr_ratio: share of the peak at which cosine and linear end.
        weight_decay: for matrices; norms, biases, embeddings of positions and image_newline have none.
        adam_beta1: AdamW's first beta.
        adam_beta2: AdamW's second beta.
        adam_epsilon: AdamW's epsilon.
        max_grad_norm: clip gradients to this norm; 0: do not clip.
        glyph_loss_weight: weight of the loss that asks each patch which glyphs lie in it, on data with glyph boxes;
            0: off.
        ctc_loss_weight: weight of the loss that asks the tower's columns for the text of a line (CTC), on images of one
            line without glyph boxes.
        language_loss_weight: weight of the language model's loss; 0: the tower learns from glyph and CTC loss alone,
            projector and language model do not run; needs --mm_tunable_parts mm_vision_tower.
        bf16: compute in bfloat16: auto (where the machine is made for it), true or false.
        attn_implementation: attention of tower and language model: sdpa (torch's kernels, for packed rows its
            variable-length one), eager (plain matrix products, to compare with), or flash_attention_2 (the package
            flash-attn, on a GPU in bfloat16).
        tf32: on a GPU, compute products of fp32 numbers with 10 bits of mantissa (TF32): true, false, or auto (as torch
            is set).
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        torch_compile: compile the layers (torch.compile); the first step takes up to a minute longer.
        logging_steps: steps between lines in a pipe, and between tracker entries.
        eval_steps: steps between validations; 0: at the end alone.
        report_to: wandb, tensorboard, trackio, mlflow or none; metrics.jsonl is always written.
        run_name: the run's name for the tracker; by default output_dir's.
        sample_steps: steps between readings of some validation samples, with their CER and ANLS; 0: never.
        sample_count: how many of the first validation samples are read then.
        gradient_checkpointing_layers: of the language model only these layers, as FIRST-LAST from 0; by default all.
        num_processes: processes on this machine; 0: one for each GPU, one without.
        hang_timeout: of several processes on this machine, seconds after which one that is stopped (SIGSTOP, a
            debugger) ends the run; 0: never.
        deepspeed: ZeRO: zero2 (gradients and optimizer are shared), zero3 (weights too), zero3_4b (all of it in the
            CPU's memory), or a JSON file of DeepSpeed's, in which "auto" values are filled in.
        fsdp: shard weights, gradients and optimizer over the processes (FSDP2).
        fsdp_sync_each_batch: sum gradients over the processes after each micro-batch, instead of once a step, until
            which each process holds them whole (4 bytes a trained parameter).
        tp: tensor parallelism: this many processes share each matrix of the language model.
        ddp_timeout: seconds that processes wait for each other, at the start and in each exchange, before they end.
    """

    output_dir: str | None = None
    resume: str = "auto"
    seed: int = 42
    max_steps: int = -1
    max_hours: float = 0.0
    num_train_epochs: float = 1.0
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    mm_projector_lr: float | None = None
    mm_vision_tower_lr: float | None = None
    optim: Literal["adamw", "adamw_bf16", "muon"] = "adamw"
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    warmup_steps: int = 0
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    glyph_loss_weight: float = 0.0
    ctc_loss_weight: float = 0.0
    language_loss_weight: float = 1.0
    bf16: Literal["auto", "true", "false"] = "auto"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    tf32: Literal["auto", "true", "false"] = "auto"
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    logging_steps: int = 10
    eval_steps: int = 500
    report_to: Literal["wandb", "tensorboard", "trackio", "mlflow", "none"] = "none"
    run_name: str | None = None
    sample_steps: int = 0
    sample_count: int = 8
    gradient_checkpointing_layers: str | None = None
    num_processes: int = 0
    hang_timeout: int = 30
    deepspeed: str | None = None
    fsdp: bool = False
    fsdp_sync_each_batch: bool = False
    tp: int = 1
    ddp_timeout: int = 1800


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
