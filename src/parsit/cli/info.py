"""`parsit info PRESET_OR_PATH`: what a model is made of, without loading or fetching its weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from parsit.cli.parser import Parser
from parsit.config import architecture_names, load_architecture
from parsit.types import InputError

if TYPE_CHECKING:
    from parsit.model import ParsitConfig
    from parsit.model.summary import ModelSummary


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser("parsit info", "Show a model's parts, exact parameter counts, image tokens and memory.")
    parser.add_argument("model", help=f"preset ({', '.join(architecture_names())}) or folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    summary = _summary(args.model)
    if args.json:
        print(json.dumps(_as_json(args.model, summary), indent=2))
    else:
        _print(args.model, summary)
    return 0


def _summary(name: str) -> ModelSummary:
    config = None if name in architecture_names() else _config_of_folder(name)  # a wrong name answers before the import
    from parsit import hf
    from parsit.model.summary import summarize

    return summarize(hf.meta_model(config or hf.config_of(load_architecture(name))))


def _config_of_folder(name: str) -> ParsitConfig:
    from pathlib import Path

    from parsit.config import unknown

    if not Path(name).exists():
        raise InputError(unknown("preset or folder", name, architecture_names()))
    from parsit.files.run_folder import find_model, is_parsit_model
    from parsit.model import ParsitConfig

    folder = find_model(name)
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
            "tiles": summary.page_tiles,
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
        f"{summary.page_tokens:,} image tokens ({columns} x {rows} tiles, {summary.page_tiles} in all, "
        f"seen at {summary.page_dpi:.0f} dpi)",
    )
    facts.add_row("memory, inference", f"{summary.inference_bytes / gib:.2f} GiB (bf16 weights, cache of one page)")
    facts.add_row("memory, full training", f"{summary.full_training_bytes / gib:.2f} GiB (without activations)")
    facts.add_row("memory, projector only", f"{summary.projector_training_bytes / gib:.2f} GiB (without activations)")
    console.print(facts)
