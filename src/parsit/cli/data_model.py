"""The model that data is looked at for, `--model`: its processor and its longest sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.types import InputError, UsageError

if TYPE_CHECKING:
    from parsit.processing.processor import ParsitProcessor

MODEL_HELP = ("a model's or run's folder, a preset such as tiny or qwen3-1.7b/finetune, or ORG/NAME on the Hub, whose "
              "tokens and tiles count")  # fmt: skip
LENGTH_HELP = "the longest sample in tokens; by default what the preset, or the run of --model, trains with"


def add_model_options(option: Callable[..., Any], default: str | None) -> None:
    """`--model` and `--model_max_length`."""
    option("--model", default=default, metavar="M", help=MODEL_HELP)
    option("--model_max_length", type=int, metavar="N", help=LENGTH_HELP)


@lru_cache(maxsize=1)
def processor_of(model: str) -> ParsitProcessor:
    """The processor of a model's or run's folder, of a preset, whatever its stage, or of a model on the Hub.

    Raises:
        InputError: there is none of that name, with the nearest preset; or the Hub does not give it.
    """
    from parsit import hf, hub
    from parsit.config import split_preset

    if Path(model).is_dir() or _is_model(model):
        return hf.load_processor(hub.model_folder(model, weights=False))
    return hf.processor_named(split_preset(model)[0])


def _is_model(model: str) -> bool:
    """Whether a name that is no folder's is a model's, in the package or on the Hub; presets have a slash too."""
    from parsit.config import is_architecture, split_preset
    from parsit.hub import is_shipped, looks_like_id

    return is_shipped(model) or (looks_like_id(model) and not is_architecture(split_preset(model)[0]))


def max_length_of(model: str, given: int | None) -> int | None:
    """The longest sample in tokens: what was given, else what the preset or the model's own run has.

    None: a model's folder that does not say how it was trained, or a model on the Hub, which never does.

    Raises:
        UsageError: a limit below 1, or a stage that there is not.
        InputError: the run's configuration cannot be read.
    """
    if given is not None:
        if given < 1:
            raise UsageError(f"--model_max_length must be 1 or more, not {given}")
        return given
    if Path(model).is_dir():
        return _of_folder(Path(model))
    if _is_model(model):
        return None
    from parsit.config import TrainConfig
    from parsit.config.train import load_preset

    return int(load_preset(model).get("model_max_length", TrainConfig.model_max_length))


def _of_folder(folder: Path) -> int | None:
    import yaml

    from parsit.files.manifest import CONFIG_FILE
    from parsit.files.run_folder import find_model

    path = find_model(folder) / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return int(yaml.safe_load(path.read_text(encoding="utf-8"))["model_max_length"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: no model_max_length in it; give --model_max_length") from error
