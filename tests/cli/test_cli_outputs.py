"""One rule for every verb that writes: an output never destroys an input, and what is no file is not replaced."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from PIL import Image

from parsit.cli.main import dispatch
from parsit.types import UsageError

SEEN = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Hello"}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data file with its image, a mixture that names it, and links to the data; the working folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "white").save("a.png")
    Path("d.jsonl").write_text(json.dumps({"id": "1", "image": "a.png", "conversations": SEEN}) + "\n")
    Path("m.yaml").write_text("datasets:\n- json_path: d.jsonl\n")
    Path("link.jsonl").symlink_to("d.jsonl")
    os.link("d.jsonl", "hard.jsonl")
    return tmp_path


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "argv",
    [
        *(["data", verb, "d.jsonl", "--out", out] for verb in ("show", "stats") for out in ("d.jsonl", "link.jsonl")),
        *(["data", verb, "m.yaml", "--out", out] for verb in ("show", "stats") for out in ("m.yaml", "hard.jsonl")),
        ["data", "show", "d.jsonl", "--out", "a.png"],
        ["data", "validate", "d.jsonl", "--findings", "link.jsonl"],
        ["data", "validate", "d.jsonl", "--findings", "a.png"],
        ["data", "convert", "--input", "d.jsonl", "--output", "link.jsonl", "--overwrite"],
        ["data", "convert", "--input", "d.jsonl", "--output", "hard.jsonl", "--overwrite"],
        ["parse", "a.png", "--model", "m", "--format", "md", "--out", "./a.png"],
    ],
    ids=lambda argv: " ".join(argv[:2] + argv[-2:]),
)
def test_an_input_is_never_overwritten(folder, argv):
    before = state(folder)
    with pytest.raises(UsageError, match=r"would overwrite the input|holds no") as caught:
        dispatch(argv)
    assert "\n" not in str(caught.value)
    assert state(folder) == before


def test_the_list_of_findings_beside_the_output_may_not_be_the_input(folder):
    (folder / "d.jsonl").rename("out.jsonl.findings.jsonl")
    with pytest.raises(UsageError, match="would overwrite the input"):
        dispatch(["data", "convert", "--input", "out.jsonl.findings.jsonl", "--output", "out.jsonl", "--overwrite"])
    assert (folder / "out.jsonl.findings.jsonl").stat().st_size


def test_scores_are_not_written_over_the_data_that_is_scored(folder):
    (folder / "d.jsonl").rename("predictions.jsonl")
    with pytest.raises(UsageError, match=r"predictions\.jsonl would overwrite the input"):
        dispatch(["eval", "nosuchmodel", "--data", "predictions.jsonl", "--out", "."])


def test_what_a_set_was_published_with_is_not_overwritten(folder):
    (folder / "set").mkdir()
    (folder / "set" / "train.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(UsageError, match="holds no records"):
        dispatch(["data", "import", "docvqa", "set", "--out", "set/train.jsonl", "--overwrite"])


def test_pdfs_are_not_replaced_by_what_is_made_of_them(folder):
    pdfs = folder / "set" / "pdfs"
    pdfs.mkdir(parents=True)
    (folder / "set" / "synth.json").write_text("{}")
    (pdfs / "a.pdf").write_bytes(b"%PDF-1.4")
    for out in ("set", "set/pdfs"):
        (folder / out / "synth.json").write_text("{}")
        with pytest.raises(UsageError, match="the input"):
            dispatch(["data", "from-pdf", "set/pdfs", "--out", out, "--overwrite"])
    assert (pdfs / "a.pdf").exists()


def test_a_page_goes_into_a_pipe_through_a_link_and_into_a_device(folder):
    os.mkfifo("pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_text()), daemon=True)
    reader.start()
    Path("page.html").symlink_to("real.html")
    Path("null").symlink_to("/dev/null")
    for out in ("pipe", "page.html", "null"):
        assert dispatch(["data", "show", "d.jsonl", "--n", "1", "--out", out]) == 0
    reader.join(60)
    assert got == [Path("real.html").read_text()]
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert Path("page.html").is_symlink()
    assert Path("null").is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_an_older_page_and_older_findings_are_replaced(folder):
    for _ in range(2):
        assert dispatch(["data", "show", "d.jsonl", "--n", "1", "--out", "page.html"]) == 0
        assert dispatch(["data", "validate", "d.jsonl", "--findings", "found.jsonl"]) == 0
