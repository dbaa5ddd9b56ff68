"""TEDS: tree edit distance based similarity of two tables; TEDS-S looks at their structure alone.

Zhong et al. 2020, "Image-based table recognition: data, model, and evaluation" (PubTabNet): 1 - edits / elements of the
larger table. Inserting or deleting an element costs 1, changing its tag or span 1, changing a cell's content the
normalised edit distance of its tokens. The distance is APTED's (Pawlik and Augsten 2016), by the package `apted`.

What differs from the published function is stated and tested: a `th` is a cell with content (there only `td` is), and
markup inside a cell is content alone (there it also counts as an element when the sizes are compared). The package
table_recognition_metric counts the table itself as an element as well, so its scores are a little higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from parsit.scores.assignment import best_assignment
from parsit.scores.tables import TableNode, html_table
from parsit.types import UsageError


def teds(reference: str, prediction: str, *, structure_only: bool = False) -> float:
    """The similarity of the first table in each HTML, from 0 to 1; 0 where the prediction has none.

    Raises:
        ValueError: `reference` has no table.
        UsageError: the package `apted` is missing.
    """
    true, given = html_table(reference), html_table(prediction)
    if true is None:
        raise ValueError("the reference has no <table>")
    return 0.0 if given is None else table_similarity(true, given, structure_only=structure_only)


def table_similarity(reference: TableNode, prediction: TableNode, *, structure_only: bool = False) -> float:
    """TEDS (or TEDS-S) of two trees; two tables without any element are equal. Raises `UsageError` as `teds`."""
    if reference == prediction:
        return 1.0
    larger = max(reference.size(), prediction.size())
    return 1.0 - _distance(reference, prediction, structure_only) / larger if larger else 1.0


def page_tables_similarity(
    reference: Sequence[TableNode], prediction: Sequence[TableNode], *, structure_only: bool = False
) -> float:
    """The tables of a page, paired as they fit best: sum of TEDS / tables of the side that has more.

    A table that was not found scores 0, and so does one that is not on the page. Raises `UsageError` as `teds`.
    """
    most = max(len(reference), len(prediction))
    if not most:
        return 1.0
    found = [[table_similarity(one, other, structure_only=structure_only) for other in prediction] for one in reference]
    return sum(found[row][column] for row, column in best_assignment(found)) / most


def require_apted() -> None:
    """Raises `UsageError` if the package `apted` is missing."""
    try:
        import apted  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError("scores of tables need apted, which is not installed: pip install 'parsit[scores]'") from error


def _distance(reference: TableNode, prediction: TableNode, structure_only: bool) -> float:
    require_apted()
    from apted import APTED, Config

    class Costs(Config):
        """Costs of PubTabNet's TEDS; inserting and deleting cost 1, as by default."""

        def rename(self, node1: TableNode, node2: TableNode) -> float:  # type: ignore[override]  (any number)
            return _rename(node1, node2, structure_only)

        def children(self, node: TableNode) -> list[Any]:
            return node.children

    return APTED(reference, prediction, Costs()).compute_edit_distance()


def _rename(one: TableNode, other: TableNode, structure_only: bool) -> float:
    if (one.tag, one.colspan, one.rowspan) != (other.tag, other.colspan, other.rowspan):
        return 1.0
    return 0.0 if structure_only else Levenshtein.normalized_distance(one.content, other.content)
