"""How the verbs speak: lines and bars on stderr, results on stdout."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_EVERY_S = 10.0


def quiet_libraries() -> None:
    """Keep transformers' bars and notices out of Parsit's output; its errors still come."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains of a home that cannot be written to
    # DeepSpeed calls functions of torch that newer versions rename; nobody here can do anything about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # Where the home folder cannot be written it works all the same, from a temporary one, and says so in two lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import torch

    if not torch.cuda.is_available():
        # Where DeepSpeed is installed libraries ask it what to run on, and it guesses aloud.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def say(line: str) -> None:
    """One plain line on stderr."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(title: str, total: int, lines_in_pipe: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar with ETA on a terminal; in a pipe a line now and then, or nothing.

    Yields the function that moves it on by a number of items.
    """
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
        plain = _PlainProgress(title, total) if lines_in_pipe and not console.is_terminal else None

        def advance(count: int = 1) -> None:
            progress.advance(task, count)
            if plain is not None:
                plain.advance(count)

        yield advance


@contextmanager
def bars(title: str) -> Iterator[Callable[[Path, int, int], None]]:
    """A bar for each file as it is worked on; yields a function of (file, items done, items in the file)."""
    with ExitStack() as stack:
        current: dict[Path, Callable[[int], None]] = {}

        def advance(path: Path, done: int, total: int) -> None:
            if path not in current:
                stack.close()
                current.clear()
                current[path] = stack.enter_context(bar(f"{title} {path.name}", total))
            current[path](done)

        yield advance


class _PlainProgress:
    """Progress in a pipe: a line every `_PLAIN_EVERY_S` seconds with the time left; short work is done in silence."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.started = self.told = time.monotonic()

    def advance(self, count: int) -> None:
        """Count, and say so where it is time to."""
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.told >= _PLAIN_EVERY_S:
            self.told = now
            left = (self.total - self.done) * (now - self.started) / self.done
            say(f"{self.title}: {self.done}/{self.total}, ETA {left:.0f} s")
