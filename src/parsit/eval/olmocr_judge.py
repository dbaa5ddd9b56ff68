"""Runs olmOCR's own judge and writes down what it decided about each test; it is run by the judge's Python.

    JUDGE_PYTHON olmocr_judge.py FOLDER RESULTS [CHROMIUM]

FOLDER is in olmOCR-bench's layout. The judge prints its summary; RESULTS (JSON) gets what the summary is made of:
    {"version", "tests": {ID: {"category", "type", "pdf", "page"}},
     "systems": {NAME: {"errors": […], "passed": {ID: true | false}, "why": {ID: reason}}}}

The judge itself is not changed: its two functions that load tests and score a folder are listened to. Playwright is
given the browser CHROMIUM where it has none of its own.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def use_chromium(program: str) -> None:
    """Let Playwright start this program instead of the browser that it would download."""
    from playwright.sync_api import BrowserType  # type: ignore[import-not-found]

    launch = BrowserType.launch

    def launch_program(self: Any, **options: Any) -> Any:
        return launch(self, **{"executable_path": program, **options})

    BrowserType.launch = launch_program


def main() -> None:
    """Listen to the judge while it works; its exit code is this program's."""
    folder, results, *chromium = sys.argv[1:]
    if chromium:
        use_chromium(chromium[0])
    from olmocr.bench import benchmark  # type: ignore[import-not-found]

    heard: dict[str, Any] = {"version": version("olmocr"), "tests": {}, "systems": {}}
    load, evaluate = benchmark.load_tests, benchmark.evaluate_candidate
    categories: dict[str, str] = {}

    def load_tests(path: str) -> Any:
        tests = load(path)
        categories.update({test.id: Path(path).stem for test in tests})
        return tests

    def evaluate_candidate(candidate: str, tests: Any, *rest: Any, **options: Any) -> Any:
        found = evaluate(candidate, tests, *rest, **options)
        for test in tests:
            category = categories.get(test.id, "baseline")
            heard["tests"][test.id] = {"category": category, "type": test.type, "pdf": test.pdf, "page": test.page}
        outcomes = [one for pages in found[6].values() for page in pages.values() for one in page]
        heard["systems"][Path(candidate).name] = {
            "errors": found[2],
            "passed": {test.id: bool(passed) for test, passed, _ in outcomes},
            "why": {test.id: reason for test, passed, reason in outcomes if not passed},
        }
        return found

    benchmark.load_tests, benchmark.evaluate_candidate = load_tests, evaluate_candidate
    sys.argv = ["benchmark", "--dir", folder]
    benchmark.main()
    Path(results).write_text(json.dumps(heard, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
