"""Readings of a benchmark's pages, where its judge looks for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typst
from PIL import Image

from judge_support import HEARD, stand_in_judge
from parsit.eval.bench import BenchFolder, write_readings
from parsit.eval.judge import check_judge, judge_folder
from parsit.eval.postprocess import cut_loop, postprocess
from parsit.types import Document, InputError, Page, ParsitError, UsageError

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(tmp_path):
    """A folder in olmOCR-bench's layout: a PDF of two pages, one in a folder, one that is none."""
    root = tmp_path / "bench"
    (root / "pdfs" / "sub").mkdir(parents=True)
    typst_source = b"One.#pagebreak()Two."
    for name in ("x.pdf", "sub/y.pdf"):
        (root / "pdfs" / name).write_bytes(typst.compile(typst_source, format="pdf"))
    (root / "pdfs" / "z.PDF").write_bytes(b"nothing")
    (root / "a.jsonl").write_text("{}\n")
    return root


def read(file):
    if file.name == "z.PDF":
        raise InputError(f"{file}: no PDF")
    pages = [Page(1, "```markdown\nOne.\n```", 10, 10), Page(2, "", 10, 10, ("failed",), error="cannot be drawn")]
    return Document(str(file), tuple(pages))


def test_readings_lie_where_olmocrs_judge_looks(bench):
    ticks = []
    done = write_readings(BenchFolder.open(bench, "olmocr"), read, {"model": "m"}, lambda: ticks.append(1))
    found = sorted(str(path.relative_to(bench / "parsit")) for path in (bench / "parsit").rglob("*.md"))
    assert found == [
        "sub/y_pg1_repeat1.md", "sub/y_pg2_repeat1.md", "x_pg1_repeat1.md", "x_pg2_repeat1.md", "z_pg1_repeat1.md",
    ]  # fmt: skip
    assert (bench / "parsit/x_pg1_repeat1.md").read_text() == "One."
    assert (bench / "parsit-raw/x_pg1_repeat1.md").read_text() == "```markdown\nOne.\n```"
    assert (bench / "parsit/z_pg1_repeat1.md").read_text() == "", "what fails is there, and empty"
    assert (done.files, done.pages, len(done.failures), len(ticks)) == (3, 5, 3, 3)
    assert any("z.PDF" in failure and "no PDF" in failure for failure in done.failures)
    assert json.loads((bench / "parsit/parsit.json").read_text()) == {"model": "m"}


def test_readings_of_before_are_gone_and_a_run_that_breaks_leaves_them(bench):
    folder = BenchFolder.open(bench, "olmocr")
    write_readings(folder, read, {})
    (bench / "parsit" / "left_pg1_repeat1.md").write_text("old")

    def broken(file):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        write_readings(folder, broken, {})
    assert (bench / "parsit" / "left_pg1_repeat1.md").exists()
    write_readings(folder, read, {})
    assert not (bench / "parsit" / "left_pg1_repeat1.md").exists()
    assert sorted(path.name for path in bench.iterdir()) == ["a.jsonl", "parsit", "parsit-raw", "pdfs"]


def test_a_folder_of_somebody_else_is_not_replaced(bench):
    (bench / "parsit").mkdir()
    (bench / "parsit" / "notes.md").write_text("mine")
    with pytest.raises(UsageError, match="was not written by"):
        write_readings(BenchFolder.open(bench, "olmocr"), read, {})
    assert (bench / "parsit" / "notes.md").read_text() == "mine"


def test_omnidocbench_wants_one_file_for_each_image(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("page-1.jpg", "b.c.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("")
    done = write_readings(
        BenchFolder.open(tmp_path, "omnidocbench"), lambda file: Document("", (Page(1, file.name, 1, 1),)), {}
    )
    assert done.failures == ()
    assert {path.name: path.read_text() for path in (tmp_path / "parsit").glob("*.md")} == {
        "page-1.md": "page-1.jpg",
        "b.c.md": "b.c.png",
    }


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", r"truth\.json\[0\] has no page_info\.image_path"),
        ('[{"page_info": {"image_path": "a.png"}}, {"page_info": {}}]', r"\[1\] has no page_info"),
        ('[{"page_info": {"image_path": "b.png"}}]', "there is no image b.png in"),
        ('[{"page_info": {"image_path": "../a.png"}}]', r"there is no image \.\./a\.png"),
        ('[{"page_info": {"image_path": "/a.png"}}]', "there is no image /a.png"),
        ('[{"page_info": {"image_path": "a.png"}}, {"page_info": {"image_path": "sub/a.png"}}]', "both be read into a"),
        ("[]", "holds no pages"),
    ],
)
def test_a_truth_that_names_no_pages_is_refused_in_a_line(tmp_path, truth, said):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("images/a.png", "images/sub/a.png", "a.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "truth.json").write_text(truth)
    with pytest.raises(InputError, match=said) as caught:
        BenchFolder.open(tmp_path / "truth.json", "omnidocbench")
    assert "\n" not in str(caught.value)


def test_two_images_with_one_name_are_refused_before_one_reading_is_lost(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.new("L", (4, 4)).save(tmp_path / "images" / name)
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.png would both be read into a\.md"):
        BenchFolder.open(tmp_path, "omnidocbench")


@pytest.mark.parametrize(("layout", "what"), [("olmocr", "PDFs"), ("omnidocbench", "images")])
def test_a_folder_without_pages_is_no_benchmark(tmp_path, layout, what):
    with pytest.raises(InputError, match=what):
        BenchFolder.open(tmp_path, layout)


LOOP = "Total 12.50 and more. "


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        ("A page.\n\nIts end.\n", "A page.\n\nIts end."),
        ("```markdown\n# A\n\ntext\n```", "# A\n\ntext"),
        ("```\ncut off at its en", "cut off at its en"),
        ("text\n```\ncode\n```\nmore", "text\n```\ncode\n```\nmore"),
        ("```\na\n```\nb\n```\nc\n```", "```\na\n```\nb\n```\nc\n```"),
        ("a  \n\n\n\n\nb", "a\n\nb"),
        ("Sums: " + LOOP * 9, "Sums: " + LOOP.strip()),
        ("a" * 300, "a"),
        ("x" + "." * 39, "x" + "." * 39),
        ("Total | 0 | 0 | 0 | 0", "Total | 0 | 0 | 0 | 0"),
        (LOOP * 3, (LOOP * 3).strip()),
        ("", ""),
    ],
)
def test_only_form_is_mended(raw, mended):
    assert postprocess(raw) == mended
    assert postprocess(mended) == mended


def test_a_loop_that_breaks_off_in_its_middle_is_kept_once():
    assert cut_loop("Text. " + "abcdefghij" * 6 + "abc") == "Text. abcdefghijabc"


def test_scores_are_means_of_categories(bench, tmp_path):
    systems = {"parsit": bench / "pdfs", "other": bench / "pdfs"}
    scores = judge_folder(bench, systems, stand_in_judge(tmp_path, HEARD))
    first, second = scores.systems
    assert first.categories["a"].value == 0.5
    assert first.overall.value == pytest.approx((0.5 + 0) / 2)
    assert (first.overall.low, first.overall.high) == (0, 0.5), "a category of one test does not move"
    assert second.overall.value == second.overall.low == 1
    assert scores.counts() == {"a": 2, "baseline": 1}
    assert scores.judge == "olmocr 0.4.27"


def test_a_system_that_the_judge_leaves_out_is_an_error(bench, tmp_path):
    systems = {"other": {"errors": ["missing MD for x.pdf", "and y"], "passed": {}, "why": {}}}
    with pytest.raises(InputError, match=r"missing MD for x\.pdf \(and 1 more\)"):
        judge_folder(bench, {"other": bench}, stand_in_judge(tmp_path, HEARD | {"systems": systems}))


def test_a_judge_that_fails_is_quoted(bench, tmp_path):
    with pytest.raises(ParsitError, match=r"exit code 3\): the last line"):
        judge_folder(bench, {"other": bench}, stand_in_judge(tmp_path, HEARD, ends=3))


def test_without_tests_there_is_nothing_to_judge(bench, tmp_path):
    (bench / "a.jsonl").unlink()
    with pytest.raises(InputError, match=r"no \.jsonl file of tests"):
        judge_folder(bench, {"other": bench}, stand_in_judge(tmp_path, HEARD))


@pytest.mark.parametrize(
    ("python", "said"), [(sys.executable, "cannot import olmocr"), ("/nowhere/python", "not start")]
)
def test_a_python_without_the_judge_is_refused_with_what_to_install(python, said):
    with pytest.raises(UsageError, match=said) as caught:
        check_judge(python)
    assert "\n" not in str(caught.value)
    assert "pip install" in str(caught.value) or "not start" in said


def make_set(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "bench_set.py", "--out", out, "--pages", "10", *more]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_set_is_the_same_for_a_seed_and_has_all_six_kinds_of_tests(tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, ("3", "3", "4"), strict=True):
        assert make_set(folder, "--seed", seed).returncode == 0
    texts = [{path.name: path.read_text() for path in sorted(folder.glob("*.jsonl"))} for folder in folders]
    assert texts[0] == texts[1] != texts[2]
    pdfs = [{path.name: path.read_bytes() for path in folder.rglob("blank/*.pdf")} for folder in folders[:2]]
    assert pdfs[0] == pdfs[1]
    tests = [json.loads(line) for text in texts[0].values() for line in text.splitlines()]
    assert {test["type"] for test in tests} == {"present", "absent", "order", "table", "math", "baseline"}
    assert len({test["id"] for test in tests}) == len(tests)
    for test in tests:
        assert (folders[0] / "pdfs" / test["pdf"]).is_file()
        truth = (folders[0] / "truth" / f"{test['pdf'].removesuffix('.pdf')}_pg1_repeat1.md").read_text()
        if test["type"] == "present":
            assert " ".join(test["text"].split()) in " ".join(truth.split())
        if test["type"] == "absent":
            assert test["text"] not in truth
    assert "exists" in make_set(folders[0]).stderr


@pytest.mark.external
def test_the_truth_passes_all_tests_by_olmocrs_own_judge(tmp_path):
    """And nothing passes where nothing is read, but what asks for nothing."""
    python = os.environ["PARSIT_JUDGE_PYTHON"]
    check_judge(python)
    assert make_set(tmp_path / "set").returncode == 0
    for path in (tmp_path / "set" / "truth").rglob("*.md"):
        empty = tmp_path / "empty" / path.relative_to(tmp_path / "set" / "truth")
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_text("")
    scores = judge_folder(tmp_path / "set", {"truth": tmp_path / "set" / "truth", "empty": tmp_path / "empty"}, python)
    truth, empty = scores.systems
    assert truth.why == {}
    assert truth.overall.value == 1
    asks_for_nothing = {name for name, test in scores.tests.items() if test["type"] == "absent" or "blank" in name}
    assert {name for name, passed in empty.passed.items() if passed} == asks_for_nothing
