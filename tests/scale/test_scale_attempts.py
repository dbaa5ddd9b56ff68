"""What is read again, and which reading is kept."""

from collections.abc import Sequence

import pytest
from PIL import Image, ImageDraw

from parsit.parse.open_page import OpenPage, Unit, page_of
from parsit.parse.pages import PageImage
from parsit.scale.attempts import RULE, WARMER, UnitReading, badness, halves
from parsit.scale.drawing import DrawnPage, lengths_of
from parsit.scale.page_reading import PageReading
from parsit.types import GREEDY, Confidence, Generation, Page, ParsitError

LATIN = "thick lettered hill that holds tall built bridges "


def lines(count: int = 12) -> Image.Image:
    image = Image.new("RGB", (700, 30 * count + 40), "white")
    for line in range(count):
        ImageDraw.Draw(image).text((10, 10 + 30 * line), LATIN, "black", font_size=20)
    return image


def reading(text: str, *flags: str, confidence: float = 0.5) -> Generation:
    return Generation(text, 3, flags, Confidence(confidence, 0.1), 10)


def read_unit(answers: Sequence[Generation | ParsitError], image: Image.Image | None = None, retries: bool = True):
    """A unit read with these answers, one after the other; gives it and the jobs that it asked for."""
    page = OpenPage(1)
    unit = Unit(page, 0, image or lines(), box=None)
    page.units = [unit]
    jobs, settled = [], []
    one = UnitReading(unit, 100.0, retries, jobs.append, lambda: settled.append(True))
    one.start()
    for place, answer in enumerate(answers):
        jobs[place].on_done(answer, 1.0)
    assert len(jobs) == len(answers)
    assert settled == [True]
    return one, jobs


def test_what_is_good_is_read_once():
    one, jobs = read_unit([reading("good")])
    assert (one.unit.reading.text, one.report, one.num_tokens) == ("good", None, 3)
    assert jobs[0].sampling == GREEDY


def test_without_retries_what_loops_stays():
    one, _ = read_unit([reading("loop", "looping")], retries=False)
    assert (one.unit.reading.flags, one.report) == (("looping",), None)


def test_a_warmer_reading_that_ends_is_kept():
    one, jobs = read_unit([reading("loop", "looping"), reading("warm", confidence=0.2)])
    assert jobs[1].sampling == WARMER
    assert (one.unit.reading.text, one.unit.reading.flags) == ("warm", ("retried",))
    assert one.report["kept"] == "warmer"
    assert [attempt["flags"] for attempt in one.report["tried"]] == [["looping"], []]
    assert (one.num_tokens, one.num_prompt_tokens, one.unit.page.seconds) == (6, 20, 2.0)


def test_smaller_tiles_are_tried_last_and_joined():
    answers = [reading("loop", "looping"), reading("cut", "truncated"), reading("top"), reading("bottom")]
    one, jobs = read_unit(answers)
    assert one.unit.reading.text == "top\nbottom"
    assert one.report["kept"] == "smaller"
    assert sum(job.image.height for job in jobs[2:]) == one.unit.image.height
    assert jobs[2].length == jobs[3].length == 50


def test_among_equally_bad_ones_confidence_decides_then_the_first():
    def kept(*confidences: float) -> str:
        answers = [reading("a", "looping", confidence=one) for one in confidences]
        return read_unit([*answers, answers[-1]])[0].report["kept"]

    assert kept(0.5, 0.9, 0.6) == "warmer"
    assert kept(0.5, 0.5, 0.5) == "first"


def test_an_image_that_cannot_be_cut_is_not():
    image = Image.new("RGB", (50, 50), "white")
    ImageDraw.Draw(image).line((0, 0, 49, 49), "black", width=3)
    one, _ = read_unit([reading("a", "looping")] * 2, image)
    assert one.report["kept"] == "first"


def test_what_the_engine_refuses_fails_the_page_and_later_refusals_do_not():
    one, _ = read_unit([ParsitError("too much")])
    assert one.unit.page.error == "too much"
    one, _ = read_unit([reading("a", "looping"), ParsitError("too much")])
    assert (one.unit.page.error, one.unit.reading.text) == ("", "a")


@pytest.mark.parametrize("across", [True, False])
def test_an_image_is_cut_between_what_is_printed(across):
    image = Image.new("L", (300, 100), "white")
    for x in (0, 160):
        ImageDraw.Draw(image).rectangle((x, 10, x + 120, 90), "black")
    image = image.rotate(90, expand=True) if across else image
    one, other = halves(image.convert("RGB"), across)
    size = (one.height, other.height) if across else (one.width, other.width)
    assert sum(size) == 300
    assert 120 < size[0] < 180


def page_reading(image: Image.Image, answer, aspect: float | None = None, flags: tuple[str, ...] = ()):
    """A page read with an answer for each image that is asked about; gives the page and what the record says."""
    page = page_of(PageImage(4, image, flags), aspect)
    waiting, done = [], []
    PageReading(
        DrawnPage(page, lengths_of(page)),
        retries=True,
        max_line_aspect=aspect,
        ask=waiting.append,
        on_done=lambda page, facts: done.append((page, facts)),
    ).start()
    while waiting:
        job = waiting.pop(0)
        job.on_done(answer(job), 0.5)
    ((result, facts),) = done
    return result, facts


@pytest.mark.parametrize("aspect", [None, 9.0])
def test_a_page_upside_down_is_turned_and_the_better_one_kept(aspect):
    upright = lines()

    def answer(job) -> Generation:
        # What a model says of Latin that hangs: something that ought to stand. Upright, the same.
        return reading(LATIN, confidence=0.4)

    result, facts = page_reading(upright.rotate(180), answer, aspect)
    assert "upside_down" not in result.flags
    assert facts["rotation"] == 180
    assert facts["retries"][0]["kept"] == "turned"
    assert "upside_down" in facts["retries"][0]["tried"][0]["flags"]
    assert facts["rule"] == RULE
    once, facts = page_reading(upright, answer, aspect)
    assert (facts["rotation"], "retries" in facts, "retried" in once.flags) == (0, False, False)
    assert once.text == result.text


def test_a_page_that_hangs_and_reads_worse_on_its_head_stays():
    calls = []

    def answer(job) -> Generation:
        calls.append(job)
        return reading(LATIN, confidence=0.9) if len(calls) == 1 else reading("x", "looping", "truncated")

    result, facts = page_reading(lines().rotate(180), answer)
    assert (facts["rotation"], facts["retries"][0]["kept"]) == (0, "as it lies")
    assert "upside_down" in result.flags


def test_a_page_that_fails_on_its_head_is_not_preferred():
    calls = []

    def answer(job) -> Generation | ParsitError:
        calls.append(job)
        return reading(LATIN) if len(calls) == 1 else ParsitError("too much")

    result, facts = page_reading(lines().rotate(180), answer)
    assert (result.error, facts["rotation"]) == ("", 0)


def test_the_rule_counts_faults_first():
    def bad(*flags: str, confidence: float | None = 0.5):
        return badness(flags, None if confidence is None else Confidence(confidence, 0.1))

    assert bad() < bad("looping", confidence=0.99) < bad("looping", "truncated", confidence=1.0)
    assert bad(confidence=0.9) < bad("retried", confidence=0.5) < bad(confidence=None)


def test_a_blank_page_is_done_without_the_engine():
    result, facts = page_reading(Image.new("RGB", (200, 200), "white"), None, flags=("blank",))
    assert isinstance(result, Page)
    assert (result.text, facts["num_tokens"]) == ("", 0)
