"""What a user mistypes ends in one line, whatever the verb: places that cannot be, and numbers that mean nothing."""

from __future__ import annotations

import json
import sys

import pytest

from parsit.cli.main import main

LONG = "x" * 300  # no file system takes such a name
TALK = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """A function that runs a command line beside `d.jsonl`, and gives its exit code and what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "1", "conversations": TALK}))

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["parsit", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value)), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "command",
    [
        "info LONG",
        "data validate LONG.jsonl",
        "data show d.jsonl --out LONG.html",
        "data stats d.jsonl --model LONG",
        "data convert --input d.jsonl --output LONG.jsonl",
        "data import chartqa LONG --out o.jsonl",
        "data from-pdf LONG --out o",
        "data synth --out LONG --pages 1",
        "eval no --data d.jsonl --out LONG",
        "export LONG --out o",
        "import LONG --out o",
        "check tiny --data d.jsonl --output_dir LONG",
    ],
)
def test_a_name_that_no_file_can_have_is_told_in_a_line(said, command):
    code, err = said(*command.replace("LONG", LONG).split())
    assert code == 1
    assert err.splitlines()[-1].startswith("parsit: ")
    assert "File name too long" in err
    assert len(err.splitlines()[-1]) < 200


def test_a_question_may_be_longer_than_a_name(said):
    assert said("ask", "d.jsonl", LONG, "--model", "no")[1].endswith("or its header is damaged\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eval no --data d.jsonl --batch_size 0", "--batch_size is 0: it must be 1 or more"),
        ("eval no --data d.jsonl --max_new_tokens 0", "--max_new_tokens is 0: it must be 1 or more"),
        ("eval no --data d.jsonl --limit -3", "--limit is -3: it must be 0 or more"),
        ("eval no --data d.jsonl --worst -1", "--worst is -1: it must be 0 or more"),
        ("eval no --data d.jsonl --out d.jsonl", "--out d.jsonl is a file: name a folder"),
        ("data show d.jsonl --n 99999999999999999999 --out o.html", "--n is 99999999999999999999: it must be at most"),
        ("data from-pdf d --out o --dpi 100-", "--dpi must be LOW-HIGH, for example 96-200, not '100-'"),
        ("ask a.png --model no What", "What: words that are no flags stand together, all before the flags"),
    ],
)
def test_what_means_nothing_is_wrong_usage(said, command, message):
    code, err = said(*command.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_pdf_is_no_folder_of_pdfs(said):
    assert said("data", "from-pdf", "d.jsonl", "--out", "o")[1] == (
        "parsit: d.jsonl: is a file; name the folder that it lies in\n"
    )


def test_a_terminal_without_a_size_gets_its_table(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(sys, "argv", ["parsit", "info", "tiny"])
    with pytest.raises(SystemExit):
        main()
    assert "projector" in capsys.readouterr().out
