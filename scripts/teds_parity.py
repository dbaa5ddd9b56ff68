"""Tables with the TEDS that the package table_recognition_metric gives them, for tests/scores/test_scores_tables.py.

    make teds-parity

Runs in an environment that has the package (and none of Parsit). Each case is a pair of tables, the second made from
the first by a seed: cells misread, lost, added, given a span, rows lost or doubled, sections lost.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.metadata import version
from pathlib import Path

CASES = 60
WORDS = (
    "Total",
    "12.50",
    "",
    "–",
    "Äpfel & Birnen",
    "a < b",
    "x <b>2</b>",
    "one<br>two",
    "1,234",
    "Amount",
    "H<sub>2</sub>O",
)


def cell(rng: random.Random, text: str, span: str = "") -> str:
    escaped = text if "<b" in text or "<sub" in text else text.replace("&", "&amp;").replace("<", "&lt;")
    return f"<td{span}>{escaped}</td>"


def rows(rng: random.Random) -> list[list[str]]:
    columns = rng.randint(1, 5)
    return [[cell(rng, rng.choice(WORDS)) for _ in range(columns)] for _ in range(rng.randint(1, 7))]


def change(rng: random.Random, table: list[list[str]]) -> list[list[str]]:
    """The table with some things wrong."""
    changed = [list(row) for row in table]
    for _ in range(rng.randint(0, 6)):
        kind = rng.choice(("text", "lost", "more", "span", "row lost", "row twice"))
        row = rng.choice(changed)
        place = rng.randrange(len(row)) if row else 0
        if kind == "row lost" and len(changed) > 1:
            changed.remove(row)
        elif kind == "row twice":
            changed.insert(0, list(row))
        elif kind == "more" or not row:
            row.append(cell(rng, rng.choice(WORDS)))
        elif kind == "lost":
            row.pop(place)
        else:
            spans = (' colspan="2"', ' rowspan="3"') if kind == "span" else ("",)
            row[place] = cell(rng, rng.choice(WORDS), rng.choice(spans))
    return changed


def html(table: list[list[str]], sections: bool) -> str:
    written = ["<tr>" + "".join(row) + "</tr>" for row in table]
    inner = f"<thead>{written[0]}</thead><tbody>{''.join(written[1:])}</tbody>" if sections else "".join(written)
    return f"<html><body><table>{inner}</table></body></html>"


def main() -> None:
    from table_recognition_metric import TEDS

    whole, structure = TEDS(), TEDS(structure_only=True)
    cases = []
    for seed in range(CASES):
        rng = random.Random(seed)
        table = rows(rng)
        reference, prediction = html(table, rng.random() < 0.5), html(change(rng, table), rng.random() < 0.5)
        figures = {"teds": whole(prediction, reference), "teds_structure": structure(prediction, reference)}
        cases.append({"reference": reference, "prediction": prediction, **figures})
    source = f"table_recognition_metric {version('table_recognition_metric')}, by scripts/teds_parity.py"
    Path(sys.argv[1]).write_text(json.dumps({"source": source, "cases": cases}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
