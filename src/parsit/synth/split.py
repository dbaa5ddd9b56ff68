"""Which of train, validation and test a text belongs to: decided by the text itself.

A hash of the normalised text picks the split, so that no text can be in two of them, whatever page,
seed or run it comes from (as long as the fractions are the same). The price: common short strings
("Total") are in one split only when they are an answer of their own, and content for a small split
is drawn again until it fits.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
MAX_DRAWS = 5000


def normalise(text: str) -> str:
    """The form in which two texts count as the same: NFKC, lower case, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class Fractions:
    """How large validation and test are, from 0 up to less than 1 together."""

    validation: float
    test: float

    def split_at(self, position: float) -> SplitName:
        """The split at a position in [0, 1)."""
        if position < self.validation:
            return "validation"
        return "test" if position < self.validation + self.test else "train"

    def split_of(self, text: str) -> SplitName:
        """The one split that this text belongs to."""
        digest = hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()
        return self.split_at(int.from_bytes(digest, "big") / 2**64)


@dataclass(frozen=True, slots=True)
class Texts:
    """Draws texts that belong to one split."""

    fractions: Fractions
    split: SplitName

    def owns(self, text: str) -> bool:
        """Whether the text belongs to this split."""
        return self.fractions.split_of(text) == self.split

    def draw(self, make: Callable[[], str]) -> str:
        """The first text from `make` that belongs to this split.

        `make` must be able to say many different things; that it cannot is a bug of ours.
        """
        for _ in range(MAX_DRAWS):
            text = make()
            if self.owns(text):
                return text
        raise AssertionError(f"{MAX_DRAWS} draws gave no text for {self.split}")
