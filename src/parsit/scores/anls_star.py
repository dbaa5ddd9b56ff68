"""ANLS*: the similarity of an answer that is a tree of dictionaries, lists and texts.

Peer et al. 2024, "ANLS* - A Universal Document Processing Metric for Generative Large Language Models". A text scores
as in `anls`; a dictionary by its keys, missing ones and invented ones at 0; a list by the best assignment of its items;
a tuple in a reference holds alternatives, of which the best counts. The score is the sum over all leaves / their
number.

Two things differ from the `anls-star` package: a distance of exactly 0.5 scores 0, as in the paper's equation, where
the package gives 0.5; and a key that the reference lacks costs nothing if it holds nothing (null, "", [] or {}), where
the package counts its leaf as wrong. Edits are counted by rapidfuzz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from parsit.scores.assignment import best_assignment
from parsit.scores.text import anls

Tree: TypeAlias = "str | int | float | bool | list[Tree] | tuple[Tree, ...] | dict[str, Tree] | None"

NOTHING: tuple[Tree, ...] = (None, "", [], {})
# What breaks ties in favour of an item that equals its reference; far below the smallest difference of two scores.
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class _Sum:
    """The scores of some leaves and how many leaves there are."""

    score: float
    leaves: int

    @property
    def mean(self) -> float:
        return self.score / self.leaves if self.leaves else 1.0

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(self.score + other.score, self.leaves + other.leaves)


def anls_star(reference: Tree, prediction: Tree) -> float:
    """The similarity, from 0 to 1; two empty trees score 1.

    Args:
        reference: the true answer; a tuple anywhere in it holds alternatives.
        prediction: the answer, without tuples.

    Raises:
        ValueError: `prediction` holds a tuple, or `reference` one without alternatives.
    """
    return _compare(reference, prediction).mean


def _compare(reference: Tree, prediction: Tree) -> _Sum:
    if isinstance(prediction, tuple):
        raise ValueError("a tuple stands for alternatives, which only a reference can have: use a list")
    if isinstance(reference, tuple):
        if not reference:
            raise ValueError("an empty tuple in the reference: it would hold alternatives")
        sums = [(_compare(one, prediction), one == prediction) for one in reference]
        return max(sums, key=lambda pair: (pair[0].mean, pair[1]))[0]
    if isinstance(reference, dict) and isinstance(prediction, dict):
        return _dictionaries(reference, prediction)
    if isinstance(reference, list) and isinstance(prediction, list):
        return _lists(reference, prediction)
    if reference is None and prediction in NOTHING:
        return _Sum(1.0, 1)
    if isinstance(reference, str | int | float) and isinstance(prediction, str | int | float):
        return _Sum(anls(_plain(reference), _plain(prediction)), 1)
    return _Sum(0.0, max(_leaves(reference), _leaves(prediction)))


def _dictionaries(reference: dict[str, Tree], prediction: dict[str, Tree]) -> _Sum:
    total = _Sum(0.0, 0)
    for key in [
        *reference,
        *(key for key, value in prediction.items() if key not in reference and value not in NOTHING),
    ]:
        total += _compare(reference.get(key), prediction.get(key))
    return total


def _lists(reference: Sequence[Tree], prediction: Sequence[Tree]) -> _Sum:
    sums = [[_compare(one, other) for other in prediction] for one in reference]
    merits = [
        [found.mean + _EQUAL * (one == other) for found, other in zip(row, prediction, strict=True)]
        for row, one in zip(sums, reference, strict=True)
    ]
    pairs = best_assignment(merits)
    total = sum((sums[row][column] for row, column in pairs), start=_Sum(0.0, 0))
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    alone = [one for row, one in enumerate(reference) if row not in rows]
    alone += [one for column, one in enumerate(prediction) if column not in columns]
    return total + _Sum(0.0, sum(map(_leaves, alone)))


def _leaves(tree: Tree) -> int:
    """How many leaves a tree has; of alternatives, the one with the most."""
    if isinstance(tree, dict):
        return sum(map(_leaves, tree.values()))
    if isinstance(tree, list):
        return sum(map(_leaves, tree))
    if isinstance(tree, tuple):
        return max(map(_leaves, tree))
    return 1


def _plain(leaf: str | int | float) -> str:
    """A leaf as text with each run of whitespace one space; `anls` ignores case."""
    return " ".join(str(leaf).split())
