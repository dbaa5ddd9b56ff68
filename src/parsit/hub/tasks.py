"""What a model is known to be able to do, so that what it cannot is refused and not guessed at.

A model says so in its processor's file (`"tasks": ["read"]`, by `parsit export --tasks`); of one that says nothing,
nothing is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from parsit.types import UsageError

TASKS = ("read", "ask")


def tasks_of(folder: Path) -> tuple[str, ...]:
    """The tasks that a model's folder names; none where it says nothing."""
    try:
        settings = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        return tuple(settings.get("tasks") or ())
    except (OSError, ValueError, AttributeError, TypeError):
        return ()  # a file that cannot be read is told where it is loaded


def require_asking(tasks: Sequence[str], what: str = "a question") -> None:
    """Refuse what only a model that answers can do.

    Args:
        tasks: what the model names; nothing: it is not known.
        what: what is asked of it, for the message.

    Raises:
        UsageError: it is known to read and nothing else.
    """
    if tasks and "ask" not in tasks:
        raise UsageError(f"{what} is not for this model, which only reads pages: name one that was trained to answer")


def require_reading(tasks: Sequence[str], prompt: str, read_prompt: str) -> None:
    """Refuse another prompt than the one with which a model that only reads was trained.

    Raises:
        UsageError: it is another one.
    """
    if prompt.strip() != read_prompt.strip():
        require_asking(tasks, f"a prompt other than {read_prompt.strip()!r}")
