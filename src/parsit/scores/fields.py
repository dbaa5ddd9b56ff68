"""Key-value F1: fields that were read right, of those that stand there and of those that were given.

A document's fields are taken apart into (path of keys, value); places in a list do not count, as the order of line
items is no key. Every field of the reference is met once at most, so what is given twice is wrong once. These are the
counts behind the F1 of Kim et al. 2022, "OCR-free Document Understanding Transformer" (Donut), which sums them over all
samples.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from parsit.scores.anls_star import Tree
from parsit.scores.text import normalize

Field = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class FieldCounts:
    """Fields that are right, that the reference has, and that the prediction has; sums over samples add up."""

    right: int
    reference: int
    prediction: int

    @property
    def precision(self) -> float:
        """Share of the given fields that are right; 1 if none was given and none is there, else 0."""
        return self.right / self.prediction if self.prediction else float(not self.reference)

    @property
    def recall(self) -> float:
        """Share of the reference's fields that were given; 1 if there are none and none was given, else 0."""
        return self.right / self.reference if self.reference else float(not self.prediction)

    @property
    def f1(self) -> float:
        """The harmonic mean of both: 2 · right / (reference + prediction); 1 if there are no fields at all."""
        both = self.reference + self.prediction
        return 2 * self.right / both if both else 1.0


def count_fields(reference: Tree, prediction: Tree) -> FieldCounts:
    """Compare two trees of fields (JSON); values are compared as normalised texts, null and "" are no field."""
    true, given = _fields(reference), _fields(prediction)
    return FieldCounts((true & given).total(), true.total(), given.total())


def _fields(tree: Tree, path: tuple[str, ...] = ()) -> Counter[Field]:
    if isinstance(tree, dict):
        return sum((_fields(value, (*path, key)) for key, value in tree.items()), start=Counter())
    if isinstance(tree, list | tuple):
        return sum((_fields(value, path) for value in tree), start=Counter())
    text = "" if tree is None else normalize(str(tree))
    return Counter({(path, text): 1} if text else {})
