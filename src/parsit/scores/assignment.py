"""The best one-to-one assignment of rows to columns, by shortest augmenting paths (Kuhn 1955, Munkres 1957).

Written here because the scores need it for some dozens of rows, which is no reason to depend on SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_assignment(merits: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column) with the largest sum of merits, in order of rows; the shorter side is assigned whole.

    `merits` is a rectangle of finite numbers; without rows or without columns there are no pairs.
    """
    if not merits or not merits[0]:
        return []
    if len(merits) > len(merits[0]):
        turned = best_assignment(list(zip(*merits, strict=True)))
        return sorted((row, column) for column, row in turned)
    row_of = _assign([[-merit for merit in row] for row in merits])
    return sorted((row, column) for column, row in enumerate(row_of) if row is not None)


def _assign(costs: list[list[float]]) -> list[int | None]:
    """For each column the row that it is given (at most as many rows as columns), at the lowest sum of costs."""
    columns = len(costs[0])
    row_price, column_price = [0.0] * len(costs), [0.0] * columns
    row_of: list[int | None] = [None] * columns
    for start in range(len(costs)):
        slack, came_from, seen = [math.inf] * columns, [-1] * columns, [False] * columns
        row: int | None = start
        column = -1
        while row is not None:
            if column >= 0:
                seen[column] = True
            last, column, step = column, -1, math.inf
            for other in range(columns):
                if not seen[other]:
                    reduced = costs[row][other] - row_price[row] - column_price[other]
                    if reduced < slack[other]:
                        slack[other], came_from[other] = reduced, last
                    if slack[other] < step:
                        step, column = slack[other], other
            row_price[start] += step
            for other in range(columns):
                if seen[other]:
                    held = row_of[other]
                    assert held is not None, "a column that was passed is held by a row"
                    row_price[held] += step
                    column_price[other] -= step
                else:
                    slack[other] -= step
            row = row_of[column]
        while column >= 0:
            before = came_from[column]
            row_of[column] = start if before < 0 else row_of[before]
            column = before
    return row_of
