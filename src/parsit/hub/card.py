"""The model card: README.md of a model's folder, for people, with a head for the Hub.

What it says was measured or recorded; where nobody recorded something, it says so. The licence is left to whoever
publishes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

CARD_FILE = "README.md"
_SCORES = {
    "cer": "CER",
    "wer": "WER",
    "normalized_edit_distance": "normalised edit distance",
    "exact_match": "exact match",
    "anls": "ANLS",
}
_PARTS = {"vision_tower": "tower", "language_model": "language model", "model": "model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card is made of.

    `place`: what `parsit.load` is to be given: an id on the Hub, or a folder's name. `parts`: parameters by part.
    `page_tokens`, `page_dpi`: of an A4 page at 150 dpi. `tasks`: what the model is known to do; none: not known.
    `note`: a sentence of whoever exports it. `stages`: as in a run's stages.json, each with its steps.
    `evaluations`: results.json of `parsit eval`, each as it is, with the `name` of the folder it lay in.
    """

    place: str
    reading_unit: str
    read_prompt: str
    parts: Mapping[str, int]
    page_tokens: int
    page_dpi: float
    context: int
    dtype: str
    versions: Mapping[str, str]
    tasks: Sequence[str] = ()
    note: str = ""
    stages: Sequence[Mapping[str, Any]] = ()
    evaluations: Sequence[Mapping[str, Any]] = field(default_factory=list)


def render_card(facts: CardFacts) -> str:
    """The card as Markdown, with the YAML head that the Hub reads."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    template = environment.from_string(resources.files("parsit.hub").joinpath("card.md.jinja").read_text("utf-8"))
    bases = base_models(facts.stages)
    text = template.render(
        head=_head(bases),
        title=facts.place.rpartition("/")[2],
        place=facts.place,
        reading_unit=facts.reading_unit,
        read_prompt=" ".join(facts.read_prompt.split()),
        answers=not facts.tasks or "ask" in facts.tasks,
        note=" ".join(facts.note.split()),
        parts=facts.parts,
        page_tokens=facts.page_tokens,
        page_dpi=facts.page_dpi,
        context=facts.context,
        dtype=facts.dtype,
        stages=[_stage(stage) for stage in facts.stages],
        scores=[_scores(evaluation) for evaluation in facts.evaluations],
        versions=facts.versions,
        base_models=bases,
    )
    return text.rstrip() + "\n"


def version_of(package: str) -> str:
    """A package's version; of one that is used from its source, without being installed, nobody knows it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "from source"


def base_models(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids on the Hub that the first of the stages began from."""
    names = [part["name"] for stage in stages for part in stage["from"].values() if part["on_hub"]]
    return [name.partition("@")[0] for name in dict.fromkeys(names)]


def _head(bases: list[str]) -> str:
    values: dict[str, Any] = {"library_name": "parsit", "pipeline_tag": "image-text-to-text"}
    if bases:
        values["base_model"] = bases
    return yaml.safe_dump(values | {"tags": ["parsit", "ocr", "document-understanding"]}, sort_keys=False)


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    loss = stage.get("eval_loss")
    settings = ", ".join(f"`{name} {value}`" for name, value in stage["settings"].items() if name != "mm_tunable_parts")
    return {
        "began_from": ", ".join(f"{_PARTS[part]} {_code(told['name'])}" for part, told in stage["from"].items())
        or "random weights",
        "trained": ("LoRA, " if stage["settings"].get("lora_enable") else "") + stage["trained"].replace(",", ", "),
        "steps": _steps(stage),
        "data": ", ".join(f"{_code(one['file'])} ({one['samples']:,} samples)" for one in stage["training"]),
        "eval_loss": f"{loss:.4f}" if loss else "",
        "eval_data": " on " + ", ".join(_code(one["file"]) for one in stage["validation"]),
        "settings": settings or "none",
    }


def _steps(stage: Mapping[str, Any]) -> str:
    if "steps" not in stage:
        return "not recorded"
    mean = f"; the mean of its last {stage['averaged']} checkpoints" if stage.get("averaged") else ""
    return f"{stage['steps']:,}{mean}"


def _scores(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    summary, about = evaluation["summary"], evaluation["about"]
    rows = [
        {"name": title, "value": f"{found['value']:.4f}", "interval": f"{found['low']:.4f} to {found['high']:.4f}"}
        for name, title in _SCORES.items()
        for found in [summary["normalized"][name]]
    ]
    failed = summary["failed"]
    return {
        "name": evaluation.get("name", ""),
        "data": ", ".join(_code(name) for name in about["files"]),
        "samples": summary["count"],
        "failed": f", of which {failed:,} failed and count as wrong" if failed else "",
        "confidence": f"{evaluation['interval']['confidence']:.0%}",
        "rows": rows,
    }


def _code(name: str) -> str:
    """A name as code, on one line of a table."""
    return "`" + name.replace("`", "'").replace("|", "/").replace("\n", " ") + "`"
