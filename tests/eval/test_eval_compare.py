"""Two results of the same samples against each other."""

import json

import pytest

from parsit.eval import evaluate
from parsit.eval.compare import compare_results, read_result, write_comparison
from parsit.types import Generation, InputError, ParsitError, Sample, Turn

TEXTS = [f"Invoice {number}, total {number * 7}.50" for number in range(40)]
TABLE = "| a | b |\n|---|---|\n| 1 | 2 |"


def result(folder, answers, texts=TEXTS, ids=None):
    """What `parsit eval --out` writes for these answers; None is a sample that fails."""
    names = ids or [f"s{place}" for place in range(len(texts))]
    samples = [
        Sample(name, (Turn("user", (str(place),)), Turn("assistant", (text,))), f"t.jsonl:{place + 1}")
        for place, (name, text) in enumerate(zip(names, texts, strict=True))
    ]

    def predict(prompts):
        found = [answers[int(turns[-1].text)] for turns in prompts]
        if None in found:
            raise ParsitError("cannot be read")
        return [Generation(text, 1) for text in found]

    evaluate(samples, predict, batch_size=1).write_results(folder)
    return read_result(folder)


def spoilt(places):
    return [text.replace("Invoice", "lnv0ice") if place in places else text for place, text in enumerate(TEXTS)]


def test_what_got_better_and_what_worse(tmp_path):
    first = result(tmp_path / "a", spoilt(range(20)))
    second = result(tmp_path / "b", spoilt(range(18, 22)))
    found = compare_results(first, second)
    assert [case.identifier for case in found.better] == [f"s{place}" for place in range(18)]
    assert [case.identifier for case in found.worse] == ["s21", "s20"]
    cer = found.differences[0]
    assert (cer.name, cer.verdict, cer.count) == ("CER, all characters", "better", 40)
    chars = sum(map(len, TEXTS))
    assert cer.first == pytest.approx(20 * 2 / chars)
    assert cer.change.value == pytest.approx((4 - 20) * 2 / chars)
    assert cer.change.high < 0
    exact = next(one for one in found.differences if one.name == "exact match")
    assert (exact.verdict, exact.change.value) == ("better", pytest.approx(16 / 40)), "higher is better here"
    assert "of 40 samples 18 got better, 2 worse, 20 stayed" in found.lines()[-1]


def test_chance_is_not_called_a_difference(tmp_path):
    found = compare_results(result(tmp_path / "a", spoilt({1, 2})), result(tmp_path / "b", spoilt({3})))
    assert {one.verdict for one in found.differences} == {"no difference"}


def test_worse_is_said_and_equal_is_equal(tmp_path):
    first, second = result(tmp_path / "a", TEXTS), result(tmp_path / "b", spoilt(range(30)))
    assert compare_results(first, second).differences[0].verdict == "worse"
    same = compare_results(first, first)
    assert {(one.change.low, one.change.high, one.verdict) for one in same.differences} == {(0, 0, "no difference")}


def test_scores_of_pages_are_compared_where_both_have_them(tmp_path):
    texts = [TABLE, f"One.\n\nTwo.\n\n{TABLE}", "A line."]
    first = result(tmp_path / "a", [TABLE, texts[1], "A line."], texts)
    second = result(tmp_path / "b", [TABLE.replace("2", "3"), texts[1], "A line."], texts)
    by_name = {one.name: one for one in compare_results(first, second).differences}
    assert by_name["TEDS, tables"].count == 2
    assert by_name["TEDS, tables"].change.value == pytest.approx(-1 / 12)
    assert by_name["reading order, edit distance"].count == 1


def test_samples_that_share_an_id_are_paired_in_their_order(tmp_path):
    ids = ["same"] * len(TEXTS)
    first, second = result(tmp_path / "a", TEXTS, ids=ids), result(tmp_path / "b", spoilt({5}), ids=ids)
    assert [case.reference for case in compare_results(first, second).worse] == [TEXTS[5]]


@pytest.mark.parametrize(
    ("other", "said"), [(TEXTS[:-1], "lacks 1 of the 40"), ([*TEXTS[:-1], "another"], "another true text")]
)
def test_other_data_is_refused(tmp_path, other, said):
    first, second = result(tmp_path / "a", TEXTS), result(tmp_path / "b", other, other)
    with pytest.raises(InputError, match=said):
        compare_results(first, second)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "holds no predictions"),
        ("{", ":1: not a line"),
        ('{"id": "a"}', "has no 'error'"),
    ],
)
def test_a_folder_without_results_is_named(tmp_path, content, said):
    if content is not None:
        (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(InputError, match=said):
        read_result(tmp_path)


def test_the_page_shows_both_readings_side_by_side_and_escapes_them(tmp_path):
    answers = [None, *TEXTS[1:]]
    first = result(tmp_path / "a", answers)
    second = result(tmp_path / "b", ["<script>x()</script>\u202e", *spoilt({7})[1:]])
    path = write_comparison(tmp_path / "page.html", compare_results(first, second))
    html = path.read_text()
    assert "<script>" not in html
    assert "⟨U+202E⟩" in html
    assert "cannot be read" in html
    assert html.count('class="card case"') == 2
    assert "<mark>" in html
    assert json.loads((tmp_path / "a" / "results.json").read_text())["summary"]["page"]["teds"] is None
