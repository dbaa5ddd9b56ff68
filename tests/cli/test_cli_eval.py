"""The three ways of `parsit eval`, on a miniature model with random weights."""

import json
import re

import pytest
import typst
from PIL import Image, ImageDraw

from judge_support import HEARD, stand_in_judge
from parsit import hf
from parsit.cli.main import dispatch
from parsit.types import UsageError

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    """A model, data of three kinds of answers, and a benchmark of two PDFs."""
    folder = tmp_path_factory.mktemp("eval")
    processor = hf.new_processor(mini)
    hf.new_model(mini, processor, 0).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    image = Image.new("RGB", (60, 30), "white")
    ImageDraw.Draw(image).text((5, 8), "N", fill="black")
    image.save(folder / "n.png")
    answers = ("Just a line.", f"One.\n\n{TABLE}", '{"total": "2"}')
    talks = [[{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": answer}] for answer in answers]
    records = [{"id": f"r{n}", "image": "n.png", "conversations": talk} for n, talk in enumerate(talks)]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (folder / "bench" / "pdfs" / "sub").mkdir(parents=True)
    for name in ("x.pdf", "sub/y.pdf"):
        (folder / "bench" / "pdfs" / name).write_bytes(typst.compile(b"A line.", format="pdf"))
    (folder / "bench" / "a.jsonl").write_text("{}\n")
    return folder


def evaluated(folder, out):
    arguments = ["--data", str(folder / "d.jsonl"), "--max_new_tokens", "4", "--out", str(out), "--device", "cpu"]
    return dispatch(["eval", str(folder / "model"), *arguments])


def test_scores_of_tables_order_and_fields_are_shown_where_they_apply(folder, tmp_path, capsys):
    assert evaluated(folder, tmp_path) == 0
    shown = capsys.readouterr().out
    for name in ("words that are not on the page", "TEDS, tables", "TEDS-S", "reading order", "F1 of fields", "ANLS*"):
        assert name in shown
    page = json.loads((tmp_path / "results.json").read_text())["summary"]["page"]
    assert page["teds"]["value"] == page["field_f1"]["value"] == 0
    assert page["reading_order"]["value"] == 1
    assert "TEDS, tables" in (tmp_path / "worst.html").read_text()


def test_two_results_are_compared(folder, tmp_path, capsys):
    for name in ("a", "b"):
        evaluated(folder, tmp_path / name)
    capsys.readouterr()
    assert dispatch(["eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"CER, all characters .* no difference", shown)
    assert "0 got better, 0 worse, 3 stayed" in shown
    assert "Two results compared" in (tmp_path / "compare.html").read_text()


def test_a_benchmark_is_read_and_judged_in_one_table(folder, tmp_path, capsys):
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    for name in ("x_pg1_repeat1.md", "sub/y_pg1_repeat1.md"):
        (other / name).write_text("A line.")
    systems = HEARD["systems"] | {"parsit-raw": HEARD["systems"]["parsit"]}
    judge = stand_in_judge(tmp_path, HEARD | {"systems": systems})
    command = ["eval", str(folder / "model"), "--bench", "olmocr", str(folder / "bench"), "--candidates", str(other)]
    command += ["--judge_python", judge, "--max_new_tokens", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert dispatch(command) == 0
    captured = capsys.readouterr()
    assert "read 2 pages of 2 files, 0 failed" in captured.err
    lines = captured.out.splitlines()
    assert [line.split()[1:3] for line in lines if re.search(r"│ (parsit|other)", line)] == [
        ["parsit", "│"], ["parsit-raw", "│"], ["other", "│"],
    ]  # fmt: skip
    assert any("other" in line and "100.0" in line for line in lines)
    assert "olmocr 0.4.27" in lines[-1]
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [system["name"] for system in written["systems"]] == ["parsit", "parsit-raw", "other"]
    assert written["about"]["model"] == str(folder / "model")

    # What is there is judged again without a model, and without a judge it is said what to install.
    assert dispatch(["eval", "--bench", "olmocr", str(folder / "bench"), "--judge_python", judge]) == 0
    assert "parsit-raw" in capsys.readouterr().out
    assert dispatch(["eval", "--bench", "olmocr", str(folder / "bench")]) == 0
    assert "not scored, as no judge is named" in capsys.readouterr().err


def test_omnidocbenchs_images_are_read(folder, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.open(folder / "n.png").save(tmp_path / "images" / "n.png")
    command = ["eval", str(folder / "model"), "--bench", "omnidocbench", str(tmp_path), "--max_new_tokens", "2"]
    assert dispatch([*command, "--device", "cpu"]) == 0
    assert (tmp_path / "parsit" / "n.md").is_file()
    assert "read 1 pages of 1 files" in capsys.readouterr().err
    # Of a file of truth, the pages that it names.
    Image.open(folder / "n.png").save(tmp_path / "images" / "m.png")
    truth = tmp_path / "OmniDocBench.json"
    truth.write_text(json.dumps([{"page_info": {"image_path": "m.png"}}]))
    command[4] = str(truth)
    assert dispatch([*command, "--device", "cpu"]) == 0
    assert [path.name for path in (tmp_path / "parsit").glob("*.md")] == ["m.md"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "give one of --data, --bench and --compare"),
        (["m", "--data", "d", "--bench", "olmocr", "b"], "--data and --bench: together"),
        (["--data", "d.jsonl"], "--data needs a model"),
        (["m", "--compare", "a", "b"], "leave m out"),
        (["--compare", "a", "b", "--nats"], "--nats belongs to --data, not to --compare"),
        (["m", "--data", "d", "--candidates", "x"], "--candidates belongs to --bench"),
        (["m", "--bench", "olmocr", "b", "--limit", "3"], "--limit belongs to --data"),
        (["m", "--bench", "nosuch", "BENCH"], "no such layout; known are olmocr and omnidocbench"),
        (["--bench", "omnidocbench", "BENCH"], "give MODEL alone"),
        (["m", "--bench", "olmocr", "BENCH", "--max_new_tokens", "0"], "it must be 1 or more"),
        (["m", "--bench", "olmocr", "BENCH", "--judge_python", "/nowhere"], "does not start"),
        (["--bench", "olmocr", "BENCH", "--candidates", "BENCH/pdfs"], "the name 'pdfs' is taken"),
        (["--bench", "olmocr", "BENCH", "--candidates", "."], "lacks 2 of 2 files, such as "),
        (["--bench", "olmocr", "EMPTY"], "nothing to judge"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(folder, tmp_path, argv, said):
    (tmp_path / "pdfs").mkdir()
    (tmp_path / "pdfs" / "x.pdf").write_bytes(typst.compile(b"A line.", format="pdf"))
    argv = [word.replace("BENCH", str(folder / "bench")).replace("EMPTY", str(tmp_path)) for word in argv]
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        dispatch(["eval", *argv])
    assert "\n" not in str(caught.value)
