"""`parsit data validate`: what it prints, its exit codes, and that nothing depends on the number of processes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from parsit.cli.data_validate import validate
from parsit.data.selection import Source
from parsit.data.sources import read_sources
from parsit.data.validate import Rules, validate_files, validate_sources
from parsit.types import InputError, ParsitError, UsageError
from process_support import everything_shown

TALK = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
SEEN = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Hello"}]
SCRIPT = "import sys; from parsit.cli.data_validate import validate; sys.exit(validate(sys.argv[1:]))"


def write(path: Path, *records: object) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def talk(name: str, **fields: object) -> dict[str, object]:
    return {"id": name, "conversations": TALK} | fields


def test_a_clean_file_says_so_and_exits_with_0(tmp_path, capsys):
    path = write(tmp_path / "d.jsonl", talk("1"), talk("2"))
    assert validate([str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "files: 1; samples: 2 (parsit 2); images looked at: 0; faults: 0; notes: 0\n"
        "2 of 2 samples would be trained on\n"
    )
    assert err == ""


def test_faults_are_listed_most_frequent_first_and_exit_with_1(tmp_path, capsys):
    path = write(tmp_path / "d.jsonl", "{oops", talk("1"), "[]", "[1]", talk("1"))
    assert validate(["--input", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "files: 1; samples: 5 (parsit 2); images looked at: 0; faults: 3; notes: 1"
    assert lines[1].split() == ["code", "count", "level", "meaning", "for", "example", "what", "to", "do"]
    assert [line.split()[:3] for line in lines[2:-1]] == [
        ["record-not-an-object", "2", "fault"],
        ["json-broken", "1", "fault"],
        ["id-duplicate", "1", "note"],
    ]
    starts = {line.index(word) for line, word in zip(lines[1:5], ("level", "fault", "fault", "note"), strict=True)}
    assert len(starts) == 1, "columns are aligned"
    assert f"{path}:3" in lines[2]
    assert lines[-1] == "2 of 5 samples would be trained on"


def test_notes_alone_exit_with_0(tmp_path):
    assert validate([str(write(tmp_path / "d.jsonl", talk("1"), talk("1")))]) == 0


def test_images_are_opened_in_the_files_own_folder_or_the_named_one(tmp_path, capsys, picture):
    picture(20, 10, name="a.png")
    records = [{"id": name, "image": f"{name}.png", "conversations": SEEN} for name in ("a", "b")]
    path = write(tmp_path / "d.jsonl", *records)
    for folder in ([], ["--image_folder", str(tmp_path)]):
        assert validate([str(path), *folder]) == 1
        out = capsys.readouterr().out
        assert "images looked at: 2; faults: 1;" in out
        assert "image-missing" in out
    with pytest.raises(InputError, match="no such image folder"):
        validate([str(path), "--image_folder", str(tmp_path / "none")])


def test_images_inside_the_data_need_no_folder(tmp_path):
    url = "data:image/png;base64,aGVsbG8="
    path = write(tmp_path / "d.jsonl", {"id": "1", "image": url, "conversations": SEEN})
    report = validate_files([path])
    assert (report.counts, report.images) == ({"image-unknown-format": 1}, 1)
    report = validate_files([path], check_images=False)
    assert (report.counts, report.images, report.good) == ({}, 0, 1)


def test_a_mixture_names_files_and_their_folders(tmp_path, capsys, picture):
    picture(20, 10, name="pictures/a.png")
    write(tmp_path / "a.jsonl", {"id": "a", "image": "a.png", "conversations": SEEN})
    write(tmp_path / "b.jsonl", talk("b"), talk("c"))
    mixture = tmp_path / "m.yaml"
    mixture.write_text(
        "datasets:\n- {json_path: a.jsonl, image_folder: pictures}\n"
        "- {json_path: b.jsonl, sampling_strategy: 'first:1'}\n- {json_path: b.jsonl, weight: 3}\n"
    )
    assert validate([str(mixture)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "files: 2; samples: 3 (parsit 3); images looked at: 1; faults: 0; notes: 0",
        "3 of 3 samples would be trained on",
    ]


def test_duplicates_are_found_across_files_and_name_the_first(tmp_path):
    first = write(tmp_path / "a.jsonl", talk("1"), {"conversations": TALK}, talk("2"))
    second = write(tmp_path / "b.jsonl", talk("3"), talk("2"), talk("2"), {"conversations": TALK})
    report = validate_files([first, second])
    assert report.counts == {"id-duplicate": 2}
    assert [(finding.place, finding.sample_id, finding.detail) for finding in report.examples["id-duplicate"]] == [
        (f"{second}:2", "2", f"{first}:3 has the same id"),
        (f"{second}:3", "2", f"{first}:3 has the same id"),
    ]


def test_duplicates_come_in_the_order_of_the_data(tmp_path):
    names = [str(number) for number in range(20)]
    path = write(tmp_path / "a.jsonl", *map(talk, names + names))
    findings = tmp_path / "findings.jsonl"
    validate_files([path], findings_file=findings)
    entries = [json.loads(line) for line in findings.read_text().splitlines()]
    assert [entry["id"] for entry in entries] == names
    assert [entry["place"] for entry in entries] == [f"{path}:{number}" for number in range(21, 41)]


def many(folder: Path) -> list[Path]:
    """More records than two processes have under way, with faults, notes and a file that breaks off."""
    records: list[object] = [talk(str(number)) for number in range(1700)]
    records[300], records[650] = "{oops", talk("7")
    records[301] = {"id": "x", "image": "none.png", "conversations": SEEN}
    lines = write(folder / "a.jsonl", *records)
    (folder / "b.json").write_text(json.dumps([talk(f"b{number}") for number in range(300)])[:-20])
    return [lines, folder / "b.json"]


def test_the_number_of_processes_changes_nothing(tmp_path):
    paths = many(tmp_path)
    seen: list[tuple[int, int]] = []
    results = []
    for workers in (1, 2):
        findings = tmp_path / f"{workers}.jsonl"
        report = validate_files(
            paths, tmp_path, workers=workers, findings_file=findings, on_progress=lambda *c: seen.append(c)
        )
        results.append((report, findings.read_text()))
        assert sum(count for count, _ in seen) == 1999
        assert {total for _, total in seen} == {1999}
        seen.clear()
    assert results[0] == results[1]
    assert [json.loads(line)["code"] for line in results[0][1].splitlines()] == [
        "json-broken",
        "image-missing",
        "json-cut-off",
        "id-duplicate",
    ]
    assert (results[0][0].samples, results[0][0].good) == (1999, 1997)


def test_all_findings_are_written_and_only_findings_are_replaced(tmp_path):
    path = write(tmp_path / "d.jsonl", *["[]"] * 10)
    out = tmp_path / "out" / "findings.jsonl"
    for _ in range(2):
        assert validate([str(path), "--findings", str(out)]) == 1
        entries = [json.loads(line) for line in out.read_text().splitlines()]
        assert [entry["place"] for entry in entries] == [f"{path}:{number}" for number in range(1, 11)]
        assert set(entries[0]) == {"code", "level", "place", "id", "detail", "remedy"}
    before = path.read_text()
    for holds_data in (path, write(tmp_path / "good.jsonl", talk("1"))):
        with pytest.raises(UsageError, match="holds no findings"):
            validate([str(path), "--findings", str(holds_data)])
    assert path.read_text() == before
    with pytest.raises(ParsitError, match="cannot be written"):
        validate_files([path], findings_file=path / "below" / "a.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one data file"),
        (["d.jsonl", "--workers", "0"], "--workers must be 1 or more"),
        (["d.jsonl", "--model_max_length", "9"], "name the --model as well"),
        (["d.jsonl", "--model", "tiny/nostage"], "nostage"),
        (["d.jsonl", "--model", "tiny", "--model_max_length", "0"], "--model_max_length must be 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(arguments, message):
    with pytest.raises(UsageError, match=message):
        validate(arguments)


def test_a_format_that_does_not_exist_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        validate(["d.jsonl", "--format", "alpaca"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_with_a_model_samples_that_are_too_long_are_found(tmp_path, picture):
    picture(300, 100, name="a.png")
    long = {"id": "long", "conversations": [TALK[0], {"from": "gpt", "value": "word " * 400}]}
    missing = {"id": "m", "image": "none.png", "conversations": SEEN}
    path = write(tmp_path / "d.jsonl", talk("1"), long, {"id": "i", "image": "a.png", "conversations": SEEN}, missing)
    out = tmp_path / "findings.jsonl"
    assert validate([str(path), "--model", "tiny", "--model_max_length", "300", "--findings", str(out)]) == 1
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(entry["code"], entry["id"]) for entry in entries] == [("over-long", "long"), ("image-missing", "m")]
    long["conversations"][1]["value"] = "word " * 600
    write(path, long)
    for model in ("tiny", "tiny/scratch"):  # which trains on 512 tokens at most
        assert validate([str(path), "--model", model, "--findings", str(out)]) == 1
        assert json.loads(out.read_text())["code"] == "over-long"
    with pytest.raises(InputError, match="no model there"):
        validate([str(path), "--model", str(tmp_path), "--model_max_length", "300"])


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    path = write(tmp_path / "d.jsonl", talk("1"))
    code = (
        "import sys; from parsit.cli.data_validate import validate; validate(sys.argv[1:]);"
        " sys.exit(bool({'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_terminal_sees_a_table_and_a_bar(tmp_path):
    path = write(tmp_path / "d[red].jsonl", talk("1"), "{oops")
    here, there = pty.openpty()
    environment = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path.name], stdout=there, stderr=there, env=environment, cwd=tmp_path
    )
    os.close(there)
    shown = everything_shown(here)
    assert done.returncode == 1
    assert "│ json-broken" in shown
    assert "d[red].jsonl:2" in shown, "a place is no markup"
    assert "2/2" in shown
    assert "ETA" in shown


def test_a_worker_that_is_killed_is_an_error_of_one_line(tmp_path):
    paths = many(tmp_path)
    with pytest.raises(ParsitError, match="a worker process was killed"):
        validate_sources([Source(path) for path in paths], Rules(count=die, model_max_length=1), workers=2)


def die(_: object) -> int:
    os.kill(os.getpid(), 9)
    return 0


def test_braces_name_several_files(tmp_path, capsys):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", talk(name))
    assert validate([str(tmp_path / "{a,b}.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("files: 2; samples: 2")
    assert len(read_sources([str(tmp_path / "{a,b}.jsonl")])) == 2


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path, capsys):
    path = write(tmp_path / "a\x1b[2J\nb.jsonl", "{oops")
    assert validate([str(path)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("\n") == 4
