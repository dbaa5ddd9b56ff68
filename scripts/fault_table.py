"""Print docs/data-faults.md: every kind of fault that the tests make, and what validation does with it.

Each case of tests/data/fault_cases.py is made and validated here too: what is printed has happened.

    python scripts/fault_table.py > docs/data-faults.md
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

from fault_cases import CASES, Case

from parsit.data.faults import FAULTS

HEAD = """# Faults in data

What `parsit data validate`, and a training run before its first step, find in data files. A *fault* sets the sample
aside: it is counted, listed with its place, and never trained on or replaced. A *note* changes nothing.

Written by `python scripts/fault_table.py` from the cases that `tests/data/test_data_faults.py` tests, each a real file;
do not edit it by hand.

| fault | code | what happens | what to do |
| --- | --- | --- | --- |"""


def row(case: Case, folder: Path) -> str:
    """One line of the table, of what was found and how many samples stayed."""
    report, findings = case.run(folder)
    codes = ", ".join(f"`{finding.code}`" for finding in findings)
    expected = case.good + 1  # the neighbour that every case has
    outcome = case.outcome if report.good == expected else f"{report.good} samples stay instead of {expected}"
    remedy = FAULTS[findings[0].code].remedy if findings else "nothing was found"
    return f"| {escape(case.fault)} | {codes} | {outcome} | {escape(remedy)} |"


def escape(text: str) -> str:
    """Text as a cell of a Markdown table shows it."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    print(HEAD)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "set"
            place.mkdir()
            print(row(case, place))


if __name__ == "__main__":
    main()
