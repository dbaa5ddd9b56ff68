"""A data set in numbers: lengths, tiles, what is learnt, and how full packs and padded batches would be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parsit.data.dataset import DataSet, SampleStore
from parsit.data.plan import Packed, Padded
from parsit.eval.html import render
from parsit.eval.plots import length_histogram

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Spread:
    """Total, mean, the percentiles of `PERCENTILES`, and the largest of some counts."""

    total: int
    mean: float
    percentiles: tuple[int, ...]
    largest: int

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """Compute the spread of some numbers; of none it is 0."""
        if not len(values):
            return cls(0, 0.0, (0,) * len(PERCENTILES), 0)
        percentiles = tuple(int(value) for value in np.percentile(values, PERCENTILES, method="higher"))
        return cls(int(values.sum()), float(values.mean()), percentiles, int(values.max()))


@dataclass(frozen=True)
class SetStats:
    """One data set.

    `fill_packed`: share of a row of `max_tokens` that packs fill; `fill_padded`: share of a padded batch of
    `batch_size` samples that is not padding. `unit`: what `tiles` counts, see `DataSet`.
    """

    name: str
    records: int
    samples: int
    with_images: int
    images: int
    tokens: Spread
    learnt: Spread
    tiles: Spread
    fill_packed: float
    fill_padded: float
    packs: int
    set_aside: dict[str, int]
    unit: str = "tiles"

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return asdict(self)


def stats_of(name: str, data: DataSet, max_tokens: int, batch_size: int) -> SetStats:
    """The numbers of one data set whose samples lie on disk."""
    store = data.samples
    assert isinstance(store, SampleStore)
    images = column(store, "num_images")
    packed = Packed(data.num_tokens, data.num_tiles, max_tokens) if len(data) else None
    batches = Padded(data.num_tokens, data.num_tiles, batch_size).epoch(0) if len(data) else []
    positions = sum(int(data.num_tokens[batch].max()) * len(batch) for batch in batches)
    return SetStats(
        name=name,
        records=data.num_records,
        samples=len(data),
        with_images=int((images > 0).sum()),
        images=int(images.sum()),
        tokens=Spread.of(data.num_tokens),
        learnt=Spread.of(column(store, "num_supervised")),
        tiles=Spread.of(data.num_tiles),
        fill_packed=packed.fill if packed else 0.0,
        fill_padded=int(data.num_tokens.sum()) / max(1, positions),
        packs=len(packed) if packed else 0,
        set_aside=dict(Counter(data.set_aside)),
        unit=data.unit,
    )


def column(store: SampleStore, name: str) -> np.ndarray:
    """One column of the index for each sample of a store."""
    values = np.zeros(len(store), np.int64)
    for number, file in enumerate(store.files):
        mine = store.file_numbers == number
        values[mine] = file.column(name)[store.rows[mine]]
    return values


def page(title: str, sets: Sequence[tuple[SetStats, DataSet]], notes: Sequence[str]) -> str:
    """The HTML page: a table of all sets, and for each a plot of its lengths and tiles."""
    plots = [
        (stats.name, length_histogram(data.num_tokens, data.num_tiles, f"set{number}", data.unit))
        for number, (stats, data) in enumerate(sets)
        if len(data)
    ]
    context = {"title": title, "sets": [stats for stats, _ in sets], "plots": plots, "notes": notes}
    return render("data_stats.html.jinja", {**context, "percentiles": PERCENTILES})
