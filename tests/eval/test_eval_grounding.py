import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from parsit.eval import best_constant, blank_samples, evaluate, grounding_report, shuffled_images
from parsit.scores import corpus_cer
from parsit.types import FileSlice, Generation, ImageRef, InputError, ParsitError, Sample, Turn


def page(folder: Path, name: str, text: str, size=(120, 30), **save) -> Path:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((4, 4), text, fill="black")
    path = folder / name
    image.save(path, **save)
    return path


def sample(name, answer, *sources):
    images = tuple(ImageRef(source) for source in sources)
    return Sample(name, (Turn("user", (*images, "Read.")), Turn("assistant", (answer,))), f"test.jsonl:{name}")


@pytest.fixture
def fields(tmp_path):
    texts = [f"No {1000 + 37 * number} due" for number in range(30)]
    return [sample(str(i), text, page(tmp_path, f"{i}.png", text)) for i, text in enumerate(texts)]


def test_best_constant_takes_the_best_candidate():
    found = best_constant(["abc", "abd", "abe"], ["zzz", "abd", "abd", "q"])
    # abd: 1 + 0 + 1 edits; no string has fewer, as the three differ pairwise.
    assert found.edits == 2
    assert found.tried > 5


def test_best_constant_improves_character_by_character():
    # No candidates: from "" by one insertion at a time to the text itself.
    assert best_constant(["total"] * 3).text == "total"
    assert best_constant(["total"] * 3).edits == 0


def test_best_constant_is_never_worse_than_any_candidate_or_the_empty_answer():
    references = ["12 Main Street", "Berlin", "total due", "x"]
    candidates = ["Street", "Berlin due", "total"]
    found = best_constant(references, candidates)
    cers = [corpus_cer(references, [text] * 4) for text in ["", *candidates]]
    assert found.edits / sum(map(len, references)) <= min(cers)
    assert corpus_cer(references, [found.text] * 4) == pytest.approx(found.edits / sum(map(len, references)))


def test_best_constant_counts_a_reference_as_often_as_it_occurs():
    assert best_constant(["aaaa"] * 5 + ["bbbb"], ["bbbb", "aaaa"]).text == "aaaa"


def test_best_constant_stops_at_its_budget_with_long_references():
    references = [f"word {number} " * 20 for number in range(400)]
    small = best_constant(references, references, budget=1.0)
    assert small.tried == 256  # one chunk of the 401 candidates
    assert small == best_constant(references, references, budget=1.0)


def test_blank_pages_are_white_and_of_the_same_size(tmp_path):
    turned = Image.new("RGB", (50, 20), "black")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter when shown
    turned.save(tmp_path / "turned.jpg", exif=exif)
    buffer = io.BytesIO()
    Image.new("L", (7, 9), 0).save(buffer, "PNG")
    decoded = Image.new("RGB", (11, 13), "black")
    before = sample("a", "x", tmp_path / "turned.jpg", buffer.getvalue(), decoded)
    (after,) = blank_samples([before])
    images = [Image.open(io.BytesIO(image.source)) for image in after.images]
    assert [image.size for image in images] == [(20, 50), (7, 9), (11, 13)]
    assert all(image.getextrema() == (255, 255) for image in images)
    assert [turn.text for turn in after.turns] == [turn.text for turn in before.turns]


def test_an_unreadable_image_stays_so_that_it_fails_with_its_own_reason(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    before = [sample("a", "x", tmp_path / "bad.png"), sample("b", "x", tmp_path / "missing.png")]
    assert blank_samples(before) == before


def test_every_sample_gets_another_image_and_every_image_is_used_once(fields):
    shuffled = shuffled_images(fields, seed=5)
    own = [s.images[0].source for s in fields]
    given = [s.images[0].source for s in shuffled]
    assert all(a != b for a, b in zip(own, given, strict=True))
    assert sorted(own) == sorted(given)
    assert [s.turns[-1] for s in shuffled] == [s.turns[-1] for s in fields]
    assert shuffled == shuffled_images(fields, seed=5)
    assert shuffled != shuffled_images(fields, seed=6)


def test_questions_about_one_page_are_given_another_page(tmp_path):
    pages = [page(tmp_path, f"{n}.png", str(n)) for n in range(4)]
    samples = [sample(f"{n}-{q}", "x", path) for n, path in enumerate(pages) for q in range(n + 1)]  # 1, 2, 3, 4
    for seed in range(20):
        for before, after in zip(samples, shuffled_images(samples, seed), strict=True):
            assert before.images[0].source != after.images[0].source


def test_numbers_of_images_are_kept_and_text_only_samples_left_alone(tmp_path):
    a, b, c, d = (page(tmp_path, f"{n}.png", n) for n in "abcd")
    samples = [
        sample("1", "x", a),
        sample("2", "x", b, c),
        sample("3", "x"),
        sample("4", "x", d),
        sample("5", "x", c, a),
    ]
    shuffled = shuffled_images(samples, seed=0)
    assert [len(s.images) for s in shuffled] == [1, 2, 0, 1, 2]
    assert [i.source for i in shuffled[1].images] == [c, a]
    assert shuffled[2] == samples[2]


def test_a_page_shared_by_more_than_half_is_refused(tmp_path):
    one, two = page(tmp_path, "1.png", "1"), page(tmp_path, "2.png", "2")
    with pytest.raises(InputError, match="2 of the 3"):
        shuffled_images([sample("a", "x", one), sample("b", "x", one), sample("c", "x", two)], seed=0)


def test_equal_bytes_and_the_same_decoded_image_are_one_page():
    def png(shade):
        buffer = io.BytesIO()
        Image.new("L", (8, 8), shade).save(buffer, "PNG")
        return buffer.getvalue()

    decoded = Image.new("L", (8, 8), 3)
    samples = [sample(str(n), "x", source) for n, source in enumerate([png(1), png(1), png(2), decoded, decoded])]
    for seed in range(20):
        for before, after in zip(samples, shuffled_images(samples, seed), strict=True):
            assert before.images[0].source != after.images[0].source


def test_references_to_one_page_of_a_tar_or_under_two_paths_are_one_page(tmp_path):
    """Whatever way a page is referred to, another one is given."""
    one, two = page(tmp_path, "1.png", "1"), page(tmp_path, "2.png", "2")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for path in (one, two):
            shard.add(path, path.name)
    with tarfile.open(tmp_path / "shard.tar") as shard:
        first, second = (FileSlice(tmp_path / "shard.tar", m.offset_data, m.size) for m in shard.getmembers())
    again = FileSlice(tmp_path / ".." / tmp_path.name / "shard.tar", first.offset, first.size)
    (tmp_path / "copy.png").write_bytes(one.read_bytes())
    same = [first, again, one, tmp_path / "copy.png"]
    others = [page(tmp_path, f"{n}.png", str(n)) for n in range(3, 7)]
    samples = [sample(str(n), "x", source) for n, source in enumerate([*same, second, two, *others])]
    for seed in range(20):
        for after in shuffled_images(samples, seed)[: len(same)]:
            assert after.images[0].source not in same, seed
    with pytest.raises(InputError, match="3 of the 4"):
        shuffled_images([sample(str(n), "x", image) for n, image in enumerate([first, again, one, second])], seed=0)


def test_a_page_of_a_tar_has_a_blank_of_its_size(tmp_path):
    path = page(tmp_path, "1.png", "1")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(path, path.name)
    with tarfile.open(tmp_path / "shard.tar") as shard:
        (member,) = shard.getmembers()
    (blank,) = blank_samples([sample("a", "x", FileSlice(tmp_path / "shard.tar", member.offset_data, member.size))])
    with Image.open(path) as own, Image.open(io.BytesIO(blank.images[0].source)) as white:
        assert white.size == own.size
        assert white.getextrema() == (255, 255)


def reader(samples):
    """Reads a page by knowing its file: right on its own page, "No 1 due" on anything else."""
    truth = {s.images[0].source: s.turns[-1].text for s in samples}

    def predict(prompts):
        return [Generation(truth.get(turns[0].images[0].source, "No 1 due"), 4) for turns in prompts]

    def score_nats(given):
        return [(2.0 if truth[s.images[0].source] == s.turns[-1].text else 9.0, 4) for s in given]

    return predict, score_nats


def test_a_reader_looks(fields):
    predict, score_nats = reader(fields)
    grounding = grounding_report(fields, predict, score_nats, ["No 1 due"], batch_size=8)
    assert grounding.looks
    assert grounding.model.value == 0
    assert grounding.blank.value > 0
    assert grounding.model_minus_blank.value == pytest.approx(-grounding.blank.value)
    assert 0 < grounding.constant.value <= grounding.blank.value
    assert grounding.nats_right.value == pytest.approx(0.5)
    assert grounding.nats_other.value == pytest.approx(2.25)
    assert grounding.right_minus_other.value == pytest.approx(-1.75)
    assert "below zero" in grounding.reason
    assert (grounding.count, grounding.nats_count, grounding.failed) == (30, 30, 0)


def test_a_blind_model_does_not_look_and_the_reason_names_all_three(fields):
    grounding = grounding_report(
        fields,
        lambda prompts: [Generation("No 1 due", 4) for _ in prompts],
        lambda s: [(3.0, 4)] * len(s),
        [],
        batch_size=8,
    )
    assert not grounding.looks
    for words in ("blank page", "best constant answer", "another page"):
        assert words in grounding.reason


def test_better_text_but_no_better_loss_is_not_looking(fields):
    predict, _ = reader(fields)
    grounding = grounding_report(fields, predict, lambda s: [(3.0, 4)] * len(s), [], batch_size=8)
    assert not grounding.looks
    assert "another page" in grounding.reason
    assert "blank page" not in grounding.reason


def test_a_failed_sample_counts_in_each_cer_and_has_no_nats(fields):
    predict, score_nats = reader(fields)
    broken = fields[3].images[0].source

    def failing(prompts):
        if any(turns[0].images[0].source == broken for turns in prompts):
            raise ParsitError("cut off")
        return predict(prompts)

    run = evaluate(fields, failing, batch_size=4)
    grounding = grounding_report(fields, failing, score_nats, [], batch_size=4, evaluation=run)
    chars = sum(record.scores.chars for record in run.records)
    assert grounding.model.value == pytest.approx(len(fields[3].turns[-1].text) / chars)
    assert (grounding.count, grounding.failed, grounding.nats_count) == (30, 1, 29)


def test_a_sample_without_an_image_is_refused(fields):
    predict, score_nats = reader(fields)
    with pytest.raises(InputError, match=r"test\.jsonl:none.*no image"):
        grounding_report([*fields, sample("none", "x")], predict, score_nats, [], batch_size=8)


def test_too_few_readable_samples_are_refused(fields):
    def failing(prompts):
        raise ParsitError("cut off")

    with pytest.raises(InputError, match="only 0 of the samples can be read"):
        grounding_report(fields, failing, lambda s: [(1.0, 1)] * len(s), [], batch_size=8)


def test_two_questions_on_one_page_of_a_tar_file_never_swap_it(tmp_path):
    """Each reference is an object of its own, as records are read; the page behind them is one."""
    shard = tmp_path / "d.tar"
    shard.write_bytes(b"ab")
    samples = [
        Sample(f"{page}{n}", (Turn("user", (ImageRef(FileSlice(shard, page, 1)), f"Q{n}")), Turn("assistant", ("x",))))
        for page in (0, 1)
        for n in (0, 1)
    ]
    for seed in range(5):
        for sample, swapped in zip(samples, shuffled_images(samples, seed), strict=True):
            assert sample.images[0].source.offset != swapped.images[0].source.offset


def test_an_image_in_a_tar_file_is_blanked_by_its_size(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (31, 17), "red").save(buffer, "PNG")
    (tmp_path / "d.tar").write_bytes(b"x" + buffer.getvalue())
    ref = ImageRef(FileSlice(tmp_path / "d.tar", 1, len(buffer.getvalue())))
    (blank,) = blank_samples([Sample("1", (Turn("user", (ref,)), Turn("assistant", ("x",))))])
    with Image.open(io.BytesIO(blank.images[0].source)) as image:
        assert (image.size, image.convert("L").getextrema()) == ((31, 17), (255, 255))
