"""The one way from a place to a sample: validation, the index and a run say the same of the same data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fault_cases import CASES

from parsit import hf
from parsit.data.dataset import DataLimits, open_data
from parsit.data.faults import FAULTS, DataFault
from parsit.data.index import open_index
from parsit.data.records import DataFile
from parsit.data.sources import read_sources
from parsit.data.validate import validate_files

# What an index leaves to others: it opens one file, decodes no image, and knows no length limit.
ASKED_ELSEWHERE = ("image-damaged", "over-long")


def is_readable(file: Path) -> bool:
    """Whether there is a container for a file."""
    try:
        return bool(DataFile.of(file).container)
    except DataFault:
        return False


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not (case.code in ASKED_ELSEWHERE and case.options)],
    ids=lambda case: case.fault,
)
def test_a_run_finds_what_validation_finds(tmp_path, monkeypatch, processor, case):
    monkeypatch.setenv("PARSIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    file = case.make(folder)
    report, findings = case.validate(file, folder)
    options = {"image_folder": folder, "format_name": case.options.get("format_name", "auto")}
    sources = read_sources([file, folder / "neighbour.jsonl"])
    if not is_readable(file):
        # A file that cannot be read at all is passed over by validation, and stops a run.
        with pytest.raises(DataFault, match=case.code):
            open_data(sources, processor, DataLimits(512, max_bad_fraction=1.0), **options)
        return
    data = open_data(sources, processor, DataLimits(512, max_bad_fraction=1.0), **options)
    assert list(data.findings()) == findings
    assert Counter(data.set_aside + data.noted) == report.counts
    assert len(data) == report.good
    assert [data.samples[number].id for number in range(len(data))][-1] == "n"


def test_a_record_with_two_broken_images_is_one_record_set_aside(tmp_path, monkeypatch, processor):
    monkeypatch.setenv("PARSIT_CACHE", str(tmp_path / "cache"))
    talk = [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "Hello <|im_end|>"}]
    good = {"id": "1", "conversations": [{"from": "human", "value": "Hi"}, talk[1]]}
    bad = {"id": "2", "image": ["none.png", "gone.png"], "conversations": talk}
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, (good, bad))))
    data = open_data(read_sources([tmp_path / "d.jsonl"]), processor, DataLimits(512, max_bad_fraction=0.5))
    assert (data.num_records, len(data), data.num_bad) == (2, 1, 1)
    assert dict(data.set_aside) == {"image-missing": 1}
    assert dict(data.noted) == {"special-token-in-text": 1}
    assert [finding.code for finding in data.findings()] == [
        "special-token-in-text", "image-missing", "image-missing", "special-token-in-text",
    ]  # fmt: skip
    assert validate_files([tmp_path / "d.jsonl"]).counts == Counter(finding.code for finding in data.findings())


@pytest.mark.slow
@pytest.mark.parametrize("opened", ["validated", "indexed"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, opened):
    os.mkfifo(tmp_path / "d.jsonl")
    code = {
        "validated": "from parsit.data.validate import validate_files; print(dict(validate_files([P]).counts))",
        "indexed": "from parsit.data.index import open_index; from parsit.data.records import DataFile\n"
        "try: open_index(DataFile.of(P), None)\nexcept Exception as e: print(e)",
    }[opened]
    code = f"import sys, pathlib; P = pathlib.Path(sys.argv[1])\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "d.jsonl"], capture_output=True, text=True, timeout=200, check=True
    )
    assert "file-unreadable" in done.stdout


@pytest.mark.parametrize("name", ["none.jsonl", "nofolder/none.jsonl"])
def test_a_file_that_is_not_there_is_named_as_missing(tmp_path, processor, name):
    with pytest.raises(DataFault, match="no such data file") as caught:
        open_index(DataFile.of(tmp_path / name), processor)
    assert caught.value.code == "file-missing"
    assert FAULTS["file-missing"].remedy in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_line_that_names_the_setting(tmp_path, processor, monkeypatch):
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]})
    )
    monkeypatch.setenv("PARSIT_CACHE", "/proc/nope")
    with pytest.raises(Exception, match="PARSIT_CACHE") as caught:
        open_index(DataFile.of(Path(tmp_path / "d.jsonl")), processor)
    assert "\n" not in str(caught.value)
