"""Both pages, made of real crops: self-contained, escaped, and saying what the numbers say."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image, ImageDraw

from parsit.eval import (
    DemoReport,
    PageReading,
    StepTime,
    demo_page,
    evaluate,
    grounding_report,
    worst_cases_page,
    write_demo_report,
    write_worst_cases,
)
from parsit.eval.demo_report import page_sentence
from parsit.eval.plots import cer_histogram
from parsit.eval.report import worst_records
from parsit.types import Generation, ImageRef, InputError, Sample, Turn

VOID = {"meta", "img", "br", "link", "hr", "input"}
EVIL = "<script>x()</script>\u202e</style>"
# All of 12 characters, so that one wrong letter is the same CER everywhere.
TEXTS = (
    "Invoice 4711", "Berlin 3 May", "net due date", "Customer 815", "a < b & c >d", "Order phoned",
    "VAT 19% incl", "Paris 12 Jun", "Page 3 of 17", "Yours truly,", "Kg 12.5 each", "IBAN DE89 37",
)  # fmt: skip


class Page(HTMLParser):
    """Collects tags, outside references and text, and checks that every tag is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.references, self.text = [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.text += "" if tag in ("mark", "ins", "del") else " "
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def words(html):
    return " ".join(Page(html).text.split())


def assert_self_contained(html):
    page = Page(html)
    assert "script" not in page.tags
    assert all(value.startswith(("data:image/", "#")) for value in page.references), page.references
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    ids = re.findall(r'\bid="([^"]+)"', html)
    targets = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    assert {a or b for a, b in targets} <= set(ids)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """12 samples on real PNGs; sample 3 is broken, 4 is evil, 5 loops, the others are exact or one letter off."""
    folder = tmp_path_factory.mktemp("crops")
    samples = []
    for number, text in enumerate(TEXTS):
        image = Image.new("RGB", (160, 32), "white")
        ImageDraw.Draw(image).text((5, 8), text, fill="black")
        image.save(folder / f"{number}.png")
        turns = (Turn("user", (ImageRef(folder / f"{number}.png"), "Read.")), Turn("assistant", (text,)))
        samples.append(Sample(f"crop-{number}", turns, f"test.jsonl:{number + 1}"))
    return tuple(samples)


def read(crops):
    """A predict function for the crops; it knows them by file and answers "?" to any other image."""
    truth = {s.images[0].source: (number, s.turns[-1].text) for number, s in enumerate(crops)}

    def answer(turns):
        number, text = truth.get(turns[0].images[0].source, (0, "?"))
        if number == 3:
            raise InputError(f"crop {number}: the image is cut off <here>")
        if number == 4:
            return Generation(EVIL, 3, ("truncated",))
        if number == 5:
            return Generation(text + " ha" * 10, 9, ("looping",))
        return Generation(text if number % 2 else "_" + text[1:], 3)

    return lambda prompts: [answer(turns) for turns in prompts]


@pytest.fixture(scope="module")
def evaluation(crops):
    return evaluate(crops, read(crops), batch_size=5)


@pytest.fixture(scope="module")
def report(crops, evaluation, tmp_path_factory):
    truth = {s.images[0].source: s.turns[-1].text for s in crops}

    def score_nats(samples):
        return [(1.0 if truth[s.images[0].source] == s.turns[-1].text else 5.0, 2) for s in samples]

    def exact(prompts):
        return [Generation(truth.get(turns[0].images[0].source, "?"), 3) for turns in prompts]

    def untrained(prompts):
        return [Generation("zz", 1) for _ in prompts]

    folder = tmp_path_factory.mktemp("run")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 201):
            row = {"step": step, "loss": 1 + 4 * math.exp(-step / 40), "glyph_loss": 2 / step, "grad_norm": 1.0}
            if step % 50 == 0:
                row["eval_loss"] = 1.25 + 1 / step
            file.write(json.dumps(row) + "\n")
    page = PageReading(
        "manual.pdf",
        2,
        ImageRef(Image.new("L", (600, 800), 255)),
        "One lime\nmore",
        "One line\nmore",
        "its text layer",
        ("truncated",),
        1.5,
    )
    return DemoReport(
        title="Demo <1>",
        introduction=("Trained from nothing.", EVIL),
        samples=crops,
        evaluation=evaluation,
        grounding=grounding_report(crops, exact, score_nats, ["Invoice"], batch_size=4),
        metrics=folder / "metrics.jsonl",
        evaluation_before=evaluate(crops, untrained, batch_size=4),
        grounding_before=grounding_report(crops, untrained, lambda s: [(8.0, 2)] * len(s), ["Invoice"], batch_size=4),
        pages=(page,),
        settings={"learning_rate": "1e-3", "note": EVIL},
        versions={"parsit": "0.1.0"},
        machine={"cores": 2},
        steps=(StepTime("make documents", 30.0), StepTime("train", 150.0)),
        gallery=3,
    )


def test_worst_cases_page_is_one_file_and_escapes_what_models_write(crops, evaluation, tmp_path):
    path = write_worst_cases(
        tmp_path / "out" / "worst.html", evaluation, crops, title=f"Worst {EVIL}", about={"model": EVIL}
    )
    html = path.read_text(encoding="utf-8")
    assert_self_contained(html)
    assert "<script>" not in html
    assert "\u202e" not in html
    # In the tab's title, the headline, the fact and, cut up by its marks, in the reading.
    assert words(html).count("<script>x()</script>⟨U+202E⟩</style>") == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["worst.html"]


def test_worst_cases_are_ordered_and_marked(crops, evaluation):
    order = worst_records(evaluation, 50)
    cers = [evaluation.records[index].scores.cer for index in order]
    assert order[0] == 5  # the looping one: 30 characters too many of 12
    assert cers == sorted(cers, reverse=True)
    # 3 failed, and the odd ones but 5 are exact: 1, 7, 9, 11.
    assert set(order) == {0, 2, 4, 5, 6, 8, 10}
    html = worst_cases_page(evaluation, crops, title="t", worst=2)
    assert html.count("<article") == 2
    assert "The 2 with the highest CER of the 7 samples" in words(html)
    assert "<ins> ha ha ha" in html
    html = worst_cases_page(evaluation, crops, title="t")
    assert "<mark>I</mark>nvoice 4711" in html
    assert "<mark>_</mark>nvoice 4711" in html
    assert html.count('src="data:image/png') == 7


def test_worst_cases_page_names_failures_and_flags(crops, evaluation):
    text = words(worst_cases_page(evaluation, crops, title="t"))
    assert "crop-3 test.jsonl:4 crop 3: the image is cut off <here>" in text
    assert "1 failed (in every score)" in text
    assert "1 looping" in text
    assert "1 truncated" in text


def test_a_page_without_errors_says_so(crops):
    truth = {s.images[0].source: s.turns[-1].text for s in crops}
    exact = evaluate(crops, lambda ps: [Generation(truth[t[0].images[0].source], 1) for t in ps], batch_size=4)
    text = words(worst_cases_page(exact, crops, title="t"))
    assert "No sample was read with an error." in text
    assert "Failed samples" not in text


def test_histogram_counts_every_sample_once():
    svg = cer_histogram([0, 0, 0, 0.05, 0.1, 0.1000001, 1.0, 7.0, 7.0])
    labels = re.findall(r">(\d+|≤ [\d.]+|&gt; 1|> 1)</text>", svg)
    counts = [label for label in labels if label.isdigit()]
    # Bars 0, ≤ 0.1, ≤ 0.2, ≤ 1.0 and > 1 hold 3, 2, 1, 1 and 2.
    assert counts[-5:] == ["3", "2", "1", "1", "2"]


def test_demo_page_is_one_file_and_escapes(report, tmp_path):
    html = write_demo_report(tmp_path / "demo" / "report.html", report).read_text(encoding="utf-8")
    assert_self_contained(html)
    assert "<script>" not in html
    assert "\u202e" not in html


@pytest.mark.slow
def test_demo_page_shows_the_verdict_and_both_columns(report):
    text = words(demo_page(report))
    assert "✓ Yes, it looks." in text
    assert f"{report.grounding.nats_right.value:.3f}" == "0.500"
    assert "nats per token, given the right page 4.000 4.000 to 4.000 0.500 0.500 to 0.500" in text
    assert "right page − another page 0.000 0.000 to 0.000 −2.000 −2.000 to −2.000" in text
    assert f"“{report.grounding.constant_text}”" in text
    html = demo_page(report)
    # Before training no difference is in the model's favour, afterwards all three are.
    assert (html.count('class="n no"'), html.count('class="n ok"')) == (3, 3)


def test_demo_page_of_a_blind_model_says_so(report):
    blind = replace(report, grounding=report.grounding_before, grounding_before=None, evaluation_before=None)
    text = words(demo_page(blind))
    assert "✗ Not shown." in text
    assert "before training" not in text


def test_demo_page_shows_losses_times_and_settings(report):
    text = words(demo_page(report))
    assert "200 logged steps up to step 200" in text
    assert "taken 4 time(s); the last is 1.255" in text
    assert "validation loss" in text
    assert "glyph loss" in text
    assert "gradient norm" in text
    assert "learning rate" not in text  # no such column in this run
    assert "3.0 min" in text
    assert "train 150.0" in text
    assert "cores 2" in text


def test_demo_page_shows_best_middle_and_worst_by_rule(report):
    html = demo_page(report)
    text = words(html)
    best, rest = text.split("The best 3", 1)[1].split("The middle 3", 1)
    middle, worst = rest.split("The worst 3", 1)
    # Exact are 1, 7, 9, 11; one letter of 12 wrong are 0, 2, 6, 8, 10; then 3 (failed), 4 (evil), 5 (looping).
    assert re.findall(r"crop-\d+ test", best) == ["crop-1 test", "crop-7 test", "crop-9 test"]
    assert re.findall(r"crop-\d+ test", middle) == ["crop-0 test", "crop-2 test", "crop-6 test"]
    assert re.findall(r"crop-\d+ test", worst) == ["crop-3 test", "crop-4 test", "crop-5 test"]


def test_the_sentence_about_a_page_is_made_of_its_numbers(report):
    # One of 13 characters is wrong, and one of 3 words.
    sentence = page_sentence(report.pages[0])
    assert "holds 13 characters and 3 words by its text layer" in sentence
    assert "CER is 0.08 and the WER 0.33" in sentence
    assert sentence in words(demo_page(report))


def test_a_page_without_true_text_is_not_scored(report):
    assert page_sentence(replace(report.pages[0], reference=" ")).startswith("There is no true text")


def test_metrics_without_a_loss_are_refused(report, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "grad_norm": 3}\n')
    with pytest.raises(InputError, match="'loss'"):
        demo_page(replace(report, metrics=tmp_path / "metrics.jsonl"))


def test_a_run_that_logged_the_loss_alone_has_one_plot_less(report, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n')
    html = demo_page(replace(report, metrics=tmp_path / "metrics.jsonl"))
    assert html.count("<svg") == demo_page(report).count("<svg") - 1
    assert "2 logged steps up to step 2" in words(html)


def test_without_matplotlib_eval_says_in_a_line_what_to_install(tmp_path):
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "1", "conversations": talk}))
    code = "import sys; sys.modules['matplotlib'] = None; from parsit.cli.main import main; main()"
    argv = ["eval", "no-model", "--data", str(tmp_path / "d.jsonl")]
    result = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "pip install 'parsit[eval]'" in result.stderr
