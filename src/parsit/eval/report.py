"""The page of the worst cases: what goes wrong, seen beside the image it went wrong on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from parsit.eval.evaluation import CONVENTIONS, Evaluation, Record
from parsit.eval.html import case, page_score_rows, render, score_rows
from parsit.eval.plots import cer_histogram
from parsit.files import write_whole
from parsit.types import Sample

# Failures are listed by their reason; beyond this many the page gives the number of those left out.
_MAX_FAILURES = 50


def worst_records(evaluation: Evaluation, count: int) -> list[int]:
    """Indices of the predicted records with the highest CER that have an edit; ties by more edits, then by order."""

    def badness(index: int) -> tuple[float, int, int]:
        scores = evaluation.records[index].scores
        return -scores.cer, -scores.char_edits, index

    wrong = [i for i, r in enumerate(evaluation.records) if r.error is None and r.scores.char_edits]
    return sorted(wrong, key=badness)[:count]


def worst_cases_page(
    evaluation: Evaluation,
    samples: Sequence[Sample],
    *,
    title: str,
    worst: int = 50,
    about: Mapping[str, object] | None = None,
) -> str:
    """The HTML page: summary, histogram, failures and the `worst` cases with their images.

    `samples` are those that were evaluated, in the same order. `about` is a list of facts to show
    (model, data set, versions).
    """
    pairs = list(zip(evaluation.records, samples, strict=True))
    failures: list[Record] = [record for record in evaluation.records if record.error is not None]
    context = {
        "title": title,
        "about": dict(about or {}),
        "evaluation": evaluation,
        "summary": evaluation.summary,
        "rows": score_rows(evaluation),
        "page_rows": page_score_rows(evaluation),
        "conventions": CONVENTIONS,
        "histogram": cer_histogram([record.scores.cer for record in evaluation.records]),
        "failures": failures[:_MAX_FAILURES],
        "failures_left_out": max(0, len(failures) - _MAX_FAILURES),
        "cases": [case(*pairs[index]) for index in worst_records(evaluation, worst)],
        "wrong": sum(record.error is None and record.scores.char_edits > 0 for record in evaluation.records),
    }
    return render("worst_cases.html.jinja", context)


def write_worst_cases(
    path: Path,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    *,
    title: str,
    worst: int = 50,
    about: Mapping[str, object] | None = None,
) -> Path:
    """Write `worst_cases_page` to `path` and return it. Raises `ParsitError` if it cannot be written."""
    return write_whole(path, worst_cases_page(evaluation, samples, title=title, worst=worst, about=about))
