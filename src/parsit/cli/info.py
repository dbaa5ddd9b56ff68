"""`parsit info`: what a model is made of, without loading or fetching its weights.

    parsit info                                                      the model that comes in the package
    parsit info PRESET_OR_PATH                                       a preset, an architecture's YAML file, or a folder
    parsit info [PRESET] --vision_tower T --model_name_or_path L     the same with other parts, of any shape

Other parts are counted from their configurations (and the decoder's tokenizer, which may need new rows).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from parsit.cli.parser import Parser
from parsit.config import DEFAULT_BASE, MULTIMODAL_FLAGS, architecture_names, is_architecture, load_architecture
from parsit.types import InputError, UsageError

if TYPE_CHECKING:
    from parsit.config import Architecture
    from parsit.model import ParsitConfig
    from parsit.model.summary import ModelSummary

_PARTS = ("vision_tower", "model_name_or_path")


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser("parsit info", "Show a model's parts, exact parameter counts, image tokens and memory.")
    parser.add_argument("model", nargs="?", help=f"preset ({', '.join(architecture_names())}), an architecture's YAML "
                        "file, a folder, or ORG/NAME[@REVISION] on the Hub; by default the model that "
                        f"comes with Parsit, with other parts {DEFAULT_BASE}")  # fmt: skip
    parser.add_argument("--vision_tower", metavar="MODEL", help="Hub id or folder of a SigLIP tower, of any shape")
    parser.add_argument("--model_name_or_path", metavar="MODEL", help="Hub id or folder of a decoder, of any shape")
    for name in MULTIMODAL_FLAGS:
        number = name in (
            "mm_vision_select_layer",
            "mm_spatial_pool_stride",
            "mm_pixel_shuffle",
            "max_image_tokens",
            "image_height",
        )
        parser.add_argument(f"--{name}", type=int if number else str, help="as in `parsit train`")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    changes = {name: getattr(args, name) for name in (*_PARTS, *MULTIMODAL_FLAGS) if getattr(args, name) is not None}
    if args.model is None and not changes:
        from parsit.hub import named_or_default

        args.model = str(named_or_default(None))
    name = args.model or DEFAULT_BASE
    summary = _summary(name, changes)
    title = " ".join([name, *(f"--{flag} {value}" for flag, value in changes.items())])
    if args.json:
        print(json.dumps(_as_json(title, summary) | _file_of(name), indent=2))
    else:
        _print(title, summary)
        for what, value in _file_of(name).items():
            print(f"{what}: {value}")
    return 0


def _file_of(name: str) -> dict[str, str]:
    """Where the weights of the package's model lie, and their checksum, once they were found to have it."""
    from parsit.hub import is_shipped, model_folder

    if not is_shipped(name):
        return {}
    from parsit.files.manifest import checksums_of, require_sound_model

    folder = require_sound_model(model_folder(name))
    return {"folder": str(folder), "sha256": checksums_of(folder)["model.safetensors"]}


def _summary(name: str, changes: dict[str, Any]) -> ModelSummary:
    """The numbers of an architecture with `changes`, or of a folder's model, which is as it is."""
    config = None if is_architecture(name) else _config_of_folder(name)  # a wrong name answers before the import
    if config is not None and changes:
        raise UsageError(f"--{next(iter(changes))}: {name} is a model with parts of its own; name a preset instead")
    from parsit import hf
    from parsit.cli.console import quiet_libraries
    from parsit.model.summary import summarize

    quiet_libraries()
    return summarize(hf.meta_model(config or _composed(load_architecture(name), changes)))


def _composed(architecture: Architecture, changes: dict[str, Any]) -> ParsitConfig:
    """The configuration of an architecture with other parts, and rows for what its tokenizer lacks.

    A decoder whose folder holds no tokenizer is counted as its configuration says.
    """
    from parsit import hf
    from parsit.cli.console import say

    joined = {name: value for name, value in changes.items() if name in MULTIMODAL_FLAGS}
    architecture = replace(architecture, multimodal=architecture.multimodal | joined)
    composed = hf.compose(architecture, *(changes.get(part) for part in _PARTS))
    config = hf.sound_config(composed)
    if composed.text_config == architecture.text_config:
        return config
    try:
        return hf.config_for(composed, hf.new_processor(composed))
    except hf.PartError as error:
        say(f"{error}: rows for tokens that it lacks are not counted")
        return config


def _config_of_folder(name: str) -> ParsitConfig:
    from pathlib import Path

    from parsit.config import unknown
    from parsit.hub import is_shipped, looks_like_id, model_folder

    if not Path(name).exists() and not looks_like_id(name) and not is_shipped(name):
        raise InputError(unknown("preset or folder", name, architecture_names()))
    folder = model_folder(name, weights=False)
    from parsit.files.run_folder import is_parsit_model
    from parsit.model import ParsitConfig

    if not is_parsit_model(folder):
        raise InputError(f"{folder}: not a Parsit model (its config.json has another model_type)")
    return ParsitConfig.from_pretrained(folder)


def _as_json(name: str, summary: ModelSummary) -> dict[str, object]:
    named = ("vision_tower", "projector", "language_model")
    return {
        "model": name,
        **{part: summary.parts[part] for part in named},
        "total": summary.total,
        "context": summary.context,
        "a4_150dpi": {
            "image_tokens": summary.page_tokens,
            summary.unit: summary.page_tiles,
            "grid": list(summary.page_grid),
            "effective_dpi": round(summary.page_dpi, 1),
        },
        "memory_bytes": {
            "inference": summary.inference_bytes,
            "training_full": summary.full_training_bytes,
            "training_projector": summary.projector_training_bytes,
        },
    }


def _print(name: str, summary: ModelSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    parts = Table("part", "parameters", title=f"parsit {name}", title_justify="left")
    parts.columns[1].justify = "right"
    for part, count in summary.parts.items():
        parts.add_row(part, f"{count:,}")
    parts.add_row("total", f"{summary.total:,}", style="bold")
    console.print(parts)
    columns, rows = summary.page_grid
    gib = 1 << 30
    facts = Table(show_header=False, box=None)
    facts.add_row("context", f"{summary.context:,} tokens")
    facts.add_row(
        "A4 page at 150 dpi",
        f"{summary.page_tokens:,} image tokens ({columns} x {rows} {summary.unit}, {summary.page_tiles:,} in all, "
        f"seen at {summary.page_dpi:.0f} dpi)",
    )
    facts.add_row("memory, inference", f"{summary.inference_bytes / gib:.2f} GiB (bf16 weights, cache of one page)")
    facts.add_row("memory, full training", f"{summary.full_training_bytes / gib:.2f} GiB (without activations)")
    facts.add_row("memory, projector only", f"{summary.projector_training_bytes / gib:.2f} GiB (without activations)")
    console.print(facts)
