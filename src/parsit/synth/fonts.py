"""The fonts that documents are set in: where their files lie and which families resolve.

Decides on a fixed list of families, from the `font-*` wheels and from Typst itself, and leaves the
system's fonts out, so that the same seed gives the same page on every machine. A family that does
not resolve is an error, never a silent replacement. Folders of further fonts can be named; a family of
theirs sets those pages whose every character each of its faces can draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from string import ascii_letters, digits

from parsit.synth.tree import PageTree, leaves
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


@dataclass(frozen=True, slots=True)
class Family:
    """A family of a folder: its name, what each of its faces can draw, and whether its letters are of one width."""

    name: str
    characters: frozenset[str]
    is_monospaced: bool


@cache
def families_in(folders: tuple[str, ...]) -> tuple[Family, ...]:
    """The families of the font files below the folders, by name, without those that lack a Latin letter or a digit.

    Raises:
        InputError: the `synth` extra is missing, a folder is none, or no family is left.
    """
    if find_spec("typst") is None or find_spec("fontTools") is None:
        raise InputError(MISSING_EXTRA)
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(f"--fonts {folder}: there is no such folder")
    import typst

    faces: dict[str, list[Path]] = {}
    for face in typst.Fonts(False, False, list(folders)).fonts():
        faces.setdefault(face.family, []).append(Path(face.path or ""))
    found = [family_of(name, files) for name, files in sorted(faces.items())]
    usable = tuple(one for one in found if one.characters.issuperset(ascii_letters + digits))
    if not usable:
        raise InputError(f"--fonts {' '.join(folders)}: no font there (.ttf, .otf) has all Latin letters and digits")
    return usable


def family_of(name: str, files: Sequence[Path]) -> Family:
    """A family of these faces. One that has a variable or an unreadable face draws nothing: Typst cannot set it."""
    from fontTools.ttLib import TTFont, TTLibError

    maps, widths = [], set[int]()
    for file in files:
        try:
            with TTFont(file, fontNumber=0, lazy=True) as font:
                maps.append({} if "fvar" in font else font.getBestCmap() or {})
                glyphs = [maps[-1][ord(c)] for c in "iM" if ord(c) in maps[-1]]
                widths |= {font["hmtx"][glyph][0] for glyph in glyphs}
        except (TTLibError, OSError, KeyError):
            maps.append({})
    shared = frozenset(map(chr, set.intersection(*map(set, maps))))
    return Family(name, shared, len(widths) == 1)


def in_a_family_of(families: Sequence[Family], document: PageTree, rng: Random) -> PageTree:
    """The document in a family drawn from these and our own; one of one width stays so, as do others."""
    needed = {c for leaf in leaves(document) if not leaf.opaque for c in leaf.text if not c.isspace()}
    is_monospaced = document.style.font in MONOSPACED
    fitting = [one for one in families if one.is_monospaced == is_monospaced and needed <= one.characters]
    own = len(MONOSPACED) if is_monospaced else len(FAMILIES) - len(MONOSPACED)
    place = rng.randrange(len(fitting) + own)
    if place >= len(fitting):
        return document
    return replace(document, style=replace(document.style, font=fitting[place].name))
