"""How the verbs speak: lines and bars on stderr, results on stdout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from parsit.train.parts import PartReport


def quiet_libraries() -> None:
    """Keep transformers' bars and notices out of Parsit's output; its errors still come."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def say(line: str) -> None:
    """One plain line on stderr."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with ETA on a terminal; in a pipe one line at the end. Yields the function that advances it."""
    console = Console(stderr=True)
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        "ETA",
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
    if not console.is_terminal:
        say(f"{title}: {total} done")


def tell_parts(reports: Sequence[PartReport]) -> None:
    """A table of what is trained."""
    table = Table("part", "tensors", "parameters", "trained")
    for report in reports:
        table.add_row(report.name, f"{report.tensors:,}", f"{report.parameters:,}", f"{report.trainable:,}")
    total = sum(report.parameters for report in reports)
    table.add_row("total", "", f"{total:,}", f"{sum(report.trainable for report in reports):,}", style="bold")
    Console(stderr=True).print(table)
