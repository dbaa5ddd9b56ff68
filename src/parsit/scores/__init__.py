"""Scores of a text that was read against the text that stands there: pure functions of strings and numbers.

Everything is counted by rapidfuzz. jiwer and anls-star are not called: jiwer splits words at spaces
only, so a line break would join two words, and anls-star keeps a similarity of exactly 0.5, which
the paper sets to 0, and counts in Python (seconds for a page). The tests hold both against these
functions wherever the definitions agree.
"""

from parsit.types import UsageError

try:
    import rapidfuzz  # noqa: F401
except ModuleNotFoundError as error:
    raise UsageError("scores need rapidfuzz, which is not installed: pip install 'parsit[eval]'") from error

from parsit.scores.bootstrap import Interval, difference_interval, mean_interval, ratio_interval
from parsit.scores.sample import SampleScores, failed_scores, score_best, score_text
from parsit.scores.text import anls, cer, char_edits, corpus_cer, exact_match, normalize, normalized_edit_distance, wer

__all__ = [
    "Interval",
    "SampleScores",
    "anls",
    "cer",
    "char_edits",
    "corpus_cer",
    "difference_interval",
    "exact_match",
    "failed_scores",
    "mean_interval",
    "normalize",
    "normalized_edit_distance",
    "ratio_interval",
    "score_best",
    "score_text",
    "wer",
]
