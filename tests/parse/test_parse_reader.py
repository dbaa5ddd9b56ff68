"""`Reader` with real files and an engine that tells what it was shown instead of reading it."""

import gc
import io
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from PIL import Image

from parsit.parse.open_page import Listener
from parsit.parse.pages import PageError, ReadingLimits
from parsit.parse.reader import Engine, OnDelta, Reader
from parsit.types import (
    GREEDY,
    Confidence,
    Delta,
    FileSlice,
    Generation,
    InputError,
    Page,
    ParsitError,
    Sampling,
    TokenScore,
    Turn,
    UsageError,
)
from pdf_support import ENDLESS

BAR = b"10 10 40 30 re f"


@dataclass
class Describing:
    """Answers with the width of the first image; keeps what it was asked."""

    batch_size: int = 2
    read_prompt: str = "Read it."
    reading_unit: str = "page"
    tasks: tuple[str, ...] = ()
    answer: Callable[[Turn], Generation] = lambda turn: Generation(str(turn.images[0].source.width), 1)
    batches: list[list[tuple[Turn, ...]]] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    samplings: list[Sampling] = field(default_factory=list)

    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
    ) -> list[Generation]:
        self.samplings.append(sampling)
        assert len(conversations) <= self.batch_size
        self.batches.append(list(conversations))
        self.limits.append(max_new_tokens)
        answers = [self.answer(turn) for (turn,) in conversations]
        for place, answer in enumerate(answers):
            if on_delta:
                on_delta(place, Delta(answer.text, TokenScore(0, 0.0)))
        return answers


@pytest.fixture
def five_pages(pages_pdf):
    """Pages 72, 144, … 360 wide; the third is blank."""
    return pages_pdf([(72 * n, 72, b"" if n == 3 else BAR) for n in range(1, 6)])


def test_pages_are_read_in_batches_and_blank_ones_are_not_asked_for(five_pages):
    engine: Engine = Describing()
    seen: list[Page] = []
    document = Reader(engine).parse(five_pages, dpi=72, on_page=seen.append)
    assert [page.text for page in document.pages] == ["72", "144", "", "288", "360"]
    assert [page.number for page in document.pages] == [1, 2, 3, 4, 5]
    assert [page.flags for page in document.pages] == [(), (), ("blank",), (), ()]
    assert [(page.width, page.height) for page in document.pages] == [(72 * n, 72) for n in range(1, 6)]
    assert [len(batch) for batch in engine.batches] == [2, 2]
    assert seen == list(document.pages)
    assert document.source == str(five_pages)
    assert all(page.seconds > 0 for page in document.pages)


def test_a_page_is_given_out_as_soon_as_it_is_done(five_pages):
    engine = Describing(batch_size=1)
    batches_when_seen = []
    Reader(engine).parse(five_pages, on_page=lambda page: batches_when_seen.append(len(engine.batches)))
    assert batches_when_seen == [1, 2, 2, 3, 4]


@pytest.mark.parametrize("split", ["page", "lines"])
def test_a_page_that_is_done_lets_go_of_its_pictures_at_once(five_pages, split):
    engine, drawn = Describing(), []
    listener = Listener(on_drawn=lambda page: drawn.append(weakref.ref(page.image)))
    gc.disable()
    try:
        Reader(engine).parse(five_pages, dpi=72, split=split, listener=listener)
        engine.batches.clear()
        assert [page() for page in drawn] == [None] * 5
    finally:
        gc.enable()


def test_the_image_comes_before_the_prompt_as_in_training_data(five_pages):
    engine = Describing()
    Reader(engine).parse(five_pages, pages="1")
    Reader(engine).parse(five_pages, pages="1", prompt="Give me JSON.", max_new_tokens=7)
    turns = [batch[0][0] for batch in engine.batches]
    assert [(turn.role, len(turn.images), turn.text, turn.parts[1]) for turn in turns] == [
        ("user", 1, "Read it.", "Read it."),
        ("user", 1, "Give me JSON.", "Give me JSON."),
    ]
    assert engine.limits == [4400, 7]


def test_chosen_pages_in_the_order_chosen(five_pages):
    document = Reader(Describing()).parse(five_pages, pages="5,1-2", dpi=72)
    assert [page.text for page in document.pages] == ["360", "72", "144"]


def test_lines_are_joined_by_newlines_and_their_pieces_by_spaces(typeset):
    path = typeset(
        "#set page(width: 400pt, height: 100pt)\n#set text(hyphenate: false)\n"
        "A line that is a good deal longer than one crop may be \\\nshort \\\nlast"
    )
    engine = Describing(batch_size=3, reading_unit="line", answer=lambda turn: Generation("x", 1))
    [page] = Reader(engine, max_line_aspect=9).parse(path).pages
    first, *rest = page.text.split("\n")
    assert rest == ["x", "x"]
    assert set(first.split(" ")) == {"x"}
    assert 2 <= len(first.split(" ")) <= 4
    assert engine.limits[0] == 96
    sizes = [turn.images[0].source.size for batch in engine.batches for (turn,) in batch]
    assert all(width <= 9 * height for width, height in sizes)


def test_split_overrides_what_the_model_was_trained_on(typeset):
    path = typeset("#set page(width: 144pt, height: 72pt, margin: 9pt)\none line")
    assert Reader(Describing(reading_unit="line")).parse(path, split="page", dpi=72).text == "144"
    reader = Reader(Describing(reading_unit="page"))
    assert int(reader.parse(path, split="lines", dpi=72).text) < 72
    with pytest.raises(UsageError, match="'page' or 'lines'"):
        reader.parse(path, split="words")


def test_a_page_carries_the_flags_of_all_its_lines(typeset):
    path = typeset("#set page(width: 300pt, height: 100pt)\none \\\ntwo \\\nthree")
    flags = iter([("truncated",), (), ("looping", "truncated")])
    engine = Describing(reading_unit="line", answer=lambda turn: Generation("x", 1, next(flags)))
    [page] = Reader(engine, retry=False).parse(path).pages
    assert page.flags == ("truncated", "looping")
    assert [line.flags for line in page.lines] == [("truncated",), (), ("looping", "truncated")]


def test_what_loops_or_is_cut_is_read_once_more_and_marked(typeset):
    path = typeset("#set page(width: 300pt, height: 100pt)\none \\\ntwo \\\nthree")
    readings = iter(
        [
            Generation("loops", 9, ("looping",)),
            Generation("good", 3),
            Generation("cut", 9, ("truncated",)),
            Generation("mended", 3),
            Generation("cut again", 9, ("truncated",)),
        ]
    )
    engine = Describing(batch_size=3, reading_unit="line", answer=lambda turn: next(readings))
    told = []
    [page] = Reader(engine).parse(path, listener=Listener(on_text=told.append)).pages
    assert page.text == "mended\ngood\ncut"
    assert [line.flags for line in page.lines] == [("retried",), (), ("truncated", "retried")]
    assert page.flags == ("retried", "truncated")
    assert [len(batch) for batch in engine.batches] == [3, 2]
    assert [sampling.temperature > 0 for sampling in engine.samplings] == [False, True]
    assert [(delta.unit, delta.attempt, delta.text) for delta in told] == [
        (0, 0, "loops"),
        (1, 0, "good"),
        (2, 0, "cut"),
        (0, 1, "mended"),
        (2, 1, "cut again"),
    ]


def test_lines_have_boxes_and_pages_a_confidence_over_all_tokens(typeset):
    path = typeset("#set page(width: 300pt, height: 100pt)\none \\\ntwo")
    readings = iter([Generation("a", 1, (), Confidence(0.5, 0.5)), Generation("b", 3, (), Confidence(0.9, 0.2))])
    drawn = []
    reader = Reader(Describing(reading_unit="line", answer=lambda turn: next(readings)))
    [page] = reader.parse(path, dpi=72, listener=Listener(on_drawn=drawn.append)).pages
    assert page.confidence == Confidence(pytest.approx((0.5 + 3 * 0.9) / 4), 0.2)
    first, second = page.lines
    assert (first.text, first.confidence.mean, second.text) == ("a", 0.5, "b")
    assert 0 <= first.box[0] < first.box[2] <= page.width
    assert first.box[1] < first.box[3] <= second.box[3] <= page.height
    assert [image.number for image in drawn] == [1]
    assert (page.width, page.height) == drawn[0].image.size


@pytest.mark.parametrize(("second", "page_flags"), [(0.99, ()), (0.7, ("low_confidence",))])
def test_a_line_below_the_threshold_is_flagged_and_a_page_by_all_its_tokens(typeset, second, page_flags):
    path = typeset("#set page(width: 300pt, height: 100pt)\none \\\ntwo \\\nthree")
    means = iter([0.94, second, 0.96])
    engine = Describing(
        reading_unit="line", answer=lambda turn: Generation("x", 3, (), Confidence(mean := next(means), mean / 2))
    )
    document = Reader(engine).parse(path)
    low = ("low_confidence",)
    assert [line.flags for line in document.pages[0].lines] == [low, low if second < 0.95 else (), ()]
    assert document.pages[0].flags == page_flags
    assert ("(low_confidence)" in document.to_markdown()) == bool(page_flags)


def test_a_schema_goes_to_the_engine_as_text(five_pages):
    engine = Describing()
    Reader(engine).ask(five_pages, "?", pages="1", schema={"type": "object"})
    Reader(engine).ask(five_pages, "?", pages="1", schema='{"type": "array"}')
    assert [sampling.schema for sampling in engine.samplings] == ['{"type": "object"}', '{"type": "array"}']


def test_a_page_without_lines_is_flagged(tmp_path):
    image = Image.new("L", (300, 300), 255)
    image.paste(0, (100, 100, 200, 200))  # a solid square is a ruling line to the splitter, not text
    image.save(tmp_path / "square.png")
    [page] = Reader(Describing(reading_unit="line")).parse(tmp_path / "square.png").pages
    assert (page.text, page.flags) == ("", ("no_lines",))


@pytest.mark.slow
def test_a_page_that_cannot_be_drawn_is_kept_on_request(pages_pdf):
    path = pages_pdf([(72, 72, BAR), (999, 999, ENDLESS), (144, 72, BAR)])
    reader = Reader(Describing(), limits=ReadingLimits(timeout_s=5))
    document = reader.parse(path, dpi=72, on_error="keep")
    assert [page.text for page in document.pages] == ["72", "", "144"]
    assert document.pages[1].flags == ("failed",)
    assert document.pages[1].error == "the PDF renderer took longer than 5 s"
    assert '"error": "the PDF renderer took' in document.to_json()
    with pytest.raises(PageError, match=r"written.pdf, page 2: the PDF renderer took"):
        reader.parse(path)


def test_a_page_that_the_model_cannot_take_is_found_in_its_batch(five_pages):
    def answer(turn: Turn) -> Generation:
        if turn.images[0].source.width == 288:
            raise ParsitError("4,097 tokens are more than the model's 4,096")
        return Generation("ok", 1)

    reader = Reader(Describing(batch_size=4, answer=answer))
    document = reader.parse(five_pages, dpi=72, on_error="keep")
    assert [page.text for page in document.pages] == ["ok", "ok", "", "", "ok"]
    assert document.pages[3].error == "4,097 tokens are more than the model's 4,096"
    with pytest.raises(PageError, match="page 4: 4,097 tokens"):
        reader.parse(five_pages, dpi=72)


def test_a_fault_of_ours_is_not_taken_for_the_pages(five_pages):
    def answer(turn: Turn) -> Generation:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Reader(Describing(answer=answer)).parse(five_pages, on_error="keep")


def test_a_question_sees_all_pages_in_one_conversation(five_pages, tmp_path):
    Image.new("RGB", (33, 44)).save(tmp_path / "photo.png")
    encoded = io.BytesIO()
    Image.new("RGB", (55, 66)).save(encoded, "PNG")
    engine = Describing(answer=lambda turn: Generation("forty-two", 3))
    reader = Reader(engine)
    sources = [five_pages, tmp_path / "photo.png", encoded.getvalue(), Image.new("RGB", (77, 88))]
    assert reader.ask(sources, "How much?", dpi=72) == "forty-two"
    [[(turn,)]] = engine.batches
    assert [image.source.width for image in turn.images] == [72, 144, 216, 288, 360, 33, 55, 77]
    assert turn.parts[-1] == turn.text == "How much?"
    assert engine.limits == [256]


def test_questions_are_asked_in_batches(five_pages):
    engine = Describing(answer=lambda turn: Generation(turn.text.upper(), 1, ("truncated",)))
    answers = Reader(engine, retry=False).answers(five_pages, ["a", "b", "c"], pages="2")
    assert [answer.text for answer in answers] == ["A", "B", "C"]
    assert answers[0].flags == ("truncated",)
    assert [len(batch) for batch in engine.batches] == [2, 1]


def test_a_missing_page_is_an_error_before_the_model_is_asked(five_pages):
    engine = Describing()
    for call in (
        lambda: Reader(engine).parse(five_pages, pages="6"),
        lambda: Reader(engine).ask(five_pages, "?", pages="6"),
    ):
        with pytest.raises(InputError, match="has 5 pages"):
            call()
    assert engine.batches == []


def test_a_question_may_be_about_an_image_inside_a_file(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(buffer, "PNG")
    (tmp_path / "shard.bin").write_bytes(b"before" + buffer.getvalue() + b"after")
    inside = FileSlice(tmp_path / "shard.bin", 6, len(buffer.getvalue()))
    engine = Describing()
    assert Reader(engine).ask(inside, "How wide?") == "30"
    assert Reader(engine).ask([inside, inside], "How wide?") == "30"
    assert len(engine.batches[-1][0][0].images) == 2
