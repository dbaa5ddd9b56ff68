"""The fonts that documents are set in: where their files lie and which families resolve.

Decides on a fixed list of families, from the `font-*` wheels and from Typst itself, and leaves the
system's fonts out, so that the same seed gives the same page on every machine. A family that does
not resolve is an error, never a silent replacement.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from parsit.types import InputError

FONT_WHEELS = ("font_roboto", "font_source_serif_pro", "font_source_sans_pro", "font_lato", "font_caladea")
FAMILIES = (
    "Caladea",
    "DejaVu Sans Mono",
    "Lato",
    "Libertinus Serif",
    "New Computer Modern",
    "Roboto",
    "Source Sans Pro",
    "Source Serif Pro",
)
MONOSPACED = ("DejaVu Sans Mono",)
MISSING_EXTRA = "making documents needs the typst typesetter and its fonts: pip install parsit[synth]"


@cache
def font_paths() -> tuple[str, ...]:
    """The folders of the font wheels.

    Raises:
        InputError: a wheel of the `synth` extra is not installed.
    """
    specs = [find_spec(wheel) for wheel in FONT_WHEELS]
    if find_spec("typst") is None or any(spec is None or spec.origin is None for spec in specs):
        raise InputError(MISSING_EXTRA)
    return tuple(str(Path(spec.origin).parent) for spec in specs if spec and spec.origin)


def check_fonts() -> None:
    """Make sure that every family resolves.

    Raises:
        InputError: the `synth` extra is missing, or a family cannot be found in it.
    """
    paths = list(font_paths())
    import typst

    known = typst.Fonts(include_system_fonts=False, include_embedded_fonts=True, font_paths=paths).families()
    missing = sorted(set(FAMILIES) - set(known))
    if missing:
        raise InputError(f"no font files for {', '.join(missing)}: reinstall with pip install parsit[synth]")
