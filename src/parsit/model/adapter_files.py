"""Adapters on disk: a folder that holds what was trained, and says exactly which base it was trained on.

    adapter_config.json, adapter_model.safetensors     the language model's adapters, as PEFT writes them
    vision_tower/adapter_config.json, …                the vision tower's
    trained_parts.safetensors                          parts that were trained fully (projector, image_newline, …)
    base.json                                          where the base is, digests of it, whether it was quantised
    config.json                                        the model's configuration

PEFT itself can load the first two onto the language model alone. Tensors and JSON only: nothing here runs when loaded.
Digests are of the base's contents, so that a moved or re-sharded copy passes and another checkpoint of the same
architecture, which would give wrong text without an error, does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from parsit.files.manifest import EMA_FOLDER
from parsit.model.adapters import (
    ADAPTER,
    TOWERS,
    AdapterSettings,
    adapted_towers,
    adapter_parameters,
    inject,
    is_adapter,
    lora_config,
    merge_adapters,
)
from parsit.model.model_files import ModelFiles, captured
from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.model.quantize import language_linears, quantization, quantize
from parsit.model.weight_files import copy_strictly, read_weights, some
from parsit.types import InputError

BASE_FILE, TRAINED_FILE = "base.json", "trained_parts.safetensors"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_SUBFOLDER = {"language_model": "", "vision_tower": "vision_tower"}
_PEFT_PREFIX = "base_model.model."

# What PEFT writes besides, and what it must be: anything else would change what the adapters compute.
_UNDERSTOOD = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_dora", "target_modules")
_HARMLESS = ("auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "megatron_core")
_HARMLESS += ("peft_version", "qalora_group_size", "revision", "runtime_config", "task_type")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that adapters were trained on: a Parsit folder, and SHA-256 sums of what is in it."""

    path: str
    config_sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, folder: Path) -> BaseModel:
        """The base in a Parsit folder (or a folder with adapters). Reads all its weights, so make it once a run.

        Raises:
            InputError: no configuration or no weights there.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no Parsit model there ({error})") from error
        config.pop("transformers_version", None)
        canonical = json.dumps(config, sort_keys=True).encode()
        return cls(str(folder.resolve()), hashlib.sha256(canonical).hexdigest(), _weights_digest(folder))


def base_of(folder: Path) -> BaseModel:
    """The base that a folder's adapters name, as `save_adapters` was given it."""
    said = _read_base(folder)
    return BaseModel(str((folder / said["path"]).resolve()), said["config_sha256"], said["weights_sha256"])


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds adapters for a base that lies elsewhere."""
    return (folder / BASE_FILE).is_file()


def save_adapters(
    model: ParsitForConditionalGeneration,
    folder: Path,
    base: BaseModel,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `adapter_files` into `folder`, which is made if need be (the processor is the caller's)."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter_files(model, folder, base, state).write(folder)


def adapter_files(
    model: ParsitForConditionalGeneration,
    folder: Path,
    base: BaseModel,
    state: Mapping[str, torch.Tensor] | None = None,
) -> ModelFiles:
    """Adapters, fully trained parts, configuration and base, as the files that `folder` is to hold.

    Args:
        model: a model with adapters; what requires a gradient and is no adapter counts as fully trained.
        folder: where they will lie.
        base: what the adapters were trained on. A base beside the folder, or beside the one that it is in, is named
            relative to it, so that a run can be moved; of a moving average's folder its checkpoint's place counts.
        state: whole tensors by the model's names, where the model's own are sharded.
    """
    state = dict(model.named_parameters()) if state is None else state
    small, tensors = captured(model.config.save_pretrained), {}
    for tower in adapted_towers(model):
        place, part = Path(_SUBFOLDER[tower]), model.get_submodule(tower)
        tensors[str(place / WEIGHTS_FILE)] = {
            _file_name(name): state[f"{tower}.{name}"] for name in adapter_parameters(part)
        }
        config = part.peft_config[ADAPTER].to_dict()  # type: ignore[index]
        config |= {"target_modules": sorted(config["target_modules"]), "inference_mode": True}
        small[str(place / CONFIG_FILE)] = _json(config, sort_keys=True)
    trained = _fully_trained(model)
    tensors[TRAINED_FILE] = {name: state[name] for name in trained}
    parts = sorted({name.split(".")[0] for name in trained})
    said = asdict(base) | {"quantization": quantization(model), "trained_parts": parts}
    checkpoint = folder.parent if folder.name == EMA_FOLDER else folder
    above = checkpoint.resolve().parent
    if Path(base.path).parent in (above, above.parent):
        said["path"] = os.path.relpath(base.path, folder.resolve())
    small[BASE_FILE] = _json(said)
    return ModelFiles(small, tensors)


def adapter_state(model: ParsitForConditionalGeneration, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that `adapter_files` was given, from a folder of such files for the same model.

    Raises:
        InputError: a file that is missing or cannot be read.
        KeyError: a tensor that is not there.
    """
    trained = read_weights(folder / TRAINED_FILE)
    state = {name: trained[name] for name in _fully_trained(model)}
    for tower in adapted_towers(model):
        weights = read_weights(folder / _SUBFOLDER[tower] / WEIGHTS_FILE)
        names = adapter_parameters(model.get_submodule(tower))
        state |= {f"{tower}.{name}": weights[_file_name(name)] for name in names}
    return state


def _fully_trained(model: ParsitForConditionalGeneration) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and not is_adapter(name)]


def load_adapters(model: ParsitForConditionalGeneration, folder: Path) -> None:
    """Put a folder's adapters and fully trained parts onto their base, strictly; quantise it first where it was.

    Args:
        model: the base, without adapters.
        folder: what `save_adapters` wrote.

    Raises:
        InputError: files that are missing or cannot be read, adapters of another kind, or tensors that are missing,
            unexpected or of another shape, by name.
    """
    said = _read_base(folder)
    if said["quantization"]:
        quantize(model, language_linears(model), **said["quantization"])
    for tower in TOWERS:
        place = folder / _SUBFOLDER[tower]
        if not (place / CONFIG_FILE).is_file():
            continue
        settings, targets = _read_config(place / CONFIG_FILE)
        inject(model, tower, lora_config(settings, targets), seed=0)
        parameters = adapter_parameters(model.get_submodule(tower))
        file = place / WEIGHTS_FILE
        copy_strictly({_file_name(name): p for name, p in parameters.items()}, read_weights(file), file)
    trained = {n: p for n, p in model.named_parameters() if n.split(".")[0] in said["trained_parts"]}
    copy_strictly(trained, read_weights(folder / TRAINED_FILE), folder / TRAINED_FILE)


def load_with_adapters(
    folder: Path, base: Path | None = None, merge: bool = True, **kwargs: Any
) -> ParsitForConditionalGeneration:
    """The model that a folder with adapters means: its base, found and verified, with the adapters on it.

    Args:
        folder: what `save_adapters` wrote.
        base: where the base is now; None: where `base.json` says.
        merge: give back an ordinary model; False: keep the adapters apart, to train them on.
        kwargs: for the base's `from_pretrained`.

    Raises:
        InputError: the base is not there, or is another one; or as `load_adapters`.
    """
    said = _read_base(folder)
    place = base or folder / said["path"]
    if not (place / "config.json").is_file():
        raise InputError(f"{folder}: its base is not in {place}: `parsit export` with --base makes a model of both")
    found = BaseModel.of(place)
    for what, now, then in (
        ("configuration", found.config_sha256, said["config_sha256"]),
        ("weights", found.weights_sha256, said["weights_sha256"]),
    ):
        if now != then:
            raise InputError(f"{folder}: {place} is not the base of these adapters: it has another {what}")
    if is_adapter_folder(place):
        model = load_with_adapters(place, **kwargs)
    else:
        try:
            model = ParsitForConditionalGeneration.from_pretrained(place, **kwargs)
        except (OSError, ValueError) as error:
            raise InputError(f"{place}: cannot load the base: {' '.join(str(error).split())}") from error
    load_adapters(model, folder)
    return merge_adapters(model) if merge else model


def _file_name(name: str) -> str:
    """PEFT's name in files for a parameter's name in the tower: without the adapter's own, under its prefix."""
    name = name.replace(f".lora_magnitude_vector.{ADAPTER}.weight", ".lora_magnitude_vector")
    return _PEFT_PREFIX + name.replace(f".{ADAPTER}.", ".")


def _read_base(folder: Path) -> dict[str, Any]:
    said = _read_json(folder / BASE_FILE, *(f.name for f in fields(BaseModel)), "quantization", "trained_parts")
    unknown = (said["quantization"] or {}).keys() - {"double_quant", "quant_type"}
    if unknown:
        raise InputError(f"{folder / BASE_FILE}: another kind of quantisation: {some(unknown)}")
    return said


def _read_config(file: Path) -> tuple[AdapterSettings, list[str]]:
    config = _read_json(file, *_UNDERSTOOD)
    foreign = {
        f"{key}={value}"
        for key, value in config.items()
        if key not in (*_UNDERSTOOD, *_HARMLESS) and value not in (None, False, "none", [], {})
    }
    if config["peft_type"] != "LORA" or not isinstance(config["target_modules"], list):
        foreign.add("no LoRA with a list of target_modules")
    if foreign:
        raise InputError(f"{file}: adapters of a kind that Parsit does not train: {some(foreign)}")
    kept = {"lora_r": config["r"]} | {key: config[key] for key in ("lora_alpha", "lora_dropout", "use_dora")}
    return AdapterSettings(**kept), config["target_modules"]


def _read_json(file: Path, *needed: str) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    absent = set(needed) - set(values)
    if absent:
        raise InputError(f"{file}: has no {some(absent)}")
    return values


def _json(values: Mapping[str, Any], sort_keys: bool = False) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=sort_keys) + "\n").encode()


def _weights_digest(folder: Path) -> str:
    """A digest of all tensors, by name: the same however they are sharded."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("vision_tower/*.safetensors")])
    if not files:
        raise InputError(f"{folder}: no weights there (*.safetensors)")
    entries = []
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name).contiguous()
                digest = hashlib.sha256(tensor.flatten().view(torch.uint8).numpy()).hexdigest()
                place = f"{file.parent.relative_to(folder)}/{name}"
                entries.append(f"{place} {tensor.dtype} {tuple(tensor.shape)} {digest}")
    return hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()
