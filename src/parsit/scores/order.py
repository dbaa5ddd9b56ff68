"""Reading order: whether the blocks of a page come in the order in which one reads them.

A block is what empty lines set apart (a table or formula is one, too). Blocks of the reference and of the prediction
are paired by their texts, so a misread word is no error here; then the order in which the pairs come is compared. The
score is the edit distance of the two orders / the length of the longer one, as OmniDocBench's reading order, except
that a block that was not found, and one that is not on the page, are errors: there such blocks are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from parsit.scores.assignment import best_assignment
from parsit.scores.text import normalize

# Two blocks are the same one if less than half of the longer is edited, as for ANLS.
LEAST_SIMILARITY = 0.5


def blocks(text: str) -> list[str]:
    """The blocks of a page's Markdown or plain text, normalised, without those that are empty."""
    return [block for block in map(normalize, re.split(r"\n[^\S\n]*\n", text)) if block]


def pair_blocks(reference: Sequence[str], prediction: Sequence[str]) -> dict[int, int]:
    """Which block of `reference` (its place) is which of `prediction`: the pairing with the most text in common."""
    if not reference or not prediction:
        return {}
    similar = process.cdist(reference, prediction, scorer=Levenshtein.normalized_similarity).tolist()
    weighed = [
        [len(block) * value if value > LEAST_SIMILARITY else 0.0 for value in row]
        for block, row in zip(reference, similar, strict=True)
    ]
    return {row: column for row, column in best_assignment(weighed) if weighed[row][column]}


def reading_order_distance(reference: Sequence[str], prediction: Sequence[str]) -> float:
    """From 0 (all blocks, in order, and no others) to 1; 0 where neither has a block.

    `reference` and `prediction` are blocks in order; see `blocks`.
    """
    found = {column: row for row, column in pair_blocks(reference, prediction).items()}
    # A block that is not on the page has a name that no block of the reference has.
    order = [found.get(column, -1 - column) for column in range(len(prediction))]
    return Levenshtein.normalized_distance(range(len(reference)), order)
