"""Every kind of fault is found by validation with its code and place, and the good records beside it stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fault_cases import CASES

from parsit.data.faults import FAULTS

ROOT = Path(__file__).parents[2]

# What only other verbs can find: conversion, indexing for a model, training, import of public sets and of PDFs.
FOUND_ELSEWHERE = {
    "cannot-say", "over-long-truncated", "too-many-tiles", "changed-since-indexed", "layout-missing",
    "annotation-missing", "annotation-broken", "answer-missing", "text-unreadable",
}  # fmt: skip
FOUND_ELSEWHERE_PREFIXES = ("pdf-", "page-")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_each_fault_is_found_at_its_place_and_hurts_nothing_else(tmp_path, case):
    folder = tmp_path / "set"
    folder.mkdir()
    report, findings = case.run(folder)
    assert [finding.code for finding in findings] == [case.code]
    assert report.counts == {case.code: 1}
    (finding,) = findings
    assert "\n" not in finding.detail
    files = [path for path in folder.iterdir() if finding.place.startswith(str(path))] or [folder / "train.jsonl"]
    if case.place is None:
        assert " at byte " in finding.place
    else:
        assert finding.place == f"{files[0]}{case.place}"
    assert report.good == case.good + 1, "the good records of this file and of the next one stay"
    assert report.set_aside == (0 if case.is_files or FAULTS[case.code].level == "note" else 1)


def test_every_code_that_validation_can_find_has_a_case():
    untested = FAULTS.keys() - {case.code for case in CASES}
    assert {code for code in untested if not code.startswith(FOUND_ELSEWHERE_PREFIXES)} == FOUND_ELSEWHERE
    assert len({case.fault for case in CASES}) == len(CASES) >= 45


@pytest.mark.slow
def test_the_table_in_the_documentation_is_that_of_these_cases():
    written = subprocess.run(
        [sys.executable, ROOT / "scripts" / "fault_table.py"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "data-faults.md").read_text(encoding="utf-8") == written.stdout


@pytest.mark.slow
def test_a_short_fuzz_finds_no_error_but_ours(tmp_path):
    command = [sys.executable, ROOT / "tests" / "fuzz_data.py", "--minutes", "0.2", "--out", tmp_path / "failures"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
