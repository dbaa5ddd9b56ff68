"""A program in the place of olmOCR's judge, which is not installed where the tests run."""

from __future__ import annotations

import json
from pathlib import Path

# What olmocr_judge.py writes, of two systems: one test of three passed by the first, all by the second.
HEARD = {
    "version": "0.4.27",
    "tests": {
        "a1": {"category": "a", "type": "present", "pdf": "x.pdf", "page": 1},
        "a2": {"category": "a", "type": "order", "pdf": "sub/y.pdf", "page": 1},
        "b1": {"category": "baseline", "type": "baseline", "pdf": "x.pdf", "page": 1},
    },
    "systems": {
        "parsit": {"errors": [], "passed": {"a1": True, "a2": False, "b1": False}, "why": {"a2": "w", "b1": "w"}},
        "other": {"errors": [], "passed": {"a1": True, "a2": True, "b1": True}, "why": {}},
    },
}


def stand_in_judge(folder: Path, heard: dict, ends: int = 0) -> str:
    """A program in the place of the judge's Python: it says that it has olmocr, and decides what it is told."""
    (folder / "heard.json").write_text(json.dumps(heard))
    program = folder / "judge-python"
    lines = ["#!/bin/sh", '[ "$2" = -c ] && exit 0', "echo the last line"]
    lines += [f'cp "{folder}/heard.json" "$4"'] if not ends else []
    program.write_text("\n".join([*lines, f"exit {ends}\n"]))
    program.chmod(0o755)
    return str(program)
