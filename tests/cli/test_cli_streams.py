"""What the verbs do where stdout takes few characters, and where the home folder cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

# Only the model is a stand-in; the verb, its output and its exit code are the real ones.
ASK = """
import sys
import parsit.cli.ask
from parsit.types import Generation

class Reader:
    def answers(self, *_, **__):
        return [Generation("Łódź ≤ 12 € \\udc80", 3, ())]

parsit.cli.ask.load_reader = lambda *_: Reader()
parsit.cli.ask.require_answering = lambda _: None
from parsit.cli.main import main
main()
"""


@pytest.fixture
def data(tmp_path) -> Path:
    """A data file with one good sample, whose name no narrow encoding holds."""
    Image.new("RGB", (60, 30), "white").save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Łódź"}]
    path = tmp_path / "łódź.jsonl"
    path.write_text(json.dumps({"id": "ł", "image": "a.png", "conversations": turns}) + "\n")
    return path


def run(*words: str, cwd: Path, program=("-m", "parsit.cli"), **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *program, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_an_answer_is_utf8_whatever_the_encoding_of_stdout(data, encoding):
    words = ("ask", "a.png", "What?", "--model", "x")
    done = run(*words, cwd=data.parent, program=("-c", ASK), PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Łódź ≤ 12 € \\udc80\n".encode(), b"")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "words", [["data", "validate", "łódź.jsonl"], ["parse", "--help"], ["data", "import", "--help"]]
)
def test_a_notice_escapes_what_stdout_lacks(data, encoding, words):
    told = [*words, "--image_folder", "."] if words[-1] != "--help" else words
    done = run(*told, cwd=data.parent, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) > 100 or b"1 of 1 samples" in done.stdout


@pytest.mark.slow
def test_a_data_file_that_is_not_there_is_said_to_be_missing(data):
    done = run("data", "stats", "nosuch.jsonl", cwd=data.parent)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert line == "parsit: nosuch.jsonl: no such data file: check the path [file-missing]"


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["HOME", "XDG_CACHE_HOME", "PARSIT_CACHE"])
def test_a_cache_folder_that_cannot_be_written_is_one_line(data, setting):
    (data.parent / "file").touch()
    places = {"PARSIT_CACHE": "", "XDG_CACHE_HOME": "", setting: str(data.parent / "file" / "home")}
    done = run("data", "stats", data.name, "--image_folder", ".", cwd=data.parent, **places)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert line.startswith(f"parsit: {data.parent / 'file' / 'home'}")
    assert "PARSIT_CACHE" in line


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_ends_nothing(data, closed):
    words = ("ask", "a.png", "What?", "--model", "x")
    command = ["bash", "-c", f'"$@" {closed}', "bash", sys.executable, "-c", ASK, *words]
    done = subprocess.run(command, cwd=data.parent, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (done.stdout == b"") == (closed != "2>&-")


def test_a_full_disk_is_told_in_a_line(data):
    command = ["bash", "-c", '"$@" > /dev/full', "bash", sys.executable, "-m", "parsit.cli", "--help"]
    done = subprocess.run(command, cwd=data.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "parsit: No space left on device\n")
