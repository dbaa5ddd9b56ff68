"""Spans: half-open intervals of rows or columns, as (start, end) in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

Span = tuple[int, int]
Flags = Any  # bool[n]; numpy's stubs type `mask.any(axis=0)` as array or scalar


def runs(flags: Flags, *, join: float = 0) -> list[Span]:
    """Spans of True in bool[n]; gaps narrower than `join` do not part them."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])))).tolist()
    spans: list[Span] = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if spans and start - spans[-1][1] < join:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def extent(flags: Flags) -> Span:
    """From the first True to behind the last; (0, 0) if there is none."""
    where = np.flatnonzero(flags)
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)


def overlaps(first: list[Span], second: list[Span], min_length: float) -> list[Span]:
    """The parts, at least `min_length` long, that spans of both lists share."""
    shared = [(max(a, c), min(b, d)) for a, b in first for c, d in second]
    return [span for span in shared if length(span) >= min_length]


def length(span: Span) -> int:
    """How many rows or columns a span has."""
    return span[1] - span[0]
