"""What a message advises can be done: a flag that it names is one of the verb that says it."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from parsit.cli.main import dispatch

SOURCE = Path(__file__).parents[2] / "src" / "parsit"
FLAG = re.compile(r"(?<![\w-])--[a-z]\w*")
# Who says what is written where, by the longest beginning of a file's name. Of several verbs all must have a flag.
SPEAKERS = {
    "cli/ask": ["ask"],
    "cli/check": ["check"],
    "cli/data_convert": ["data convert"],
    "cli/data_from_pdf": ["data from-pdf"],
    "cli/data_import": ["data import"],
    "cli/data_synth": ["data synth"],
    "cli/data_validate": ["data validate"],
    "cli/eval": ["eval"],
    "cli/export": ["export"],
    "cli/import_": ["import"],
    "cli/info": ["info"],
    "cli/parse": ["parse"],
    "cli/serve": ["serve"],
    "config/train": ["train", "check"],
    "config/zero": ["train", "check"],
    "data/convert_settings": ["data convert"],
    "data/importers": ["data import"],
    "parse": ["parse", "ask"],
    "parse/http_engine": ["parse"],
    "synth/from_pdf": ["data from-pdf"],
    "synth/run": ["data synth", "data from-pdf"],
    "synth": ["data synth"],
    "train": ["train", "check"],
}
OTHER_PROGRAMS = {
    "--nproc_per_node",
    "--no",
    "--backend",
    "--help",
    "--version",
    "--shm",
    "--ipc",
    "--dir",
    "--model_args",
    "--head",
}
LISTS_OF_FLAGS = ("config/llava.py", "eval/plots.py")  # LLaVA's; the CSS variables of a page
VERBS = ["info", "check", "train", "export", "import", "eval", "parse", "ask", "serve"]
VERBS += [f"data {verb}" for verb in ("synth", "validate", "convert", "show", "stats", "import", "from-pdf")]


@cache
def flags_of(verb: str) -> frozenset[str]:
    return frozenset(FLAG.findall(_help(verb)))


def _help(verb: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        dispatch([*verb.split(), "--help", "all"])
    return out.getvalue()


def advice() -> Iterator[tuple[str, int, str]]:
    """(file, line, text) of every string that names a flag and is no docstring; of f-strings, their parts."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        scopes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.FunctionDef | ast.ClassDef)]
        docstrings = {id(n.body[0].value) for n in scopes if n.body and isinstance(n.body[0], ast.Expr)}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if is_text and FLAG.search(node.value):
                yield path.relative_to(SOURCE).as_posix(), node.lineno, node.value


def speakers(file: str) -> list[str]:
    known = [place for place in SPEAKERS if file.startswith(place)]
    return SPEAKERS[max(known, key=len)] if known else []


@pytest.mark.slow
def test_a_message_names_flags_that_its_verb_has():
    wrong = [
        f"{file}:{line}: {flag}, which {verb} has not: {text}"
        for file, line, text in advice()
        for verb in speakers(file)
        for flag in FLAG.findall(text)
        if flag not in flags_of(verb) | OTHER_PROGRAMS and "`parsit " not in text
    ]
    assert wrong == []


@pytest.mark.slow
def test_no_message_names_a_flag_that_no_verb_has():
    known = frozenset().union(*map(flags_of, VERBS)) | OTHER_PROGRAMS
    told = [
        (file, flag, text) for file, _, text in advice() if file not in LISTS_OF_FLAGS for flag in FLAG.findall(text)
    ]
    assert [one for one in told if one[1] not in known] == []
    assert len(told) > 200
