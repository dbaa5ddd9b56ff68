"""Runs of a pile that are killed (SIGKILL), in processes that are forked, at random file operations of the run."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

from parsit.scale import store as store_module
from parsit.scale.drawing import Drawing
from parsit.scale.inputs import sources_of
from parsit.scale.reading import PileReader
from parsit.scale.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from kill_support import forked, on_operations


def run(engine, pile: Path, out: Path, reading_set, part_records: int) -> None:
    """Read a pile, with parts that are small enough for a kill to fall among them."""
    usual, store_module.FLUSH_RECORDS = store_module.FLUSH_RECORDS, part_records
    try:
        with PileReader(engine, Store(out, reading_set), Drawing(dpi=72.0), 1) as reader:
            reader.read(sources_of([str(pile)]))
    finally:
        store_module.FLUSH_RECORDS = usual


def killed_runs(work, kills: int, seed: int, within: int) -> int:
    """Kill so many runs of `work` at one of their next operations; gives how many ended before it came to that."""
    rng = random.Random(seed)
    finished = 0
    for _ in range(kills):
        left = rng.randrange(within)

        def count(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        status = forked(lambda: on_operations(work, count))
        assert status in (0, -signal.SIGKILL)
        finished += status == 0
    return finished
