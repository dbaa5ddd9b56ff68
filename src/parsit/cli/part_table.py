"""The table of what is trained: part, tensors, shapes, parameters, learning rate, number format.

Built from plain data, so that it says the same whole numbers however the weights are placed: where they are sharded,
the caller says how a parameter's whole shape is known (`ds_shape` under ZeRO-3, a DTensor's own shape under FSDP2).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn

    from parsit.config import TrainConfig
    from parsit.model import ParsitForConditionalGeneration
    from parsit.train.optimizer import Group

_TITLES = ("part", "tensors", "shapes", "trained", "parameters", "learning rate", "dtype")
_NUMBERS = (1, 3, 4, 5)  # columns that stand at the right


@dataclass(frozen=True, slots=True)
class PartRow:
    """One part in whole numbers.

    `shapes`: of its tensors. `trainable`, `total`: parameters. `learning_rates`: peaks, none where it is frozen.
    `dtypes`: formats in which its weights are kept.
    """

    part: str
    shapes: tuple[tuple[int, ...], ...]
    trainable: int
    total: int
    learning_rates: tuple[float, ...] = ()
    dtypes: tuple[str, ...] = ()


def part_rows(
    parts: Iterable[tuple[str, Mapping[str, nn.Parameter]]],
    groups: Sequence[Group],
    shape_of: Callable[[nn.Parameter], Sequence[int]] = lambda parameter: parameter.shape,
) -> list[PartRow]:
    """Rows for a model's parts.

    Args:
        parts: name and parameters of each part, each parameter in one part.
        groups: the optimizer's groups, for the learning rates.
        shape_of: a parameter's whole shape.
    """
    rates = {id(p): group.learning_rate for group in groups for p in group.parameters.values()}
    rows = []
    for name, parameters in parts:
        shapes = [tuple(shape_of(parameter)) for parameter in parameters.values()]
        trained = [
            math.prod(shape) for shape, p in zip(shapes, parameters.values(), strict=True) if p.requires_grad
        ]  # fmt: skip
        rows.append(
            PartRow(
                name,
                tuple(shapes),
                sum(trained),
                sum(map(math.prod, shapes)),
                tuple(sorted({rates[id(p)] for p in parameters.values() if id(p) in rates}, reverse=True)),
                tuple(sorted({str(p.dtype).removeprefix("torch.") for p in parameters.values()})),
            )
        )
    return rows


def parts_of(model: ParsitForConditionalGeneration) -> dict[str, dict[str, nn.Parameter]]:
    """The model's parameters by part and name, each tower's adapters as a part of their own."""
    from parsit.model.adapters import is_adapter

    parts: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = "projector" if name.startswith("mm_projector") else name.split(".")[0]
        parts.setdefault(part + (" adapters" if is_adapter(name) else ""), {})[name] = parameter
    return parts


def tell_parts(model: ParsitForConditionalGeneration, config: TrainConfig) -> None:
    """What is trained, part by part, on stderr: a table on a terminal, lines in a pipe. Before weights are sharded."""
    from parsit.train.checks import groups_of_run

    rows = part_rows(parts_of(model).items(), groups_of_run(model, config))
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(part_table(rows))
    else:
        for line in part_lines(rows):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def shape_summary(shapes: Sequence[Sequence[int]], kinds: int = 2) -> str:
    """`28 × 2048×2048, 28 × 1024×2048, …`: the shapes with the most parameters in all, and `…` for the others."""
    counts = Counter(tuple(shape) for shape in shapes)
    largest = sorted(counts, key=lambda shape: (-counts[shape] * math.prod(shape), shape))
    told = [
        (f"{counts[shape]} × " if counts[shape] > 1 else "") + ("×".join(map(str, shape)) or "scalar")
        for shape in largest[:kinds]
    ]
    return ", ".join(told + (["…"] if len(largest) > kinds else []))


def part_table(rows: Sequence[PartRow]) -> Table:
    """The rows and their sum, for a terminal."""
    table = Table()
    for number, title in enumerate(_TITLES):
        table.add_column(title, justify="right" if number in _NUMBERS else "left")
    for cells in map(_cells, rows):
        table.add_row(*cells)
    table.add_row(*_total(rows), style="bold")
    return table


def part_lines(rows: Sequence[PartRow]) -> list[str]:
    """The same as plain lines in columns, for a pipe or a file."""
    cells = [_TITLES, *map(_cells, rows), _total(rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(_TITLES))]
    return [
        "  ".join(
            cell.rjust(width) if number in _NUMBERS else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _cells(row: PartRow) -> tuple[str, ...]:
    rates = ", ".join(f"{rate:.1e}" for rate in row.learning_rates) if row.trainable else "frozen"
    return (
        row.part,
        f"{len(row.shapes):,}",
        shape_summary(row.shapes),
        f"{row.trainable:,}",
        f"{row.total:,}",
        rates,
        ", ".join(row.dtypes),
    )


def _total(rows: Sequence[PartRow]) -> tuple[str, ...]:
    tensors, trainable = sum(len(row.shapes) for row in rows), sum(row.trainable for row in rows)
    total = sum(row.total for row in rows)
    return ("total", f"{tensors:,}", "", f"{trainable:,}", f"{total:,}", f"{trainable / max(total, 1):.2%} trained", "")
