"""One command-line parser for all verbs: no abbreviations, one-line errors, the nearest name, help in groups."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jsonargparse

from parsit.cli.help import help_text


class Parser(jsonargparse.ArgumentParser):
    """`jsonargparse.ArgumentParser` that says in one line what is wrong and names the nearest option.

    Args:
        prog: the verb as it is typed, such as `parsit train`.
        description: what it does.
        groups: for `--help`: titles, each with the names of its flags.
        everyday: for `--help`: the flags that are shown where `--help all` shows every one; empty: all are.
        needed: flags that must be given and do not say so themselves.
        kwargs: as for `jsonargparse.ArgumentParser`.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        *,
        groups: Mapping[str, Sequence[str]] | None = None,
        everyday: Sequence[str] = (),
        needed: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, add_help=False, **kwargs)
        self._groups, self._everyday, self._needed = dict(groups or {}), everyday, needed

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:
        """As `argparse`, but `-h` and `--help` print Parsit's own help and exit with 0, wherever they stand."""
        words = list(sys.argv[1:] if args is None else args)
        for place, word in enumerate(words):
            if word in ("-h", "--help"):
                print(self.help(whole="all" in words[place + 1 : place + 2]))
                raise SystemExit(0)
        parsed = super().parse_args(words, *rest, **kwargs)
        for name, value in vars(parsed).items():
            if isinstance(value, int) and abs(value) > sys.maxsize:
                self.error(f"--{name} is {value}: it must be at most {sys.maxsize}")
        return parsed

    def help(self, whole: bool) -> str:
        """The text of `--help`, or of `--help all`."""
        actions = [action for action in self._actions if isinstance(action, argparse.Action)]
        text = self.description or ""
        return help_text(str(self.prog), text, actions, self._groups, self._everyday, self._needed, whole)

    def unknown(self, flag: str) -> str:
        """What to say of a flag that does not exist: the one that is probably meant."""
        near = nearest(flag, [option for option in self._option_string_actions if option.startswith("--")])
        return f"unknown option {flag}" + (f"; did you mean {near}?" if near else "")

    def _as_typed(self, line: str) -> str:
        """A message that lists missing arguments, with the names that are typed instead of those of the code."""
        start, colon, names = line.partition("arguments are required: ")
        if not colon:
            return line
        typed = {a.dest: (a.option_strings or [a.metavar or a.dest])[-1] for a in self._actions}
        return f"{start}{colon}{', '.join(str(typed.get(name, name)) for name in names.split(', '))}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line on stderr and exit with 2, the code for wrong usage."""
        line = self._as_typed(" ".join(message.split()))
        unknown = re.search(r"(--?[A-Za-z][\w.-]*)", line) if "nrecognized" in line else None
        wrong = re.search(r'Parser key "(\w+)": .*?(Literal\[[^]]*\]|float|int|bool).* value: (.*)', line)
        if unknown:
            line = self.unknown(unknown.group(1))
        elif "nrecognized arguments: " in line:
            line = f"{line.partition(': ')[2]}: words that are no flags stand together, all before the flags"
        elif wrong:
            name, kind, value = wrong.groups()
            line = f"--{name} is {value}: it must be {_in_words(kind)}"
        print(f"{self.prog}: {line} (`{self.prog} --help` lists the options)", file=sys.stderr)
        raise SystemExit(2)


def nearest(flag: str, known: Sequence[str]) -> str | None:
    """The flag that is probably meant: by its initials, by its words, else by its letters.

    `--lr` is `--learning_rate`, `--epochs` is `--num_train_epochs`, `--learning_rat` is `--learning_rate`.
    """
    name = flag.lstrip("-")
    names = {option.lstrip("-"): option for option in known}
    words = set(re.split("[_-]", name))
    initials = [one for one in names if name == "".join(word[0] for word in re.split("[_-]", one) if word)]
    containing = sorted((one for one in names if words <= set(re.split("[_-]", one))), key=len)
    near = (initials if len(name) > 1 else []) or containing or difflib.get_close_matches(name, names, n=1)
    return names[near[0]] if near else None


def _in_words(kind: str) -> str:
    """A type as jsonargparse names it, for people."""
    if "Literal" in kind:
        inside = kind[kind.index("Literal[") + len("Literal[") : kind.index("]")]
        return "one of " + ", ".join(choice.strip().strip("'") for choice in inside.split(","))
    for name, words in (("float", "a number"), ("int", "a whole number"), ("bool", "true or false")):
        if name in kind:
            return words
    return kind
