import json

import pytest

from parsit.eval import evaluate
from parsit.types import Generation, InputError, ParsitError, Sample, Turn


def sample(name, answer, *, place="test.jsonl:1", prompt="Read."):
    return Sample(name, (Turn("user", (prompt,)), Turn("assistant", (answer,))), place)


def echo(answers):
    """A predict function that answers by the prompt's text."""
    return lambda prompts: [Generation(answers[turns[-1].text], 1) for turns in prompts]


def test_scores_of_a_small_set_by_hand():
    samples = [sample("a", "ab", prompt="1"), sample("b", "abcdefgh", prompt="2"), sample("c", "x  y", prompt="3")]
    found = evaluate(samples, echo({"1": "ax", "2": "abcdefgx", "3": "x\ny"}), batch_size=2)
    plain, raw = found.summary.normalized, found.summary.raw
    assert plain.cer.value == pytest.approx(2 / 13)  # 1 + 1 + 0 edits, 2 + 8 + 3 characters
    assert plain.cer_mean.value == pytest.approx((1 / 2 + 1 / 8 + 0) / 3)
    assert plain.exact_match.value == pytest.approx(1 / 3)
    assert plain.wer.value == pytest.approx(2 / 4)
    assert plain.anls.value == pytest.approx((0 + 7 / 8 + 1) / 3)
    # Raw: "x  y" against "x\ny" is one substitution and one deletion of 4 characters.
    assert raw.cer.value == pytest.approx(4 / 14)
    assert raw.exact_match.value == 0
    assert (found.summary.count, found.summary.failed) == (3, 0)
    assert [record.prediction for record in found.records] == ["ax", "abcdefgx", "x\ny"]


def test_only_the_broken_sample_fails_and_it_stays_in_the_denominator():
    calls = []

    def predict(prompts):
        calls.append(len(prompts))
        if any(turns[-1].text == "broken" for turns in prompts):
            raise InputError("p.png: cut off")
        return [Generation("abcd", 1) for _ in prompts]

    samples = [sample("a", "abcd"), sample("b", "abcd", prompt="broken"), sample("c", "abcd"), sample("d", "abcd")]
    found = evaluate(samples, predict, batch_size=3)
    assert [record.error for record in found.records] == [None, "p.png: cut off", None, None]
    assert found.records[1].prediction is None
    assert calls == [3, 1, 1, 1, 1]
    assert (found.summary.count, found.summary.failed) == (4, 1)
    assert found.summary.normalized.cer.value == pytest.approx(4 / 16)
    assert found.summary.normalized.exact_match.value == pytest.approx(3 / 4)


def test_a_bug_is_no_failed_sample():
    def predict(prompts):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        evaluate([sample("a", "x")], predict, batch_size=1)


def test_predict_gets_the_turns_before_the_last_answer():
    seen = []
    turns = (
        Turn("system", ("S",)),
        Turn("user", ("Q1",)),
        Turn("assistant", ("A1",)),
        Turn("user", ("Q2",)),
        Turn("assistant", ("A2",)),
    )

    def predict(prompts):
        seen.extend(prompts)
        return [Generation("A2", 1)]

    found = evaluate([Sample("a", turns)], predict, batch_size=4)
    assert seen == [turns[:-1]]
    assert found.records[0].reference == "A2"
    assert found.summary.normalized.exact_match.value == 1


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ((Turn("user", ("Q",)),), "ends with a user turn"),
        ((), "has no turns"),
        ((Turn("assistant", ("A",)),), "no question"),
    ],
)
def test_a_sample_without_an_answer_is_refused_before_anything_is_predicted(turns, words):
    def predict(prompts):
        raise AssertionError("must not be called")

    samples = [sample("good", "x"), Sample("bad", turns, "data/test.jsonl:7")]
    with pytest.raises(InputError, match=r"data/test\.jsonl:7.*bad.*" + words):
        evaluate(samples, predict, batch_size=1)


def test_no_samples_is_an_input_error():
    with pytest.raises(InputError, match="empty"):
        evaluate([], lambda prompts: [], batch_size=1)


def test_flags_are_counted_and_progress_is_told():
    told = []

    def predict(prompts):
        return [Generation("x", 1, ("looping", "truncated") if t[-1].text == "1" else ("looping",)) for t in prompts]

    samples = [sample("a", "x", prompt="1"), sample("b", "x", prompt="2"), sample("c", "x", prompt="3")]
    found = evaluate(samples, predict, batch_size=2, on_progress=lambda done, total: told.append((done, total)))
    assert found.summary.flags == {"looping": 3, "truncated": 1}
    assert told == [(2, 3), (3, 3)]


def test_results_are_whole_files_with_every_sample(tmp_path):
    samples = [sample("a", "Grüße\n\ud800", prompt="1"), sample("b", "x", prompt="2")]

    def predict(prompts):
        if prompts[0][-1].text == "2":
            raise ParsitError("no")
        return [Generation("Grusse \ud800", 5)]

    found = evaluate(samples, predict, batch_size=1, seed=7)
    results, predictions = found.write_results(tmp_path / "out", {"model": "runs/a"})
    content = json.loads(results.read_text())
    assert content["about"] == {"model": "runs/a"}
    assert content["interval"] == {
        "method": "percentile bootstrap over samples",
        "confidence": 0.95,
        "resamples": 1000,
        "seed": 7,
    }
    assert (content["summary"]["count"], content["summary"]["failed"]) == (2, 1)
    cer = content["summary"]["normalized"]["cer"]
    assert cer["value"] == pytest.approx((3 + 1) / 8)  # ü → u, ß → ss: 3 edits; x failed: 1
    assert cer["low"] <= cer["value"] <= cer["high"]
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["prediction"] for row in rows] == ["Grusse \ud800", None]
    assert rows[0]["reference"] == "Grüße\n\ud800"
    assert rows[1]["error"] == "no"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.jsonl", "results.json"]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "out").write_text("a file, no folder")
    found = evaluate([sample("a", "x")], lambda prompts: [Generation("x", 1)], batch_size=1)
    with pytest.raises(ParsitError, match="cannot be written") as caught:
        found.write_results(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_best_of_the_accepted_answers_is_scored(tmp_path):
    question = Turn("user", ("How much?",))
    one = Sample("1", (question, Turn("assistant", ("0.28",))), other_answers=("28 %", "0.28 percent"))
    two = Sample("2", (question, Turn("assistant", ("Yes",))), other_answers=("yes",))
    evaluation = evaluate([one, two], lambda p: [Generation("28  %", 3), Generation("no", 1)], batch_size=2)
    first, second = evaluation.records
    assert (first.scores.exact_match, first.scores.anls, first.raw_scores.exact_match) == (1.0, 1.0, 0.0)
    assert second.scores.anls == 0.0
    assert evaluation.summary.normalized.anls.value == 0.5
    _, predictions = evaluation.write_results(tmp_path, {})
    assert json.loads(predictions.read_text().splitlines()[0])["other_answers"] == ["28 %", "0.28 percent"]
