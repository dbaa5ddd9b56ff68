"""One command-line parser for all verbs: no abbreviations, one-line errors, the nearest name."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

import jsonargparse


class Parser(jsonargparse.ArgumentParser):
    """`jsonargparse.ArgumentParser` that says in one line what is wrong and names the nearest option."""

    def __init__(self, prog: str, description: str, **kwargs: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr and exit with 2, the code for wrong usage."""
        line = " ".join(message.split())
        unknown = re.search(r"(--?[A-Za-z][\w.-]*)", line) if "nrecognized" in line else None
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown.group(1), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            line = f"unknown option {unknown.group(1)}{hint}"
        print(f"{self.prog}: {line} (`{self.prog} --help` lists the options)", file=sys.stderr)
        raise SystemExit(2)
