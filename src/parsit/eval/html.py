"""What the two pages share: the templates, how numbers are written, and a case with its differences.

A page is one file without scripts or outside resources; its content security policy forbids both.
Everything that comes from a model or a data set is escaped, and characters that would be invisible
or turn the text around are spelled out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from parsit.eval.diff import Edit, diff_spans, visible
from parsit.eval.evaluation import Evaluation, Record
from parsit.eval.pictures import Picture, picture
from parsit.scores import Interval
from parsit.types import Sample

# (field of ScoreSummary, its name on a page, which way is better)
SCORES = (
    ("cer", "CER, all characters", "lower"),
    ("cer_mean", "CER, mean of samples", "lower"),
    ("wer", "WER, all words", "lower"),
    ("wer_mean", "WER, mean of samples", "lower"),
    ("normalized_edit_distance", "normalised edit distance", "lower"),
    ("exact_match", "exact match", "higher"),
    ("anls", "ANLS", "higher"),
)

# The same for the fields of PageSummary, which apply to some samples only.
PAGE_SCORES = (
    ("invented", "words that are not on the page", "lower"),
    ("teds", "TEDS, tables", "higher"),
    ("teds_structure", "TEDS-S, structure of tables", "higher"),
    ("reading_order", "reading order, edit distance", "lower"),
    ("field_f1", "F1 of fields", "higher"),
    ("anls_star", "ANLS*", "higher"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One sample on a page: its record, its images (the first few) and the differences."""

    record: Record
    pictures: tuple[Picture, ...]
    more_pictures: int
    spans: tuple[Edit, ...]


def number(value: float) -> str:
    """Three decimals with a true minus sign."""
    return f"{value:.3f}".replace("-", "−")


def interval(value: Interval) -> Markup:
    """The value, and smaller beside it its range."""
    return Markup('<span class="value">{}</span> <span class="range">{} to {}</span>').format(
        number(value.value), number(value.low), number(value.high)
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parsit.eval", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, interval=interval, number=number)
    return environment


def render(template: str, context: Mapping[str, object]) -> str:
    """The page that `template` (a file in templates/) makes of `context`."""
    return _environment().get_template(template).render(context)


def case(record: Record, sample: Sample, width: int = 640, height: int = 360, shown: int = 2) -> Case:
    """One record ready to be shown, with at most `shown` images of at most `width` × `height` pixels."""
    pictures = tuple(picture(image, width, height) for image in sample.images[:shown])
    spans = diff_spans(record.reference, record.prediction or "")
    return Case(record, pictures, max(0, len(sample.images) - shown), spans)


def score_rows(
    *evaluations: Evaluation | None,
) -> Sequence[tuple[str, str, Sequence[tuple[Interval, Interval] | None]]]:
    """For each score its name, the better direction and (normalised, raw) of each evaluation."""
    return [
        (
            name,
            better,
            [
                (getattr(run.summary.normalized, field), getattr(run.summary.raw, field)) if run else None
                for run in evaluations
            ],
        )
        for field, name, better in SCORES
    ]


def page_score_rows(evaluation: Evaluation) -> Sequence[tuple[str, str, Interval]]:
    """Name, better direction and value of each score of pages that applies to a sample."""
    found = [(name, better, getattr(evaluation.summary.page, field)) for field, name, better in PAGE_SCORES]
    return [row for row in found if row[2] is not None]
