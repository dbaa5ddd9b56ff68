"""The flags of a run by what they are about: the model, the data, and how it is trained; those of saves are beside.

Names, defaults and what each is for: the command line and its help are made from these classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


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
