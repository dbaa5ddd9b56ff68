"""The model that comes in the package, and which one is used where none is named.

`parsit/models/parsit-tiny` is an ordinary model folder with a manifest, so that damage is found when it is loaded.
`scripts/ship_model.py` puts it there; a package may have been built without it.
"""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path

from parsit.types import UsageError

SHIPPED = "parsit-tiny"
# Names the model that is used where none is named, instead of the one in the package.
MODEL_VARIABLE = "PARSIT_MODEL"


def shipped_folder() -> Path | None:
    """Where the model in the package lies; None: the package has none."""
    folder = Path(str(resources.files("parsit"))) / "models" / SHIPPED
    return folder if (folder / "config.json").is_file() else None


def is_shipped(name: str | Path) -> bool:
    """Whether a name means the model in the package: its own, where there is no folder of that name, or its folder."""
    return (str(name) == SHIPPED and not Path(name).exists()) or Path(name) == shipped_folder()


def require_shipped() -> Path:
    """Where the model in the package lies.

    Raises:
        UsageError: the package has none.
    """
    folder = shipped_folder()
    if folder is None:
        raise UsageError(f"{SHIPPED}: this package was built without that model: name a folder, or ORG/NAME on the Hub")
    return folder


def default_model() -> tuple[str, str]:
    """What is used where no model is named, as it would be named, and why, in a line.

    The model in the package is named by its folder: where one runs it, there may be another folder of its name.

    Raises:
        UsageError: there is none.
    """
    named = os.environ.get(MODEL_VARIABLE)
    if named:
        return named, f"the model is {named} ({MODEL_VARIABLE})"
    folder = shipped_folder()
    if folder is None:
        raise UsageError(
            "no model is named, and this package was built without one: name a trained model's folder, or ORG/NAME on "
            f"the Hub ({MODEL_VARIABLE} names one for good)"
        )
    return str(folder), f"the model is {SHIPPED}, which comes with Parsit, as no other is named"


def named_or_default(name: str | Path | None) -> str | Path:
    """The name of a model, or where none is given the default one's, which is then said on stderr.

    Raises:
        UsageError: none is given, and there is no default.
    """
    if name is not None:
        return name
    default, said = default_model()
    print(f"parsit: {said}", file=sys.stderr)
    return default
