"""`parsit parse` and `parsit ask` as processes of their own; only the model is a stand-in."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typst
from PIL import Image

from process_support import everything_shown, started

# Stands where parsit.parse.engine will look for a model; everything else is the real command.
RUNNER = """
import atexit, sys, time, types
from parsit.types import Generation, ParsitError

class Engine:
    batch_size, read_prompt, reading_unit, tasks = 2, "Read.", "page", ()

    def generate(self, conversations, *, max_new_tokens, **_):
        if DELAY > 60:
            print("reading", file=sys.stderr, flush=True)
        time.sleep(DELAY)
        return [self.answer(turn) for (turn,) in conversations]

    def answer(self, turn):
        widths = [image.source.width for image in turn.images]
        if widths == [333]:
            raise ParsitError("this image is too much")
        return Generation(f"{turn.text.strip()} {widths} ünï", 3, FLAGS)

def load_engine(path, device=None):
    print("model loaded", file=sys.stderr)
    return Engine()

DELAY, FLAGS = 0.0, ()
engine = types.ModuleType("parsit.parse.engine")
engine.load_engine = load_engine
sys.modules["parsit.parse.engine"] = engine
import parsit.cli.console
parsit.cli.console.quiet_libraries = lambda: None  # there is no transformers to be quietened
if sys.argv[1] in ("--slow", "--endless"):
    DELAY = 0.3 if sys.argv[1] == "--slow" else 1e6
    del sys.argv[1]
if sys.argv[1] == "--imports":
    del sys.argv[1]
    atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))

from parsit.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a runner, a model, a PDF of three pages (the second blank), and files that fail."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "runner.py").write_text(RUNNER)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "r.typ").write_text(
        "#set page(width: 72pt, height: 72pt, margin: 9pt)\none #pagebreak()#pagebreak() three"
    )
    typst.compile(folder / "r.typ", output=folder / "report.pdf")
    (folder / "corrupt.pdf").write_bytes(b"%PDF-1.7 nothing more")
    image = Image.new("RGB", (333, 100), "white")
    image.paste("black", (20, 20, 60, 40))
    image.save(folder / "toomuch.png")
    image.crop((0, 0, 99, 100)).save(folder / "photo.webp", lossless=True)
    return folder


@pytest.fixture
def run(folder):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "runner.py", *words], cwd=folder, capture_output=True, text=True)

    return run


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line != "model loaded"]


def test_markdown_on_stdout_and_nothing_else(run):
    done = run("parse", "report.pdf", "--model", "model")
    assert done.returncode == 0
    pages = [
        "<!-- page 1 -->\n\nRead. [150] ünï\n",
        "<!-- page 2 (blank) -->\n",
        "<!-- page 3 -->\n\nRead. [150] ünï\n",
    ]
    assert done.stdout == "\n".join(pages)
    assert errors(done) == []


@pytest.mark.slow
def test_the_options_reach_the_reader(run):
    done = run(
        "parse", "report.pdf", "--model", "model", "--pages", "3", "--format", "json", "--dpi", "300", "--prompt", "Hm?"
    )
    [page] = json.loads(done.stdout)["pages"]
    assert (page["number"], page["text"], page["width"]) == (3, "Hm? [300] ünï", 300)
    done = run("parse", "report.pdf", "--model", "model", "--pages", "1", "--split", "lines", "--format", "txt")
    assert done.stdout != "Read. [150] ünï\n"
    assert done.stdout.endswith("ünï\n")


@pytest.mark.parametrize(
    ("name", "start"), [("o.md", "<!-- page 1"), ("o.json", "{"), ("o.txt", "Read."), ("O.JSON", "{")]
)
def test_the_suffix_of_out_decides_the_format(run, folder, tmp_path, name, start):
    done = run("parse", "report.pdf", "--model", "model", "--out", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_format_goes_before_the_suffix(run, tmp_path):
    run("parse", "report.pdf", "--model", "model", "--out", str(tmp_path / "o.dat"), "--format", "json")
    assert json.loads((tmp_path / "o.dat").read_text())["source"] == "report.pdf"


def test_several_files_go_to_a_folder_and_one_failure_stops_nothing(run, tmp_path):
    out = tmp_path / "new" / "folder"
    done = run("parse", "missing.pdf", "report.pdf", "toomuch.png", "photo.webp", "--model", "model", "--out", str(out))
    assert done.returncode == 1
    assert errors(done) == ["parsit: missing.pdf: no such file", "parsit: toomuch.png, page 1: this image is too much"]
    assert sorted(path.name for path in out.iterdir()) == ["photo.md", "report.md", "toomuch.md"]
    assert (out / "toomuch.md").read_text() == "<!-- page 1 (failed) -->\n"
    assert (out / "photo.md").read_text() == "<!-- page 1 -->\n\nRead. [99] ünï\n"


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("words", [["report.pdf"], ["report.pdf", "photo.webp"]])
def test_an_existing_folder_or_a_path_that_ends_in_a_slash_is_a_folder(run, tmp_path, there, words):
    out = tmp_path / "texts.json"
    if there:
        out.mkdir()
    done = run("parse", *words, "--model", "model", "--out", f"{out}{'' if there else '/'}")
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{Path(word).stem}.md" for word in words)
    assert (out / "report.md").read_text().startswith("<!-- page 1 -->")
    run("parse", "report.pdf", "--model", "model", "--out", f"{out}/", "--format", "json")
    assert json.loads((out / "report.json").read_text())["source"] == "report.pdf"


@pytest.mark.slow
def test_several_files_on_stdout(run):
    files = ("report.pdf", "photo.webp", "--model", "model")
    documents = json.loads(run("parse", *files, "--format", "json").stdout)
    assert [(document["source"], len(document["pages"])) for document in documents] == [
        ("report.pdf", 3),
        ("photo.webp", 1),
    ]
    assert "<!-- file photo.webp -->\n\n<!-- page 1 -->\n\nRead. [99] ünï\n" in run("parse", *files).stdout
    assert run("parse", *files, "--format", "txt").stdout.split("\f")[-1] == "Read. [99] ünï\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["missing.pdf"], "missing.pdf: no such file"),
        (["corrupt.pdf"], "corrupt.pdf is a damaged PDF"),
        (["corrupt.pdf", "missing.pdf"], "corrupt.pdf is a damaged PDF"),
        (["runner.py"], "runner.py is neither a PDF nor an image"),
        (["report.pdf", "--pages", "2-9"], "report.pdf has 3 pages; --pages asks for pages 4-9"),
        (["report.pdf", "--model", "nowhere"], "nowhere: no model there"),
    ],
)
def test_what_cannot_be_read_is_said_at_once_and_exits_with_1(run, words, line):
    done = run("--imports", "parse", "--model", "model", *words)
    first, *others, torch_was_imported = done.stderr.splitlines()
    assert done.returncode == 1
    assert first.startswith(f"parsit: {line}")
    assert len(others) == words.count("missing.pdf") - (words[0] == "missing.pdf")
    assert torch_was_imported == "False"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "required: FILE ("),
        (["report.pdf", "--modle", "model"], "did you mean --model?"),
        (["report.pdf", "--model", "model", "--pages", "3-1"], "'3-1' runs backwards"),
        (["report.pdf", "--model", "model", "--format", "docx"], "docx"),
        (["report.pdf", "--model", "model", "--out", "o.docx"], "no known format has the suffix 'docx'"),
        (["report.pdf", "--model", "model", "--out", "runner.py/"], "is a file; a path that ends in / is a folder"),
        (["report.pdf", "--model", "model", "--out", "no/where.md"], "there is no folder no"),
        (["report.pdf", "--model", "model", "--out", "report.pdf", "--format", "md"], "overwrite the input"),
        (["report.pdf", "photo.webp", "--model", "model", "--out", "runner.py"], "must be a folder"),
        (["report.pdf", "./report.pdf", "--model", "model", "--out", "out"], "would both be written"),
        (["report.pdf", "--model", "model", "--dpi", "0"], "--dpi 0 is outside"),
        (["report.pdf", "--model", "model", "--dpi", "nan"], "nan"),
        (["report.pdf", "--model", "model", "--max_new_tokens", "0"], "--max_new_tokens 0"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, words, part):
    done = run("parse", *words)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert part in line


@pytest.mark.slow
def test_a_result_that_cannot_be_written_leaves_the_old_one(run, folder, tmp_path):
    done = run("parse", "report.pdf", "photo.webp", "--model", "model", "--out", str(tmp_path), "--format", "md")
    assert done.returncode == 0
    (tmp_path / "report.md").unlink()
    (tmp_path / "report.md").mkdir()  # nothing can be renamed onto a folder: found when the reading is done
    (tmp_path / "report.md" / "kept").touch()
    done = run("parse", "report.pdf", "photo.webp", "--model", "model", "--out", str(tmp_path))
    assert done.returncode == 1
    assert [line.split(":")[2].strip() for line in errors(done)] == ["cannot be written"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.md", "report.md"]


def test_a_file_that_is_left_out_is_a_failure(run, tmp_path):
    done = run("parse", "report.pdf", "missing.pdf", "--model", "model", "--out", str(tmp_path))
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


@pytest.mark.skipif(sys.platform == "win32", reason="the limit on a file's size is POSIX")
def test_a_full_disk_leaves_the_old_result_whole(folder, tmp_path):
    (tmp_path / "o.md").write_text("the old result")
    command = f"ulimit -f 0; exec {sys.executable} runner.py parse report.pdf --model model --out {tmp_path}/o.md"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert [line for line in errors(done) if "cannot be written" in line]
    assert [path.name for path in tmp_path.iterdir()] == ["o.md"]
    assert (tmp_path / "o.md").read_text() == "the old result"


def test_when_it_is_interrupted_nothing_is_half_written(folder, tmp_path):
    command = [
        sys.executable,
        "runner.py",
        "--endless",
        "parse",
        "report.pdf",
        "--model",
        "model",
        "--out",
        str(tmp_path / "o.md"),
    ]
    with started(command, cwd=folder) as process:
        assert [process.stderr.readline() for _ in range(2)] == ["model loaded\n", "reading\n"]
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == "parsit: interrupted\n"
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="terminals are made with pty")
def test_a_terminal_shows_a_bar_and_the_output_stays_clean(folder):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "runner.py", "--slow", "parse", "report.pdf", "toomuch.png", "--model", "model"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = everything_shown(ours)
    output = process.communicate()[0].decode()
    assert "report.pdf" in shown
    assert "3/3" in shown
    assert "ETA" in shown
    assert "page 1: this image is too much" in shown
    assert output.startswith("<!-- file report.pdf -->")
    assert "ETA" not in output


@pytest.mark.slow
def test_ask_prints_the_answer(run):
    done = run("ask", "report.pdf", "photo.webp", "How much?", "--model", "model", "--dpi", "72")
    assert (done.returncode, done.stdout) == (0, "How much? [72, 72, 72, 99] ünï\n")
    done = run("ask", "report.pdf", "Why?", "--model", "model", "--pages", "3,1")
    assert done.stdout == "Why? [150, 150] ünï\n"


def test_ask_fails_as_a_whole(run):
    done = run("ask", "report.pdf", "missing.pdf", "How much?", "--model", "model")
    assert (done.returncode, done.stdout) == (1, "")
    assert errors(done) == ["parsit: missing.pdf: no such file"]


@pytest.mark.parametrize("words", [["report.pdf"], ["report.pdf", "photo.webp"], ["How much?"]])
def test_ask_without_a_question_or_a_file_is_wrong_usage(run, words):
    done = run("ask", *words, "--model", "model")
    assert done.returncode == 2
    assert "the question is missing" in done.stderr


@pytest.mark.parametrize("verb", ["parse", "ask"])
def test_help_needs_no_torch(run, verb):
    done = run("--imports", verb, "--help")
    assert done.returncode == 0
    assert "--pages" in done.stdout
    assert done.stderr.strip() == "False"
