import subprocess
import sys

import anls_star
import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsit.scores import (
    anls,
    cer,
    char_edits,
    corpus_cer,
    exact_match,
    failed_scores,
    normalize,
    normalized_edit_distance,
    score_best,
    score_text,
    wer,
)

texts = st.text(max_size=30)


def test_hand_counted_edits():
    # kitten → sitting: two substitutions and one insertion, the textbook example.
    assert char_edits("kitten", "sitting") == 3
    assert cer("kitten", "sitting") == pytest.approx(3 / 6)
    assert normalized_edit_distance("kitten", "sitting") == pytest.approx(3 / 7)


def test_cer_can_exceed_one_and_is_not_symmetric():
    assert cer("ab", "abcdef") == 2.0
    assert cer("abcdef", "ab") == pytest.approx(4 / 6)


def test_words_are_split_at_any_whitespace():
    assert wer("a\nb\tc", "a b c") == 0
    assert wer("the cat sat", "the bat sat down") == pytest.approx(2 / 3)


@pytest.mark.parametrize("score", [cer, wer, normalized_edit_distance])
def test_empty_reference_is_error_zero_or_one(score):
    assert score("", "") == 0
    assert score("", "three words here") == 1
    assert score("three words here", "") == 1


def test_exact_match_is_of_the_strings_as_they_are():
    assert exact_match("a b", "a b") == 1
    assert exact_match("a b", "a  b") == 0


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("hello", "hello", 1.0),
        ("hello", "HELLO", 1.0),  # not case sensitive
        ("hello", "hallo", 1 - 1 / 5),
        ("abcd", "abxyz", 0.0),  # 3 of 5 edits: NL 0.6
        ("abcd", "abxy", 0.0),  # NL exactly 0.5 is not below the threshold
        ("abcde", "abcxy", 1 - 2 / 5),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_anls_by_the_papers_equation(reference, prediction, expected):
    assert anls(reference, prediction) == pytest.approx(expected)


def test_anls_threshold_moves():
    assert anls("abcd", "abxy", threshold=0.51) == pytest.approx(0.5)


def test_corpus_cer_weighs_by_length():
    # 1 edit of 2 characters and 1 of 8: 2/10 over all, (1/2 + 1/8) / 2 as a mean.
    references, predictions = ["ab", "abcdefgh"], ["ax", "abcdefgx"]
    assert corpus_cer(references, predictions) == pytest.approx(0.2)
    assert corpus_cer(["", "abcd"], ["xy", "abcd"]) == pytest.approx(2 / 4)
    assert corpus_cer([""], [""]) == 0
    assert corpus_cer([""], ["x"]) == 1
    with pytest.raises(ValueError):
        corpus_cer(["a"], [])


def test_normalize_composes_and_collapses():
    assert normalize("  e\u0301te\u0301\n\n  2024 ") == "\u00e9t\u00e9 2024"
    assert normalize("Case, stays.") == "Case, stays."


def test_all_scores_of_one_sample():
    scores = score_text("one two three", "one too three")
    assert (scores.char_edits, scores.chars, scores.word_edits, scores.words) == (1, 13, 1, 3)
    assert scores.cer == pytest.approx(1 / 13)
    assert scores.wer == pytest.approx(1 / 3)
    assert scores.exact_match == 0
    assert scores.anls == pytest.approx(12 / 13)


@pytest.mark.parametrize("reference", ["", "three small words"])
def test_a_failure_is_the_worst_even_on_an_empty_reference(reference):
    scores = failed_scores(reference)
    assert (scores.cer, scores.wer, scores.normalized_edit_distance) == (1, 1, 1)
    assert (scores.exact_match, scores.anls) == (0, 0)
    assert scores.char_edits == max(1, len(reference))


@given(texts, texts)
def test_bounds_and_symmetry(a, b):
    assert 0 <= normalized_edit_distance(a, b) <= 1
    assert normalized_edit_distance(a, b) == normalized_edit_distance(b, a)
    assert 0 <= anls(a, b) <= 1
    assert char_edits(a, b) == char_edits(b, a) <= max(len(a), len(b))
    assert abs(len(a) - len(b)) <= char_edits(a, b)


@given(texts, texts)
def test_no_error_means_equal(a, b):
    assert (cer(a, b) == 0) == (a == b) == (exact_match(a, b) == 1)


@given(texts, texts, texts)
def test_edits_obey_the_triangle_inequality(a, b, c):
    assert char_edits(a, c) <= char_edits(a, b) + char_edits(b, c)


@given(texts)
def test_normalize_is_idempotent(text):
    assert normalize(normalize(text)) == normalize(text)


plain_words = st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=8).map(" ".join)


@given(plain_words, plain_words)
def test_equals_jiwer_where_words_are_set_apart_by_single_spaces(reference, prediction):
    assert cer(reference, prediction) == pytest.approx(jiwer.cer(reference, prediction))
    assert wer(reference, prediction) == pytest.approx(jiwer.wer(reference, prediction))


@given(plain_words, plain_words)
def test_equals_anls_star_but_at_the_threshold(reference, prediction):
    if normalized_edit_distance(reference, prediction) != 0.5:
        assert anls(reference, prediction) == pytest.approx(anls_star.anls_score(reference, prediction))


def test_without_the_extra_the_error_says_what_to_install():
    code = "import sys; sys.modules['rapidfuzz'] = None; import parsit.scores"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].startswith("parsit.types.errors.UsageError")
    assert "pip install 'parsit[eval]'" in result.stderr


def test_the_best_of_several_answers_counts_for_each_score():
    scores = score_best(["dog", "the dog"], "The dog")
    assert (scores.anls, scores.exact_match) == (1.0, 0.0)
    assert (scores.char_edits, scores.chars) == (1, 7)
    assert score_best(["a", "b"], "b").exact_match == 1.0
    # ANLS may be best at another answer than CER: here at the one that differs in case alone.
    mixed = score_best(["abcd", "ABXY"], "abxy")
    assert (mixed.char_edits, mixed.anls) == (2, 1.0)
    assert score_best(["one"], "two") == score_text("one", "two")


def test_anls_over_several_answers_is_the_published_one():
    for answers, prediction in (
        (["0.28", "0.280", "28%"], "0.28 %"),
        (["Yes", "yes it is"], "yes it"),
        (["a b"], "xyz"),
    ):
        expected = anls_star.anls_score(tuple(answers), prediction)
        assert score_best(answers, prediction).anls == pytest.approx(expected)
