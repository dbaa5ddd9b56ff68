"""`SampleScores`: all scores of one sample, with the counts that corpus scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from parsit.scores.text import anls, char_edits, error_rate, exact_match, normalized_edit_distance, word_edits


@dataclass(frozen=True, slots=True)
class SampleScores:
    """Scores of one sample.

    `cer`, `wer` and `normalized_edit_distance` are errors (0 is perfect), `exact_match` and `anls`
    are merits (1 is perfect). `char_edits`/`chars` and `word_edits`/`words` are the edits and the
    length of the reference, from which corpus rates are summed.
    """

    cer: float
    wer: float
    normalized_edit_distance: float
    exact_match: float
    anls: float
    char_edits: int
    chars: int
    word_edits: int
    words: int


def score_text(reference: str, prediction: str) -> SampleScores:
    """All scores of `prediction`; both strings are taken as they are (see `normalize`)."""
    characters = char_edits(reference, prediction)
    words = word_edits(reference, prediction)
    num_words = len(reference.split())
    return SampleScores(
        cer=error_rate(characters, len(reference)),
        wer=error_rate(words, num_words),
        normalized_edit_distance=normalized_edit_distance(reference, prediction),
        exact_match=exact_match(reference, prediction),
        anls=anls(reference, prediction),
        char_edits=characters,
        chars=len(reference),
        word_edits=words,
        words=num_words,
    )


def score_best(references: Sequence[str], prediction: str) -> SampleScores:
    """The scores of `prediction` where several answers are accepted: each score is the best over them.

    So ANLS is equation 1 of Biten et al. 2019 (*Scene Text Visual Question Answering*), which takes the best answer of
    each question. Edits and lengths, of which corpus rates are summed, are those of the answer with the lowest CER.
    """
    scores = [score_text(reference, prediction) for reference in references]
    nearest = min(scores, key=lambda one: (one.cer, one.wer))
    return replace(
        nearest,
        normalized_edit_distance=min(one.normalized_edit_distance for one in scores),
        exact_match=max(one.exact_match for one in scores),
        anls=max(one.anls for one in scores),
    )


def failed_scores(reference: str) -> SampleScores:
    """Scores of a sample that could not be read: every character and word wrong, whatever the reference.

    At least one edit is counted, so that a failure on an empty reference is an error too. (An
    answer that is too long can have a CER above the 1 that a failure gets: it has more errors.)
    """
    num_words = len(reference.split())
    return SampleScores(
        cer=1.0,
        wer=1.0,
        normalized_edit_distance=1.0,
        exact_match=0.0,
        anls=0.0,
        char_edits=max(1, len(reference)),
        chars=len(reference),
        word_edits=max(1, num_words),
        words=num_words,
    )
