"""Scores of a bench folder by olmOCR's own judge, which runs in an environment of its own.

The judge pins what it needs (and Playwright with a browser, to draw formulas), so it is not a dependency: its Python is
named, and `olmocr_judge.py` runs there. It sees a folder of links to the tests, the PDFs and each system's readings,
and writes nothing into the benchmark's folder. A system's score is olmOCR-bench's: the mean over the categories (the
files of tests) of the share of tests passed; intervals are drawn as its judge draws them, within each category, from a
fixed seed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import parsit.eval.olmocr_judge as driver
from parsit.scores import Interval, mean_interval, mean_of_means_interval
from parsit.types import InputError, ParsitError, UsageError

INSTALL = (
    "python -m venv judge && judge/bin/pip install 'olmocr[bench]==0.4.27' numpy, then --judge_python judge/bin/python"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, slots=True)
class SystemScores:
    """What the judge found of one system: whether each test (by its id) was passed, and why not."""

    name: str
    overall: Interval
    categories: dict[str, Interval]
    passed: dict[str, bool]
    why: dict[str, str]


@dataclass(frozen=True, slots=True)
class BenchScores:
    """All systems' scores; `tests` has the category, type, pdf and page of each test by its id."""

    judge: str
    tests: dict[str, dict[str, object]]
    systems: tuple[SystemScores, ...]

    def counts(self) -> dict[str, int]:
        """The number of tests of each category, in alphabetical order."""
        found = [str(test["category"]) for test in self.tests.values()]
        return {name: found.count(name) for name in sorted(set(found))}


def check_judge(python: str) -> None:
    """Raises `UsageError` if this Python does not start or has no olmocr."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import olmocr.bench.tests"], capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"--judge_python {python} does not start: {error}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(f"--judge_python {python} cannot import olmocr's judge ({said}): {INSTALL}")


def judge_folder(folder: Path, systems: Mapping[str, Path], python: str) -> BenchScores:
    """Have the judge score the systems on the benchmark in `folder`.

    Args:
        folder: in olmOCR-bench's layout, with pdfs/ and files of tests.
        systems: each system's name and its folder of Markdown.
        python: the judge's; see `check_judge`.

    Raises:
        InputError: no tests, or a system lacks pages.
        ParsitError: the judge failed; its last line is in the message.
    """
    tests = sorted(folder.glob("*.jsonl"))
    if not tests:
        raise InputError(f"{folder} has no .jsonl file of tests: is it in olmOCR-bench's layout?")
    with TemporaryDirectory(prefix="parsit-judge-") as name:
        linked = Path(name) / "bench"
        linked.mkdir()
        for target in (folder / "pdfs", *tests):
            (linked / target.name).symlink_to(target.resolve())
        for system, target in systems.items():
            (linked / system).symlink_to(target.resolve())
        heard = _run(linked, Path(name) / "results.json", python)
    for system, found in heard["systems"].items():
        if found["errors"]:
            first, *others = found["errors"]
            more = f" (and {len(others)} more)" if others else ""
            raise InputError(f"{systems[system]}: {first}{more}: the judge leaves this system out")
    scores = [_scores(system, heard["tests"], heard["systems"][system]) for system in systems]
    return BenchScores(f"olmocr {heard['version']}", heard["tests"], tuple(scores))


def _run(folder: Path, results: Path, python: str) -> dict:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    # -I: this package's folder, where the program lies, is not searched for the judge's modules.
    command = [python, "-I", str(driver.__file__), str(folder), str(results), *([program] if program else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode or not results.is_file():
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise ParsitError(f"olmOCR's judge failed (exit code {done.returncode}): {lines[-1] if lines else 'no output'}")
    return json.loads(results.read_text(encoding="utf-8"))


def _scores(name: str, tests: dict[str, dict[str, object]], found: dict) -> SystemScores:
    by_category: dict[str, list[float]] = {}
    for identifier, test in tests.items():
        by_category.setdefault(str(test["category"]), []).append(float(found["passed"].get(identifier, False)))
    categories = {category: mean_interval(values) for category, values in sorted(by_category.items())}
    overall = mean_of_means_interval(list(by_category.values()))
    return SystemScores(name, overall, categories, found["passed"], found["why"])
