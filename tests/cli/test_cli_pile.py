"""`parsit parse` of piles as processes of their own; only the model is a stand-in, as in test_cli_parse.py."""

import importlib.util
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from test_cli_parse import RUNNER

from pdf_support import text_page
from process_support import everything_shown

WORDS = b"BT /F 14 Tf 20 60 Td (The quick surveyor measured an old bridge.) Tj ET"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A runner, a model, and a pile: two pictures, a PDF with a text layer, and one that is broken."""
    folder = tmp_path_factory.mktemp("pile")
    (folder / "runner.py").write_text(RUNNER.replace("device=None", "device=None, batch_size=8"))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "pile" / "a").mkdir(parents=True)
    for name, width in (("pile/one.png", 90), ("pile/a/two.png", 120)):
        image = Image.new("RGB", (width, 60), "white")
        ImageDraw.Draw(image).rectangle((20, 20, 50, 40), "black")
        image.save(folder / name)
    (folder / "pile" / "text.pdf").write_bytes(text_page(WORDS, 400, 100))
    (folder / "pile" / "broken.pdf").write_bytes(b"%PDF-1.7 nothing more")
    return folder


@pytest.fixture
def run(folder):
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "runner.py", "parse", *map(str, words)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    return run


@pytest.mark.slow
@pytest.mark.dist
def test_a_folder_is_read_kept_and_not_read_again(run, tmp_path):
    done = run("pile", "--model", "model", "--out", tmp_path / "out", "--dpi", "72")
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (result_set,) = (tmp_path / "out").iterdir()
    assert sorted(path.relative_to(result_set).as_posix() for path in result_set.rglob("*.md")) == [
        "md/pile/a/two.png.md",
        "md/pile/one.png.md",
        "md/pile/text.pdf.md",
    ]
    assert "Read. [90] ünï" in (result_set / "md/pile/one.png.md").read_text("utf-8")
    assert "read 3 pages of 4 files" in done.stderr
    assert "engine busy" in done.stderr
    assert "broken.pdf" in done.stderr.partition("could not be read")[2]
    assert "is a damaged PDF" in (result_set / "failures.jsonl").read_text()
    assert json.loads((result_set / "set.json").read_text())["prompt"] == "Read."

    again = run("pile", "--model", "model", "--out", tmp_path / "out", "--dpi", "72", "--format", "jsonl")
    assert "read 0 pages of 4 files" in again.stderr
    lines = (result_set / "results" / "output_00000.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 4

    other = run("pile", "--model", "model", "--out", tmp_path / "out", "--dpi", "72", "--prompt", "Else.")
    assert "read 3 pages of 4 files" in other.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.dist
def test_what_failed_is_read_again_on_demand_and_drafts_of_killed_runs_are_taken_away(run, folder, tmp_path):
    """An image that the model refuses, and a model that has learnt to take it."""
    wide = Image.new("RGB", (333, 60), "white")
    wide.paste("black", (20, 20, 50, 40))
    wide.save(tmp_path / "wide.png")
    words = (
        tmp_path / "wide.png",
        "--model",
        "model",
        "--out",
        tmp_path / "out",
        "--batch_size",
        "1",
        "--split",
        "page",
    )
    assert run(*words).returncode == 1
    (result_set,) = (tmp_path / "out").iterdir()
    (part,) = (result_set / "readings").iterdir()
    draft = part.with_name(f".{part.name}.abcd1234")
    draft.write_bytes(part.read_bytes()[:40])
    runner = folder / "runner.py"
    before = runner.read_text()
    runner.write_text(before.replace("[333]", "[0]"))
    try:
        kept, retried = run(*words), run(*words, "--retry_failed")
    finally:
        runner.write_text(before)
    assert (kept.returncode, "read 0 pages of 1 files" in kept.stderr) == (1, True), kept.stderr
    assert "took away 1 unfinished part(s)" in kept.stderr
    assert not draft.exists()
    assert (retried.returncode, "read 1 pages of 1 files" in retried.stderr) == (0, True), retried.stderr
    assert "took away" not in retried.stderr
    (text,) = result_set.rglob("wide.png.md")
    assert "Read. [333] ünï" in text.read_text("utf-8")
    assert (result_set / "failures.jsonl").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.dist
def test_text_layers_alone_need_no_model_in_memory(run, tmp_path):
    done = run("pile/text.pdf", "--text_layer", "only", "--model", "model", "--out", tmp_path / "out")
    assert (done.returncode, "model loaded" in done.stderr) == (0, False), done.stderr
    (text,) = (tmp_path / "out").rglob("*.md")
    assert "The quick surveyor measured an old bridge." in text.read_text("utf-8")
    assert "(text_layer)" in text.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.dist
def test_the_options_of_a_pile_reach_it(run, tmp_path):
    words = [
        "pile/*.png",
        "--model",
        "model",
        "--out",
        tmp_path / "out",
        "--format",
        "json",
        "--retry_flagged",
        "false",
    ]
    done = run(
        *words, "--workers", "1", "--batch_size", "2", "--tables", "html", "--pages", "1", "--max_new_tokens", "7"
    )
    assert done.returncode == 0, done.stderr
    (result_set,) = (tmp_path / "out").iterdir()
    facts = json.loads((result_set / "set.json").read_text())
    assert (facts["retry_flagged"], facts["max_new_tokens"], facts["split"]) == (False, 7, "page")
    assert [path.name for path in (result_set / "json" / "pile").iterdir()] == ["one.png.json"]


@pytest.mark.slow
@pytest.mark.dist
def test_a_terminal_shows_pages_a_second_and_eta(folder, tmp_path):
    master, slave = pty.openpty()
    command = [sys.executable, "runner.py", "parse", "pile/*.png", "--model", "model", "--out", str(tmp_path / "out")]
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(command, cwd=folder, stderr=slave, stdout=subprocess.PIPE, env=environment) as process:
        os.close(slave)
        shown = everything_shown(master)
        assert process.wait() == 0
    assert "pages/s" in shown
    assert "ETA" in shown


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["pile"], "needs --out FOLDER"),
        (["pile", "--out", "runner.py"], "must be a folder"),
        (["pile", "--out", "pile"], "holds the input"),
        (["pile/one.png", "--format", "parquet"], "needs --out FOLDER"),
        (["pile", "--out", "o", "--workers", "0"], "--workers 0: must be at least 1"),
        (["pile", "--out", "o", "--actors", "2"], "--actors is of a cluster"),
        (["pile", "--out", "o", "--ray", "auto", "--actor_gpus", "-1"], "must not be negative"),
        (["pile", "--out", "o", "--pages", "3-1"], "runs backwards"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, words, part):
    done = run(*words, "--model", "model")
    assert done.returncode == 2, done.stderr
    assert part in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
def test_a_cluster_without_ray_says_what_to_install(run, tmp_path):
    done = run("pile", "--text_layer", "only", "--model", "model", "--out", tmp_path / "o", "--ray", "auto")
    assert (done.returncode, "pip install parsit[ray]" in done.stderr) == (1, True), done.stderr
