"""ZeRO's configurations: those that ship with Parsit, by name, or a JSON file of DeepSpeed's."""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from parsit.types import InputError

# zero2: gradients and optimizer are shared; zero3: weights too; zero3_4b: all of it in the CPU's memory.
ZERO_NAMES = ("zero2", "zero3", "zero3_4b")


def zero_settings(name: str | Path) -> dict[str, Any]:
    """The configuration of `--deepspeed`, its "auto" values not yet filled in.

    Args:
        name: one of `ZERO_NAMES`, or the path of a JSON file.

    Raises:
        InputError: neither is there, or the file is no JSON object.
    """
    try:
        if str(name) in ZERO_NAMES:
            file = resources.files("parsit.config").joinpath("deepspeed", f"{name}.json")
            return json.loads(file.read_text(encoding="utf-8"))
        values = json.loads(Path(name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(Path(name).stem, ZERO_NAMES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"--deepspeed {name}: no such file{hint} (a path, or one of {', '.join(ZERO_NAMES)})"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"--deepspeed {name}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f'--deepspeed {name}: holds no JSON object, such as {{"zero_optimization": {{…}}}}')
    return values
