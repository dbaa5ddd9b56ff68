"""The scores of one prediction against one reference.

Every function takes the strings as they are; `normalize` is a separate step, so that raw and
normalised scores come from the same code. Edits are Levenshtein's (insert, delete, substitute, each
costs 1) over Unicode code points, or over words.

The empty reference is defined, not undefined: an empty prediction has error 0, any other error 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein


def normalize(text: str) -> str:
    """NFC, every run of whitespace (`str.split`'s notion of it) one space, none at either end.

    Case, punctuation and accents stay: they are part of what stands on the page.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def error_rate(edits: int, length: int) -> float:
    """Edits per unit of the reference; for an empty reference 0 without edits, else 1."""
    if length == 0:
        return float(edits > 0)
    return edits / length


def char_edits(reference: str, prediction: str) -> int:
    """Levenshtein distance in Unicode code points."""
    return Levenshtein.distance(reference, prediction)


def word_edits(reference: str, prediction: str) -> int:
    """Levenshtein distance in words; words are what whitespace separates."""
    return Levenshtein.distance(reference.split(), prediction.split())


def cer(reference: str, prediction: str) -> float:
    """Character error rate: edits / characters of the reference; above 1 where the prediction is long."""
    return error_rate(char_edits(reference, prediction), len(reference))


def wer(reference: str, prediction: str) -> float:
    """Word error rate: word edits / words of the reference; above 1 where the prediction is long."""
    return error_rate(word_edits(reference, prediction), len(reference.split()))


def normalized_edit_distance(reference: str, prediction: str) -> float:
    """Edits / length of the longer string, from 0 (equal) to 1; 0 for two empty strings."""
    return Levenshtein.normalized_distance(reference, prediction)


def exact_match(reference: str, prediction: str) -> float:
    """1 if the strings are equal, else 0."""
    return float(reference == prediction)


def anls(reference: str, prediction: str, threshold: float = 0.5) -> float:
    """Similarity of one answer as ANLS averages it, from 0 to 1.

    `1 - NL` where the normalised edit distance NL of the lower-cased strings is below `threshold`,
    else 0: Biten et al. 2019, "Scene Text Visual Question Answering", equation 1. ANLS itself is
    the mean over samples.
    """
    distance = normalized_edit_distance(reference.lower(), prediction.lower())
    return 1.0 - distance if distance < threshold else 0.0


def corpus_cer(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Sum of edits / sum of reference characters: a long text weighs more than a short one.

    The other convention, the mean of `cer` over samples, weighs every sample alike. The edits of a
    sample with an empty reference count, although it adds no characters.

    Raises `ValueError` if the two lists differ in length.
    """
    pairs = list(zip(references, predictions, strict=True))
    edits = sum(char_edits(reference, prediction) for reference, prediction in pairs)
    return error_rate(edits, sum(len(reference) for reference in references))
