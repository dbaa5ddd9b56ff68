"""Text that is not on the page: words that were read and stand nowhere in the reference, wherever they were put."""

from __future__ import annotations

from collections import Counter

from parsit.scores.text import normalize


def invented_words(reference: str, prediction: str) -> tuple[int, int]:
    """How many of the prediction's words are not on the page, and how many words it has.

    Words are what whitespace separates, compared as they are after `normalize`; each of the reference's is met once, so
    that a line which is repeated ten times is invented nine times. A misread word counts too: it does not stand there.
    """
    true, given = Counter(normalize(reference).split()), Counter(normalize(prediction).split())
    return (given - true).total(), given.total()
