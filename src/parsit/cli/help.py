"""The text of `--help`: how a verb is called, two examples, the flags in groups; `--help all` has every flag."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from parsit.cli.examples import EXAMPLES

_COLUMN = 36
_MAX_WIDTH = 110
_METAVARS = {int: "N", float: "X", bool: "true|false", str: "TEXT"}


def help_text(
    prog: str,
    description: str,
    actions: Sequence[argparse.Action],
    groups: Mapping[str, Sequence[str]],
    everyday: Sequence[str],
    needed: Sequence[str],
    whole: bool,
) -> str:
    """What `--help` prints.

    Args:
        prog: the verb as it is typed, such as `parsit train`.
        description: what it does.
        actions: its arguments, without `--help`.
        groups: titles, each with the names of its flags; flags that are in none stand first.
        everyday: names of the flags that are shown where not all are; empty: all are.
        needed: names of flags that must be given, besides those that say so themselves.
        whole: show every flag.
    """
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    flags = [action for action in actions if action.option_strings]
    places = [action for action in actions if not action.option_strings]
    shown = [action for action in flags if whole or not everyday or action.dest in everyday]
    parts = [_usage(prog, places, [f for f in flags if f.required or f.dest in needed])]
    parts.append(textwrap.fill(" ".join(description.split()), width))
    if prog in EXAMPLES:
        parts.append("examples:\n" + "\n".join(f"  {command}" for command in EXAMPLES[prog]))
    parts += [_section("arguments", places, width)] if places else []
    grouped = {name for names in groups.values() for name in names}
    parts += [_section(title, own, width) for title, own in _sections(shown, groups, grouped)]
    if len(shown) < len(flags):
        parts.append(f"These are {len(shown)} of {len(flags)} flags: `{prog} --help all` shows all.")
    return "\n\n".join(parts)


def _sections(
    shown: Sequence[argparse.Action], groups: Mapping[str, Sequence[str]], grouped: Iterable[str]
) -> list[tuple[str, list[argparse.Action]]]:
    """(title, its flags in their own order), those in no group first; without empty ones."""
    by_name = {action.dest: action for action in shown}
    alone = [action for action in shown if action.dest not in grouped]
    sections = [("flags", alone)]
    sections += [(title, [by_name[name] for name in names if name in by_name]) for title, names in groups.items()]
    return [(title, own) for title, own in sections if own]


def _usage(prog: str, places: Sequence[argparse.Action], needed: Sequence[argparse.Action]) -> str:
    words = [_place(action) for action in places]
    words += [f"{action.option_strings[-1]} {value_of(action)}" for action in needed]
    return " ".join([f"usage: {prog}", *words, "[flags]"])


def _place(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    name += "…" if action.nargs in ("+", "*") and not name.endswith("…") and "…" not in name else ""
    return f"[{name}]" if action.nargs in ("?", "*") else name


def _section(title: str, actions: Sequence[argparse.Action], width: int) -> str:
    return "\n".join([f"{title}:", *(_entry(action, width) for action in actions)])


def _entry(action: argparse.Action, width: int) -> str:
    head = f"  {_place(action)}"
    if action.option_strings:
        head = f"  {', '.join(action.option_strings)} {value_of(action)}".rstrip()
    text = _about(action)
    gap = " " * _COLUMN
    body = textwrap.wrap(text, max(width - _COLUMN, 30), break_long_words=False, break_on_hyphens=False) or [""]
    if len(head) >= _COLUMN:
        return "\n".join([head, *(gap + line for line in body)])
    return "\n".join([head.ljust(_COLUMN) + body[0], *(gap + line for line in body[1:])]).rstrip()


def _about(action: argparse.Action) -> str:
    """What it is, and its value where none is given and the text does not say so itself."""
    text = " ".join((action.help or "").split()).rstrip(".")
    if action.required and action.option_strings:
        return f"{text} (needed)"
    if action.default in (None, False, argparse.SUPPRESS) or "default" in text or not action.option_strings:
        return text
    value = " ".join(map(str, action.default)) if isinstance(action.default, list | tuple) else str(action.default)
    value = value.lower() if isinstance(action.default, bool) else value
    return f"{text} [{value}]" if value else text


def value_of(action: argparse.Action) -> str:
    """What stands behind a flag: a placeholder, or its choices."""
    if action.nargs == 0:
        return ""
    name = str(action.metavar or "|".join(map(str, action.choices or ())) or _of_type(action))
    if name.startswith("{"):  # jsonargparse's way of writing choices
        name = "|".join(choice for choice in name.strip("{}").split(",") if choice != "null")
    return f"{name}…" if action.nargs in ("+", "*") else name


def _of_type(action: argparse.Action) -> str:
    hint = getattr(action, "_typehint", None) or action.type or str
    if get_origin(hint) in (Union, UnionType):
        hint = next(one for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    known: dict[Any, str] = _METAVARS
    return known.get(hint, action.dest.upper())
