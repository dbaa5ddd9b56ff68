"""Scores of a text that was read against the text that stands there: pure functions of strings and numbers.

Edits are counted by rapidfuzz, those of tables by apted (extra `scores`). jiwer and anls-star are not
called: jiwer splits words at spaces only, so a line break would join two words, and anls-star keeps a
similarity of exactly 0.5, which the paper sets to 0, and counts in Python (seconds for a page). The
tests hold both against these functions wherever the definitions agree.
"""

from parsit.types import UsageError

try:
    import rapidfuzz  # noqa: F401
except ModuleNotFoundError as error:
    raise UsageError("scores need rapidfuzz, which is not installed: pip install 'parsit[eval]'") from error

from parsit.scores.anls_star import anls_star
from parsit.scores.bootstrap import Interval, difference_interval, mean_interval, mean_of_means_interval, ratio_interval
from parsit.scores.fields import FieldCounts, count_fields
from parsit.scores.invented import invented_words
from parsit.scores.order import blocks, reading_order_distance
from parsit.scores.page import PageScores, score_page
from parsit.scores.sample import SampleScores, failed_scores, score_best, score_text
from parsit.scores.tables import tables
from parsit.scores.teds import page_tables_similarity, require_apted, teds
from parsit.scores.text import anls, cer, char_edits, corpus_cer, exact_match, normalize, normalized_edit_distance, wer

__all__ = [
    "FieldCounts",
    "Interval",
    "PageScores",
    "SampleScores",
    "anls",
    "anls_star",
    "blocks",
    "cer",
    "char_edits",
    "corpus_cer",
    "count_fields",
    "difference_interval",
    "exact_match",
    "failed_scores",
    "invented_words",
    "mean_interval",
    "mean_of_means_interval",
    "normalize",
    "normalized_edit_distance",
    "page_tables_similarity",
    "ratio_interval",
    "reading_order_distance",
    "require_apted",
    "score_best",
    "score_page",
    "score_text",
    "tables",
    "teds",
    "wer",
]
