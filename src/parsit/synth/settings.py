"""The settings of one `parsit data synth` run, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parsit.synth.content import DEFAULT_KINDS, check_kinds
from parsit.synth.crops import CUTS, Cut
from parsit.synth.degrade import Degrade
from parsit.synth.split import Fractions
from parsit.types import UsageError

Unit = Literal["page", "line"]
Task = Literal["read", "fields", "qa"]
TASKS: tuple[Task, ...] = ("read", "fields", "qa")
MIN_FRACTION = 0.01
MIN_DPI, MAX_DPI = 40, 400


@dataclass(frozen=True, slots=True)
class SynthSettings:
    """What to make: `dpi` from the lowest to the highest, `fonts` in folders; the other names are the options'."""

    out: Path
    pages: int
    seed: int = 0
    kinds: tuple[str, ...] = DEFAULT_KINDS
    unit: Unit = "page"
    tasks: tuple[Task, ...] = TASKS
    dpi: tuple[int, int] = (96, 200)
    degrade: Degrade = "full"
    cut: Cut = "words"
    max_chars: int = 24
    glyphs: bool = False
    fonts: tuple[str, ...] = ()
    omnidocbench: bool = False
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    workers: int = 1
    overwrite: bool = False

    @property
    def fractions(self) -> Fractions:
        """The sizes of the splits."""
        return Fractions(self.validation_fraction, self.test_fraction)

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            UsageError: the first setting that cannot be used, by its option's name.
        """
        check_kinds(self.kinds)
        low, high = self.dpi
        fractions = (self.validation_fraction, self.test_fraction)
        unknown = [task for task in self.tasks if task not in TASKS]
        problems = (
            (self.pages < 1, f"--pages must be at least 1, not {self.pages}"),
            (self.seed < 0, f"--seed must not be negative, but is {self.seed}"),
            (self.workers < 1, f"--workers must be at least 1, not {self.workers}"),
            (self.cut not in CUTS, f"--cut must be one of {', '.join(CUTS)}, not {self.cut!r}"),
            (self.max_chars < 1, f"--max_chars must be at least 1, not {self.max_chars}"),
            (bool(unknown), f"--tasks: unknown task {unknown[:1]} (known: {', '.join(TASKS)})"),
            (
                self.omnidocbench and self.unit != "page",
                "--omnidocbench is the truth of whole pages: leave --unit line out",
            ),
            (not self.tasks, f"--tasks needs one or more of {', '.join(TASKS)}"),
            (
                not MIN_DPI <= low <= high <= MAX_DPI,
                f"--dpi must be LOW-HIGH within {MIN_DPI}-{MAX_DPI}, not {low}-{high}",
            ),
            (
                any(share != 0 and not MIN_FRACTION <= share <= 0.5 for share in fractions) or sum(fractions) > 0.9,
                f"--validation_fraction and --test_fraction must be 0 or {MIN_FRACTION} to 0.5, at most 0.9 together",
            ),
        )
        for wrong, message in problems:
            if wrong:
                raise UsageError(message)
