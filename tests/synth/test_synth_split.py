from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsit.synth.split import Fractions, Texts, normalise


def test_normal_form_ignores_case_width_and_white_space():
    assert normalise("  Straße\n Ｎｏ.\u00a07 ") == normalise("STRASSE no. 7") == "strasse no. 7"


@given(st.text())
def test_texts_of_one_normal_form_share_a_split(text: str):
    fractions = Fractions(0.3, 0.3)
    assert fractions.split_of(text) == fractions.split_of(f"  {text}\n")


def test_splits_have_their_sizes():
    counts = {"train": 0, "validation": 0, "test": 0}
    for number in range(20_000):
        counts[Fractions(0.05, 0.2).split_of(f"text {number}")] += 1
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts["test"] == pytest.approx(4000, abs=250)


def test_zero_fractions_leave_train_alone():
    assert {Fractions(0.0, 0.0).split_of(str(number)) for number in range(100)} == {"train"}


def test_draw_repeats_until_the_text_belongs():
    numbers = iter(range(1000))
    texts = Texts(Fractions(0.1, 0.1), "test")
    drawn = texts.draw(lambda: str(next(numbers)))
    assert texts.owns(drawn)
    assert not any(texts.owns(str(number)) for number in range(int(drawn)))


def test_draw_gives_up_on_a_source_that_says_one_thing():
    other = "test" if Fractions(0.4, 0.4).split_of("same") != "test" else "validation"
    with pytest.raises(AssertionError, match="gave no text"):
        Texts(Fractions(0.4, 0.4), other).draw(lambda: "same")
