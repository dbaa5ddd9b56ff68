"""What the documentation draws and links to is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def drawn_floors() -> list[list[str]]:
    """The rooms of each floor in docs/architecture.md's drawing, from the top, that are there."""
    drawing = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    lines = [re.sub(r"^ *\d", "", line) for line in drawing.splitlines() if re.match(r" *\d ", line)]
    floors = [[cell.split()[0] for cell in line.split("│")[1:-1]] for line in lines]
    there = {path.stem for path in (ROOT / "src" / "parsit").iterdir()}
    return [[room for room in floor if room in there] for floor in floors]


def test_the_drawing_has_the_floors_that_the_linter_holds():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    held = [[room.strip().removeprefix("parsit.") for room in layer.split("|")] for layer in layers]
    assert [sorted(floor) for floor in drawn_floors() if floor] == [sorted(floor) for floor in held]


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_on_a_way_through_the_documentation():
    ways = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in ways] == ["README.md"]
