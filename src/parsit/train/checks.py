"""What a run needs before it starts: packages, device, tokens, trained parts, disk. Each function gives one `Check`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from parsit.config import TrainConfig, first_stage
from parsit.files.run_folder import list_checkpoints
from parsit.model import ParsitForConditionalGeneration
from parsit.processing.chat import VISION_END, VISION_START, ChatTokens
from parsit.processing.processor import ParsitProcessor
from parsit.train.compiled import missing_compiler
from parsit.train.memory import GB
from parsit.train.objective import Objective
from parsit.train.optimizer import Group, groups_of, peak_rates
from parsit.train.parts import PARTS_OF
from parsit.train.strategies.base import wants_bf16
from parsit.train.world import World

# A part that was drawn at random and has less than this share of the rate that its architecture's first stage gives it
# has a rate that keeps what is there.
_SHARE_OF_FIRST_RATE = 0.25
_RATE_FLAGS = {"vision_tower": "mm_vision_tower_lr", "projector": "mm_projector_lr"}
_NAMED_BY = {"vision_tower": "vision_tower", "language_model": "model_name_or_path"}
_TUNED_AS = {name: part for part, names in PARTS_OF.items() for name in names}


@dataclass(frozen=True, slots=True)
class Check:
    """One answer: `detail` says what was found, `remedy` what to do where it is not `ok`, or where it `warns`.

    What warns does not stop a run: it may go wrong, and only the run itself can tell.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    warns: bool = False


def check_versions(config: TrainConfig, world: World) -> Check:
    """Versions, and whether the packages that the flags need are there."""
    needed = {"deepspeed": bool(config.deepspeed), "peft": config.lora_enable, "bitsandbytes": config.bits == 4}
    missing = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
    found = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    found += [f"{name} {version(name)}" for name, wanted in needed.items() if wanted and name not in missing]
    detail = ", ".join([f"Python {platform.python_version()}", *found])
    if missing:
        return Check("versions", False, f"{detail}; missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    compiler = missing_compiler(world.device.type) if config.torch_compile else None
    if compiler:
        remedy = "install it, or give --torch_compile false"
        return Check("versions", False, f"{detail}; missing for --torch_compile: {compiler}", remedy)
    return Check("versions", True, detail)


def check_device(config: TrainConfig, world: World) -> Check:
    """What is computed on, and in which number format."""
    bf16 = wants_bf16(config.bf16, world.device)
    if world.device.type != "cuda":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return Check("device", True, f"CPU, {cores} cores, {'bf16' if bf16 else 'fp32'} (no GPU is visible)")
    name = torch.cuda.get_device_name(world.device)
    detail = f"{world.size} × {name}, {'bf16' if bf16 else 'fp32'}"
    if bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return Check("device", False, f"{detail}: this GPU has no bf16", "give --bf16 false")
    return Check("device", True, detail)


def check_tokens(tokens: ChatTokens) -> Check:
    """Padding must never end a turn, and structure must not be text."""
    if tokens.pad in (tokens.im_end, tokens.im_start, tokens.image):
        return Check(
            "tokens",
            False,
            f"the pad token has id {tokens.pad}, a token of the conversation: the model would never learn to stop",
            "set the tokenizer's pad_token to <|endoftext|>",
        )
    return Check("tokens", True, f"pad {tokens.pad}, end of turn {tokens.im_end}, image {tokens.image}")


def check_vocabulary(model: ParsitForConditionalGeneration, processor: ParsitProcessor) -> Check:
    """Every id of the tokenizer has a row in the embeddings, and the image token is the model's."""
    rows, ids = model.config.text_config.vocab_size, len(processor.tokenizer)
    remedy = "use the tokenizer that belongs to the language model (--model_name_or_path names both)"
    if ids > rows:
        return Check("vocabulary", False, f"the tokenizer has {ids:,} ids, the embeddings have {rows:,} rows", remedy)
    image, expected = processor.chat_tokens.image, model.config.image_token_id
    if image != expected:
        return Check("vocabulary", False, f"the tokenizer's image token is {image}, the model's {expected}", remedy)
    return Check("vocabulary", True, f"{ids:,} ids in {rows:,} rows")


def check_parts(model: ParsitForConditionalGeneration) -> Check:
    """Check that at least one parameter is trained."""
    counts = {
        name: (sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters))
        for name, parameters in model.parts()
    }
    detail = ", ".join(f"{name} {trained:,} of {total:,}" for name, (trained, total) in counts.items())
    if not any(trained for trained, _ in counts.values()):
        return Check("parts", False, f"all frozen: {detail}", "name what is trained with --mm_tunable_parts")
    return Check("parts", True, f"trained: {detail}")


def check_origin(model: ParsitForConditionalGeneration, config: TrainConfig, drawn: Collection[str]) -> Check:
    """What was drawn at random is trained, all of it, and at a rate that was made for that.

    Args:
        model: the model, its parameters frozen and freed as they will be trained.
        config: the run's configuration.
        drawn: names of the parts that were drawn at random; the others were loaded.
    """
    new = {name: members for name, members in model.parts() if name in drawn and members}
    if not new:
        return Check("origin", True, "all weights were loaded")
    named = {"vision_tower": config.vision_tower, "language_model": config.model_name_or_path}
    ignored = [f"--{_NAMED_BY[name]} {named[name]}" for name in new if named.get(name)]
    if ignored:
        detail = f"with --from_scratch true nothing is taken of {', '.join(ignored)}"
        return Check("origin", False, detail, "give --from_scratch false, or leave the name out")
    runs = new if config.language_loss_weight else new.keys() & {"vision_tower"}  # what does not run may wait
    frozen = [name for name in new if name in runs and not all(p.requires_grad for p in new[name])]
    first = first_stage(config.architecture)
    if frozen:
        detail = f"random and not trained, or not whole: {', '.join(frozen)}"
        return Check("origin", False, detail, _remedy_of_frozen(config, frozen, first))
    of_first = peak_rates(TrainConfig.from_preset(first))
    rates = peak_rates(config)
    slow = [name for name in new if name in rates and rates[name] < _SHARE_OF_FIRST_RATE * of_first[name]]
    detail = "random at first: " + ", ".join(f"{n} at {rates[n]:.1e}" if n in rates else n for n in new)
    if not slow:
        return Check("origin", True, detail)
    flags = {_RATE_FLAGS.get(name, "learning_rate"): of_first[name] for name in slow}
    remedy = f"begin with {first} and give its output to --model_name_or_path, or "
    remedy += " ".join(f"--{flag} {rate:g}" for flag, rate in flags.items())
    return Check("origin", True, f"{detail}; too slow for what is new: {', '.join(slow)}", remedy, warns=True)


def check_added_tokens(model: ParsitForConditionalGeneration, drawn: Sequence[str]) -> Check:
    """Rows of tokens that a pretrained language model did not have are trained; frozen they are a warning.

    Args:
        model: the model, its parameters frozen and freed as they will be trained.
        drawn: the tokens of a conversation whose rows were drawn at random.
    """
    detail = f"random at first: {', '.join(drawn)}"
    if model.get_input_embeddings().weight.requires_grad:
        return Check("rows", True, detail)
    remedy = "a stage that trains the language model makes something of them"
    if {VISION_START, VISION_END}.issuperset(drawn):
        remedy += "; or leave them out with --mm_use_im_start_end false"
    return Check("rows", True, f"{detail}, and not trained", remedy, warns=True)


def _remedy_of_frozen(config: TrainConfig, frozen: Sequence[str], first: str) -> str:
    ways = [f"give the output of {first}, or another trained model, to --model_name_or_path"]
    if "vision_tower" in frozen:
        ways += ["a pretrained tower to --vision_tower"]
    if "projector" in frozen:
        ways += ["a trained projector to --pretrain_mm_mlp_adapter"]
    if not config.lora_enable:
        parts = ",".join(dict.fromkeys([*config.tunable_parts, *(_TUNED_AS[name] for name in frozen)]))
        ways += [f"or train them (--mm_tunable_parts {parts})"]
    return ", ".join(ways)


def groups_of_run(model: ParsitForConditionalGeneration, config: TrainConfig) -> list[Group]:
    """The optimizer's groups as the run will have them; random numbers stand where they stood."""
    with torch.random.fork_rng(devices=[]):
        return groups_of(Objective.of(model, config), config)


def check_groups(groups: Sequence[Group]) -> Check:
    """No group is empty (ZeRO-3 would fail with an IndexError), none learns at a rate of 0."""
    for group in groups:
        if not group.parameters:
            return Check(
                "groups", False, f"the group {group.name} is empty", "this is a fault of Parsit's: please report it"
            )
        if group.learning_rate <= 0:
            return Check("groups", False, f"{group.name} has the learning rate 0", "give it one, or freeze the part")
    told = ", ".join(f"{group.name} {len(group.parameters)} at {group.learning_rate:.1e}" for group in groups)
    return Check("groups", True, told)


def checkpoint_bytes(model: ParsitForConditionalGeneration, config: TrainConfig) -> int:
    """Size of one checkpoint: weights in fp32 or as they are, their average, and two moments of what is trained.

    With adapters what is not trained lies in their base alone.
    """
    of_moments = 4 if config.optim == "adamw_bf16" else 8
    parameters = [parameter for _, members in model.parts() for parameter in members]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    saved = trained if config.lora_enable else parameters
    weights = sum(parameter.numel() * parameter.element_size() for parameter in saved)
    moments = sum(of_moments * parameter.numel() for parameter in trained)
    return moments + weights * (2 if config.ema_decay else 1)


def check_disk(model: ParsitForConditionalGeneration, config: TrainConfig) -> Check:
    """Room for the checkpoints to come: those that are kept, the best ones, and the one that is being written."""
    output_dir = Path(str(config.output_dir))
    folder = next(path for path in (output_dir.absolute(), *output_dir.absolute().parents) if path.exists())
    one = checkpoint_bytes(model, config)
    count = (config.save_total_limit or _all_checkpoints(config)) + config.keep_best + 1
    there = len(list_checkpoints(output_dir))
    needed, free = one * max(count - there, 1), shutil.disk_usage(folder).free
    detail = f"{count} checkpoints of {one / GB:.2f} GB, {needed / GB:.1f} GB to come; {free / GB:.1f} GB free"
    remedy = f"make room in {folder}, lower --save_total_limit, or name an --output_dir on a larger disk"
    if not os.access(folder, os.W_OK):
        return Check("disk", False, f"{folder} cannot be written", "name another --output_dir")
    return Check("disk", needed <= free, detail, "" if needed <= free else remedy)


def _all_checkpoints(config: TrainConfig) -> int:
    """With --save_total_limit 0 every one is kept; how many is not known before the data is, but one at least."""
    return max(config.max_steps // config.save_steps, 1)
