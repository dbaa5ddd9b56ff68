"""The few types that every floor shares: what a sample is, what a reading is, how an error speaks.

Nothing here imports torch, transformers or Pillow, so `parsit --help` and data tools stay light.
"""

from parsit.types.document import Document, Line, Page
from parsit.types.errors import InputError, ParsitError, UsageError
from parsit.types.generation import GREEDY, Confidence, Delta, Generation, Sampling, TokenScore, joined_confidence
from parsit.types.sample import FileSlice, GlyphBox, ImageRef, Role, Sample, Turn

__all__ = [
    "GREEDY",
    "Confidence",
    "Delta",
    "Document",
    "FileSlice",
    "Generation",
    "GlyphBox",
    "ImageRef",
    "InputError",
    "Line",
    "Page",
    "ParsitError",
    "Role",
    "Sample",
    "Sampling",
    "TokenScore",
    "Turn",
    "UsageError",
    "joined_confidence",
]
