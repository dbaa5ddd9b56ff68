"""The demo's report: what was trained, whether it looks, how it read, and what it cannot do.

The caller hands in what it did and measured; every number and every judgement on the page is
computed from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parsit.eval.breakdown import by_class, by_length, describe_cer, findings, length_label
from parsit.eval.diff import diff_spans
from parsit.eval.evaluation import CONVENTIONS, Evaluation
from parsit.eval.grounding import Grounding
from parsit.eval.html import Case, case, render, score_rows
from parsit.eval.metrics import read_metrics
from parsit.eval.pictures import picture
from parsit.eval.plots import interval_plot, loss_plot, small_plots
from parsit.files import write_whole
from parsit.scores import Interval, SampleScores, normalize, score_text
from parsit.types import ImageRef, InputError, Sample

_SMALL_PLOTS = {
    "glyph_loss": "glyph loss",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_s": "tokens per second",
}


@dataclass(frozen=True, slots=True)
class PageReading:
    """A page that was read whole.

    `reference` is the true text and `reference_source` says where it is from, such as "the PDF's
    own text layer". `how` says how the page was read, where that needs saying.
    """

    source: str
    number: int
    image: ImageRef
    prediction: str
    reference: str
    reference_source: str
    flags: tuple[str, ...] = ()
    seconds: float = 0.0
    how: str = ""

    @property
    def scores(self) -> SampleScores:
        """Scores of the normalised texts."""
        return score_text(normalize(self.reference), normalize(self.prediction))


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step of the demo and how many seconds it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """All that the page shows.

    `samples` are the held-out samples of `evaluation` (and of `evaluation_before`, made with the
    untrained model), in the same order. `metrics` is the run's metrics.jsonl. `gallery` is how many
    readings of each kind (best, median, worst) are shown.
    """

    title: str
    introduction: tuple[str, ...]
    samples: tuple[Sample, ...]
    evaluation: Evaluation
    grounding: Grounding
    metrics: Path
    evaluation_before: Evaluation | None = None
    grounding_before: Grounding | None = None
    pages: tuple[PageReading, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    steps: tuple[StepTime, ...] = ()
    gallery: int = 5


@dataclass(frozen=True, slots=True)
class Gallery:
    """Some readings and how they were chosen."""

    name: str
    cases: tuple[Case, ...]


def _galleries(report: DemoReport) -> list[Gallery]:
    """The best, middle and worst of all samples by CER; ties keep the order of the data set."""
    records = report.evaluation.records
    order = sorted(range(len(records)), key=lambda index: records[index].scores.cer)
    size = min(report.gallery, len(order))
    middle = max(0, (len(order) - size) // 2)
    chosen = {
        "The best": order[:size],
        "The middle": order[middle : middle + size],
        "The worst": order[-size:],
    }
    return [
        Gallery(name, tuple(case(records[index], report.samples[index]) for index in indices))
        for name, indices in chosen.items()
    ]


def page_sentence(page: PageReading) -> str:
    """What the scores of a page that was read say about it."""
    scores = page.scores
    if not scores.chars:
        return f"There is no true text to compare with; {len(normalize(page.prediction))} characters were read."
    # No share of right characters: the best alignment finds a good part of them in any text at all.
    return (
        f"The page holds {scores.chars:,} characters and {scores.words:,} words by {page.reference_source}. "
        f"The CER is {scores.cer:.2f} and the WER {scores.wer:.2f}: {describe_cer(scores.cer)}."
    )


def _page_context(page: PageReading) -> dict[str, object]:
    return {
        "page": page,
        "picture": picture(page.image, 900, 1200),
        "sentence": page_sentence(page),
        "spans": diff_spans(page.reference, page.prediction),
    }


def _grounding_rows(before: Grounding | None, after: Grounding) -> list[tuple[str, Interval | None, Interval, bool]]:
    """Rows of the table: name, before, after, and whether the row is a difference that must be below zero."""
    names = (
        ("model", "CER of the model", False),
        ("blank", "CER of the model given a blank page", False),
        ("constant", "CER of the best constant answer", False),
        ("model_minus_blank", "model − blank page", True),
        ("model_minus_constant", "model − best constant", True),
        ("nats_right", "nats per token, given the right page", False),
        ("nats_other", "nats per token, given another page", False),
        ("right_minus_other", "right page − another page", True),
    )
    return [(name, getattr(before, key) if before else None, getattr(after, key), gap) for key, name, gap in names]


def _grounding_plots(after: Grounding) -> list[object]:
    cer = [("the model", after.model), ("on a blank page", after.blank), ("best constant answer", after.constant)]
    nats = [("right page", after.nats_right), ("another page", after.nats_other)]
    return [
        interval_plot(cer, "character error rate (lower is better)", "grounding-cer"),
        interval_plot(nats, "nats per token of the true answer (lower is better)", "grounding-nats"),
    ]


def demo_page(report: DemoReport) -> str:
    """The HTML page. Raises `InputError` if metrics.jsonl cannot be read or holds no loss."""
    series = read_metrics(report.metrics)
    if "loss" not in series:
        raise InputError(f"{report.metrics}: holds no 'loss': is this a training run's metrics.jsonl?")
    reach = len(series["loss"].steps) // 100
    context = {
        "title": report.title,
        "report": report,
        "evaluation": report.evaluation,
        "conventions": CONVENTIONS,
        "grounding": report.grounding,
        "grounding_rows": _grounding_rows(report.grounding_before, report.grounding),
        "grounding_plots": _grounding_plots(report.grounding),
        "score_rows": score_rows(report.evaluation_before, report.evaluation),
        "loss": series["loss"],
        "eval_loss": series.get("eval_loss"),
        "reach": reach,
        "loss_plot": loss_plot(series, reach),
        "small_plots": small_plots(series, _SMALL_PLOTS, reach),
        "galleries": _galleries(report),
        "pages": [_page_context(page) for page in report.pages],
        "findings": findings(report.evaluation),
        "lengths": [(length_label(row), row) for row in by_length(report.evaluation)],
        "classes": by_class(report.evaluation),
        "tables": {"Settings": report.settings, "Versions": report.versions, "Machine": report.machine},
        "total_seconds": sum(step.seconds for step in report.steps),
    }
    return render("demo_report.html.jinja", context)


def write_demo_report(path: Path, report: DemoReport) -> Path:
    """Write `demo_page` to `path` and return it. Raises `ParsitError` if it cannot be written."""
    return write_whole(path, demo_page(report))
