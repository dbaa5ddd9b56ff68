"""A page as it is stored, turned and damaged, and where the clean page's characters stand in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from parsit.synth.crops import move
from parsit.synth.render import Glyph


@dataclass(frozen=True, slots=True)
class PageImage:
    """Its path in the data set, its size in pixels, and the affine map from the clean page's pixels to its own."""

    path: str
    size: tuple[int, int]
    forward: tuple[float, ...]

    def moved(self, glyphs: Iterable[Glyph]) -> list[Glyph]:
        """Glyphs of the clean page where they stand in the image."""
        return [move(glyph, self.forward, self.size) for glyph in glyphs]
