"""Trackers: where a run's numbers go besides metrics.jsonl.

W&B, TensorBoard, trackio or MLflow, behind one protocol; rank 0 alone has one. A resumed run goes on as the same run.
TensorBoard forgets what was written beyond the checkpoint; the others cannot, so a step that they were told once is
not told again: where a run went beyond its checkpoint before it was stopped, they keep those steps as they were first.
`tracker.json` in the run's folder remembers which run it is there, and how far it was told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from parsit.train.parts import PartReport
from parsit.train.trackers.common import Silent
from parsit.train.trackers.mlflow import Mlflow
from parsit.train.trackers.tensorboard import TensorBoard
from parsit.train.trackers.trackio import Trackio
from parsit.train.trackers.wandb import Wandb
from parsit.types import UsageError


class Tracker(Protocol):
    """A service to which a run reports its numbers."""

    def start(self, config: Mapping[str, object], parts: Sequence[PartReport]) -> None:
        """Begin the run, or go on with it: the resolved configuration, and what is trained."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step (from 1); steps come in order."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Words that belong to a step, such as sample generations, as they are."""
        ...

    def finish(self, failed: bool = False) -> None:
        """End the run; nothing may be reported after it."""
        ...


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def tracker(
    report_to: str, output_dir: Path, run_name: str | None, first_step: int, say: Callable[[str], None] = _print
) -> Tracker:
    """The tracker of that name.

    Args:
        report_to: wandb, tensorboard, trackio, mlflow or none.
        output_dir: the run's folder; what a tracker keeps on this machine lies in it (trackio: in trackio's own).
        run_name: what the run is called there; None: as `output_dir` is.
        first_step: steps done already; above 0 the run that `output_dir` remembers goes on.
        say: is told where to look.

    Raises:
        UsageError: no tracker of that name.
        ParsitError: its package is not installed, in one line with the command that installs it.
    """
    kinds: dict[str, type[Silent]] = {
        "none": Silent,
        "tensorboard": TensorBoard,
        "wandb": Wandb,
        "trackio": Trackio,
        "mlflow": Mlflow,
    }
    if report_to not in kinds:
        raise UsageError(f"--report_to {report_to}: no such tracker (known: {', '.join(kinds)})")
    return kinds[report_to](output_dir, run_name or output_dir.resolve().name, first_step, say)


__all__ = ["Tracker", "tracker"]
