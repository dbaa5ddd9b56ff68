"""`PageScores`: what one answer is worth as a page or a form, where its reference has tables, blocks or fields."""

from __future__ import annotations

import json
from dataclasses import dataclass

from parsit.scores.anls_star import Tree, anls_star
from parsit.scores.fields import FieldCounts, count_fields
from parsit.scores.invented import invented_words
from parsit.scores.order import blocks, reading_order_distance
from parsit.scores.tables import tables
from parsit.scores.teds import page_tables_similarity


@dataclass(frozen=True, slots=True)
class PageScores:
    """Scores of one answer; None where the score does not apply to its reference.

    `invented_words` of the answer's `words` are not on the page. `teds` and `teds_structure` (merits) are over the
    tables of reference and answer, and apply where either has one. `reading_order` (an error) applies where the
    reference has two blocks or more. `fields` and `anls_star` (merits) apply where the reference is a JSON object; an
    answer that is no JSON then has no field.
    """

    invented_words: int
    words: int
    teds: float | None = None
    teds_structure: float | None = None
    reading_order: float | None = None
    fields: FieldCounts | None = None
    anls_star: float | None = None

    @property
    def invented_share(self) -> float:
        """Invented words / words; 0 for an empty answer."""
        return self.invented_words / self.words if self.words else 0.0


def score_page(reference: str, prediction: str) -> PageScores:
    """All scores that apply. Raises `UsageError` if there are tables to compare and the package `apted` is missing."""
    invented, words = invented_words(reference, prediction)
    true = json_object(reference)
    if true is not None:
        given = json_object(prediction)
        merit = 0.0 if given is None else anls_star(true, given)
        return PageScores(invented, words, fields=count_fields(true, given or {}), anls_star=merit)
    true_blocks = blocks(reference)
    order = reading_order_distance(true_blocks, blocks(prediction)) if len(true_blocks) > 1 else None
    true_tables, given_tables = tables(reference), tables(prediction)
    if not true_tables and not given_tables:
        return PageScores(invented, words, reading_order=order)
    return PageScores(
        invented,
        words,
        teds=page_tables_similarity(true_tables, given_tables),
        teds_structure=page_tables_similarity(true_tables, given_tables, structure_only=True),
        reading_order=order,
    )


def json_object(text: str) -> dict[str, Tree] | None:
    """The JSON object that a text is, or None if it is none."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
