from hypothesis import given
from hypothesis import strategies as st

from parsit.eval.diff import Edit, diff_spans, lay_out, visible
from parsit.scores import char_edits, normalize

texts = st.text(st.sampled_from("abé e\u0301\n\t\u00a0\u2028 \x1c\u0301") | st.characters(), max_size=25)


def test_each_kind_of_edit():
    assert diff_spans("kitten", "sitting") == (
        Edit("replace", "k", "s"),
        Edit("equal", "itt", "itt"),
        Edit("replace", "e", "i"),
        Edit("equal", "n", "n"),
        Edit("insert", "", "g"),
    )
    assert diff_spans("ab", "b")[0] == Edit("delete", "a", "")


def test_whitespace_that_the_score_ignores_is_no_difference_but_lines_stay():
    assert diff_spans("one\n\n two ", "one   two") == (Edit("equal", "one\ntwo", "one two"),)


@given(texts)
def test_laid_out_text_is_the_normalised_one_with_its_lines(text):
    assert lay_out(text).replace("\n", " ") == normalize(text)


@given(texts, texts)
def test_spans_give_back_both_texts_and_exactly_the_scored_edits(reference, prediction):
    spans = diff_spans(reference, prediction)
    assert "".join(span.reference for span in spans) == lay_out(reference)
    assert "".join(span.prediction for span in spans) == lay_out(prediction)
    marked = sum(max(len(s.reference), len(s.prediction)) for s in spans if s.kind != "equal")
    assert marked == char_edits(normalize(reference), normalize(prediction))


def test_characters_that_hide_or_turn_text_are_spelled_out():
    assert visible("a\u202eb\x00\u200b\n") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+200B⟩\n"
    assert visible("Grüße, 東京 \U0001f600") == "Grüße, 東京 \U0001f600"
