"""docs/own-documents.md, run as it stands on two dozen invoices, with the smallest model and two steps."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typst

from parsit import hf
from parsit.config import load_architecture
from parsit.parse.pages import PageFile

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "own-documents.md"
HERE = {"MODEL": "tiny", "STAGE": "lora", "START": "start", "LENGTH": "4096"}
INVOICE = """#set page(width: 9cm, height: 6cm, margin: 5mm)
= Invoice {number}
Date: {date} #h(1fr) Total: {total} EUR
"""


def commands() -> list[str]:
    """The page's commands in order; a command goes on behind a backslash."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.match(r"    (parsit|python) ", line)]


def scripts() -> dict[str, str]:
    """The page's Python, by the name in its first line."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Invoices as PDFs and one as a scan, a table of their answers, and a model to begin with."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "documents").mkdir()
    rows = []
    for number in range(24):
        row = {"number": f"RE-{1000 + 7 * number}", "date": f"{number + 1} May 2024", "total": f"1.{100 + number},00"}
        path = folder / "documents" / f"{number:04}.pdf"
        path.write_bytes(typst.compile(INVOICE.format(**row).encode()))
        rows.append([path.name, *row.values()])
    with PageFile(path, dpi=100) as file:
        file.page(1).image.save(path.with_suffix(".jpg"))
    path.unlink()
    rows[-1][0] = path.with_suffix(".jpg").name
    rows[5][3] = ""  # a document without a total
    with (folder / "answers.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["file", "invoice_number", "date", "total"], *rows])
    architecture = load_architecture("tiny")
    processor = hf.new_processor(architecture)
    hf.new_model(architecture, processor, 0).save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    return folder


def run(folder: Path, command: str) -> str:
    """What a command of the page prints; a run has two steps."""
    command += " --max_steps 2" if command.startswith("parsit train") else ""
    words = re.sub("^parsit", f"{sys.executable} -m parsit.cli", re.sub("^python", sys.executable, command))
    done = subprocess.run(
        ["bash", "-euc", words], cwd=folder, env=os.environ | HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_every_command_of_the_page_works_and_says_what_the_page_says(folder):
    for name, text in scripts().items():
        (folder / name).write_text(text)
    said = {command.split(" --")[0]: run(folder, command) for command in commands()}
    records = [json.loads(line) for line in (folder / "records" / "train.jsonl").read_text().splitlines()]
    assert {record["id"] for record in records} <= {path.name for path in (folder / "documents").iterdir()}
    assert "faults: 0" in said["parsit data validate records/train.jsonl records/validation.jsonl records/test.jsonl"]
    assert "FAILED" not in said["parsit check $MODEL/$STAGE"]
    assert "trained 2 steps" in said["parsit train $MODEL/$STAGE"]
    assert "exact match" in said["parsit eval runs/own"]
    assert 0 < float(said["python constant.py"].split()[-1]) < 1
    assert (folder / "own-model" / "model.safetensors").is_file()
    assert (folder / "records" / "show.html").is_file()


def test_the_records_hold_every_document_once_with_what_is_printed(folder):
    found = {}
    for name in ("train", "validation", "test"):
        for line in (folder / "records" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            assert (folder / "records" / record["image"]).is_file()
            found[record["id"]] = json.loads(record["conversations"][1]["value"])
    assert len(found) == 24
    assert found["0001.pdf"] == {"invoice_number": "RE-1007", "date": "2 May 2024", "total": "1.101,00"}
    assert found["0005.pdf"]["total"] is None
    assert "0023.jpg" in found


def test_the_variables_of_the_page_are_those_of_the_test():
    assert re.findall(r"^    ([A-Z]+)=", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(HERE)
