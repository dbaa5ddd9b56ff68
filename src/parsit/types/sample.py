"""`Sample`: one training or evaluation example, the same whatever file format it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class GlyphBox:
    """Where one character stands in an image, in pixels of the stored image, y downwards.

    The box covers the glyph's advance and the font's whole ascent to descent, so that the boxes of
    one line touch each other and cover the line.
    """

    text: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes inside a file, read when they are needed: a member of a tar shard."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; fewer than `size` where the file ends before. Raises `OSError`."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by reference: a file, part of a file, its encoded bytes, or an image that is already decoded.

    `glyphs` holds the characters in the image where they are known (synthetic documents, PDFs with
    a text layer); only the glyph loss looks at them.
    """

    source: Path | FileSlice | bytes | Image
    glyphs: tuple[GlyphBox, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation: text and images in the order in which they are read."""

    role: Role
    parts: tuple[str | ImageRef, ...]

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The turn's images, in order."""
        return tuple(part for part in self.parts if isinstance(part, ImageRef))

    @property
    def text(self) -> str:
        """The turn's text without its images."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):  # nearly all are so
            return self.parts[0]
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation about zero or more images.

    `place` says where the sample came from (`train.jsonl:12`) and appears in error messages. `other_answers` are
    accepted beside the text of the last turn: that one is taught, and a score is the best over all of them.
    """

    id: str
    turns: tuple[Turn, ...]
    place: str = ""
    other_answers: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images of the sample, in the order of their placeholders."""
        return tuple(image for turn in self.turns for image in turn.images)
