"""The index: each sample's length in tokens and tiles, known before a pixel is decoded.

Lengths come from the text and the images' headers alone. They are what lets the plan group
samples of one length, and what refuses an over-long sample before the run instead of cutting it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from parsit.processing.processor import ParsitProcessor
from parsit.types import InputError, Sample


@dataclass(frozen=True, slots=True)
class Index:
    """`num_tokens`: `int[samples]`, image tokens included. `num_tiles`: `int[samples]`."""

    num_tokens: np.ndarray
    num_tiles: np.ndarray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.num_tokens)


def build_index(
    samples: Sequence[Sample],
    processor: ParsitProcessor,
    model_max_length: int,
    on_progress: Callable[[int], None] | None = None,
) -> Index:
    """Lengths of all samples.

    Args:
        samples: the samples.
        processor: the model's processor.
        model_max_length: the longest that is allowed, in tokens.
        on_progress: called with 1 after each sample.

    Raises:
        InputError: an image without a readable header, or a sample that is too long, with its place.
    """
    num_tokens = np.zeros(len(samples), np.int64)
    num_tiles = np.zeros(len(samples), np.int64)
    for row, sample in enumerate(samples):
        try:
            num_tokens[row], num_tiles[row] = processor.count(sample.turns)
        except InputError as error:
            raise InputError(f"{sample.place}: {error}") from error
        if num_tokens[row] > model_max_length:
            raise InputError(
                f"{sample.place}: {num_tokens[row]} tokens, more than --model_max_length {model_max_length}: "
                "raise it, shorten the text, or use smaller images"
            )
        if on_progress is not None:
            on_progress(1)
    return Index(num_tokens, num_tiles)
