import pytest

from parsit.eval import evaluate
from parsit.eval.breakdown import by_class, by_length, character_class, describe_cer, findings
from parsit.types import Generation, ParsitError, Sample, Turn


def run(pairs):
    """An evaluation of (true text, text read or None for a failure) pairs."""
    samples = [
        Sample(str(i), (Turn("user", (str(i),)), Turn("assistant", (true,)))) for i, (true, _) in enumerate(pairs)
    ]

    def predict(prompts):
        read = pairs[int(prompts[0][0].text)][1]
        if read is None:
            raise ParsitError("cut off")
        return [Generation(read, 1)]

    return evaluate(samples, predict, batch_size=1)


@pytest.mark.parametrize(
    ("char", "name"), [("ß", "letters"), ("7", "digits"), (".", "punctuation"), ("€", "punctuation"), (" ", "spaces")]
)
def test_classes_of_characters(char, name):
    assert character_class(char) == name


def test_characters_right_by_class():
    rows = {row.name: row for row in by_class(run([("ab 12.", "ab 13.x"), ("cd", None)]))}
    assert (rows["letters"].count, rows["letters"].right.value, rows["letters"].inserted) == (4, 0.5, 1)
    assert (rows["digits"].count, rows["digits"].right.value) == (2, 0.5)
    assert (rows["punctuation"].right.value, rows["spaces"].right.value) == (1, 1)


def test_bins_of_length():
    rows = by_length(run([("abcde", "abcde"), ("abcdef", "abcdxx"), ("x" * 700, "x" * 350)]))
    assert [(row.shortest, row.longest, row.count) for row in rows] == [(0, 5, 1), (6, 10, 1), (641, None, 1)]
    assert [row.cer.value for row in rows] == pytest.approx([0, 2 / 6, 0.5])
    assert [row.exact.value for row in rows] == [1, 0, 0]


def test_findings_are_computed_from_the_numbers():
    text = " ".join(findings(run([("abcd", "abcd"), ("1234567890", "123"), ("ef", None), ("gh", "gh")])))
    assert "2 of 4 answers (50.0 %) without an error" in text
    assert "50.0 edits per 100 characters" in text  # 7 + 2 edits of 18 characters
    assert "best at letters (75.0 % right) and worst at digits (30.0 %)" in text
    assert "1 could not be read at all" in text


@pytest.mark.parametrize(
    ("cer", "words"), [(0, "every"), (0.01, "nearly"), (0.5, "fragments"), (0.9, "not a usable"), (3.0, "not a usable")]
)
def test_words_for_a_cer(cer, words):
    assert words in describe_cer(cer)
