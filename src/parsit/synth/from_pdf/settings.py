"""The settings of one `parsit data from-pdf` run, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parsit.synth.degrade import LEVELS, Degrade
from parsit.synth.settings import MAX_DPI, MIN_DPI, MIN_FRACTION, Unit
from parsit.synth.split import Fractions
from parsit.types import InputError, UsageError


@dataclass(frozen=True, slots=True)
class FromPdfSettings:
    """What to take from where.

    Args:
        folder: PDFs, in folders of any depth.
        out: the data set to make.
        dpi: lowest and highest resolution; one is drawn for each page.
        pages_per_pdf: at most so many pages of one PDF, chosen by the seed; None: all.
        unit: whole pages, or crops of their lines as `parsit parse` cuts them.
        degrade: with `unit` line, the scanner damage of each crop.
        glyphs: write every character's box; crops always have them.
        min_quality: pages below are refused; 0 to 1.
        allow_scanned: take scans with a text layer, too.
        timeout_s: seconds that opening a PDF, or one page of it, may take.
    """

    folder: Path
    out: Path
    dpi: tuple[int, int] = (96, 200)
    pages_per_pdf: int | None = None
    unit: Unit = "page"
    degrade: Degrade = "none"
    glyphs: bool = False
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    seed: int = 0
    workers: int = 1
    min_quality: float = 0.0
    allow_scanned: bool = False
    overwrite: bool = False
    timeout_s: float = 60.0

    @property
    def fractions(self) -> Fractions:
        """The sizes of the splits."""
        return Fractions(self.validation_fraction, self.test_fraction)

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: the first setting that cannot be used, by its option's name.
            InputError: there is no such folder.
        """
        low, high = self.dpi
        shares = (self.validation_fraction, self.test_fraction)
        problems = (
            (
                not MIN_DPI <= low <= high <= MAX_DPI,
                f"--dpi must be LOW-HIGH within {MIN_DPI}-{MAX_DPI}, not {low}-{high}",
            ),
            (self.pages_per_pdf is not None and self.pages_per_pdf < 1, "--pages_per_pdf must be at least 1"),
            (
                any(share != 0 and not MIN_FRACTION <= share <= 0.5 for share in shares) or sum(shares) > 0.9,
                f"--validation_fraction and --test_fraction must be 0 or {MIN_FRACTION} to 0.5, at most 0.9 together",
            ),
            (self.unit not in ("page", "line"), f"--unit must be page or line, not {self.unit!r}"),
            (self.degrade not in LEVELS, f"--degrade must be one of {', '.join(LEVELS)}, not {self.degrade!r}"),
            (self.unit == "page" and self.degrade != "none", "--degrade is for --unit line: pages are kept as drawn"),
            (self.seed < 0, f"--seed must not be negative, but is {self.seed}"),
            (self.workers < 1, f"--workers must be at least 1, not {self.workers}"),
            (not 0 <= self.min_quality <= 1, f"--min_quality must be 0 to 1, not {self.min_quality:g}"),
        )
        for wrong, message in problems:
            if wrong:
                raise UsageError(message)
        if self.folder.is_file():
            raise InputError(f"{self.folder}: is a file; name the folder that it lies in")
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder")
