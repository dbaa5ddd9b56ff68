"""The facts of a model card: from the model, its run's records, and the evaluations that lie in the run's folder."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parsit.model import ParsitForConditionalGeneration
    from parsit.processing.processor import ParsitProcessor


def model_card(
    model: ParsitForConditionalGeneration,
    processor: ParsitProcessor,
    source: Path | None,
    place: str,
    averaged: int = 0,
    note: str | None = None,
) -> str:
    """The card of a model as Markdown.

    Args:
        model: the model as it is exported.
        processor: its processor.
        source: the checkpoint or folder that it was exported from; None: nothing is known of its training.
        place: what `parsit.load` is to be given: an id on the Hub, or the folder's name.
        averaged: it is the mean of so many checkpoints, of which `source` is the last; 0: it is that one itself.
        note: a sentence of whoever exports it.
    """
    from parsit.hub.card import CardFacts, render_card, version_of
    from parsit.model.summary import summarize
    from parsit.train.stages import read_stages

    stages = read_stages(source) if source else []
    if stages and averaged:
        stages[-1] |= {"averaged": averaged, "eval_loss": None}
    summary = summarize(model)
    libraries = ("parsit", "torch", "transformers")
    facts = CardFacts(
        place=place,
        reading_unit=processor.reading_unit,
        read_prompt=processor.read_prompt,
        tasks=processor.tasks,
        note=note or "",
        parts=summary.parts | {"total": summary.total},
        page_tokens=summary.page_tokens,
        page_dpi=summary.page_dpi,
        context=summary.context,
        dtype=str(model.dtype).removeprefix("torch."),
        versions={name: version_of(name) for name in libraries} | {"Python": platform.python_version()},
        stages=stages,
        evaluations=evaluations_of(source) if source and not averaged else [],
    )
    return render_card(facts)


def evaluations_of(checkpoint: Path) -> list[dict[str, Any]]:
    """What `parsit eval --out` wrote about this very checkpoint into its run's folder; what is of another is told."""
    from parsit.cli.console import say
    from parsit.files.manifest import EMA_FOLDER
    from parsit.files.run_folder import model_name

    name, kept = model_name(checkpoint), []
    run = checkpoint.parent.parent if checkpoint.name == EMA_FOLDER else checkpoint.parent
    for path in sorted(run.glob("*/results.json")):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            evaluated = results["about"]["checkpoint"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # something else of that name, or from before evaluations named their checkpoint
        if evaluated == name:
            kept.append(results | {"name": path.parent.name})
        else:
            say(f"{path}: is of {evaluated}, not of {name}: its scores are not in the model card")
    return kept
