"""benchmarks/quality.py: sets that nobody trained on, scores that count what they say, a model that is read beside."""

from __future__ import annotations

import gzip
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from parsit import hf
from parsit.synth import SynthSettings
from parsit.synth.records import make_page
from parsit.synth.split import Fractions
from parsit.types import ImageRef, Sample, Turn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def quality():
    """The script as a module; its neighbours are found as when it runs."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("quality")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def folder(quality, tmp_path_factory):
    """Twelve lines and a page of a receipt, as the script keeps them."""
    folder = tmp_path_factory.mktemp("quality")
    sets = quality.quality_sets
    for name in ("lines-clean", "pages-clean"):
        (folder / name).mkdir()
    sets.write(
        folder / "lines-clean", sets.synthetic_lines(folder / "lines-clean", 12, *sets.LINE_SETS["lines-clean"], 3)
    )
    settings = SynthSettings(folder / "pages-clean", 1, seed=3)
    number = next(sets.held_out_numbers(settings, "receipt"))
    sets.write(folder / "pages-clean", [sets.synthetic_page(settings, number, "receipt")])
    return folder


def test_no_font_is_trained_on_and_kept_apart(quality):
    rows = (BENCHMARKS.parent / "recipes" / "tiny" / "font-packages.txt").read_text().splitlines()
    trained = [row.split()[0] for row in rows if not row.startswith("#")]
    assert trained == sorted(set(trained))
    # The last three hold the same fonts under other names, or ones drawn after them.
    kept_apart = {*quality.quality_sets.FONT_PACKAGES, "fonts-liberation", "fonts-croscore", "fonts-noto-core"}
    assert not set(trained) & kept_apart


def test_no_line_can_be_in_training_data(quality, folder):
    items = quality.quality_sets.read(folder / "lines-clean")
    assert len(items) == 12
    assert [item.kind for item in items[::2]] == ["letter", "invoice", "report", "table", "form", "receipt"]
    assert {Fractions(0.05, 0.05).split_of(item.text) for item in items} == {"test"}
    assert all((folder / "lines-clean" / item.image).exists() for item in items)


def test_a_page_says_what_a_made_page_of_the_number_says(quality, folder, tmp_path):
    [item] = quality.quality_sets.read(folder / "pages-clean")
    settings = SynthSettings(tmp_path, 1, seed=3, degrade="none", tasks=("read",))
    [row] = make_page(settings, tmp_path, int(Path(item.image).stem)).lines
    markdown = json.loads(row)["conversations"][1]["value"]
    words = item.text.split()
    assert set(words) <= set(markdown.replace("|", " ").split())
    assert len(words) > 20


def test_translations_are_left_out(quality, tmp_path):
    source, target = tmp_path / "unpacked", tmp_path / "pdfs"
    names = ["refcard-en-a4", "refcard-pt_BR-a4", "make.zh-cn", "make.en", "fhs-3.0", "xfig_ref_en", "refcard-de-a4"]
    source.mkdir()
    for name in names:
        (source / f"{name}.pdf").write_bytes(b"%PDF")
    (source / "packed.pdf.gz").write_bytes(gzip.compress(b"%PDF-1"))
    quality.quality_sets.copy_pdfs(source, target, "doc")
    kept = {"refcard-en-a4", "make.en", "fhs-3.0", "xfig_ref_en", "packed"}
    assert {file.name for file in target.iterdir()} == {f"doc--{name}.pdf" for name in kept}
    assert (target / "doc--packed.pdf").read_bytes() == b"%PDF-1"


def test_edits_are_counted_with_case_punctuation_and_spaces(quality):
    found = [("Total: 12.50", "Total: 12.50"), ("a b", "ab"), ("Ab,", "ab.")]
    assert quality.score(found, is_line=True, with_interval=False) == "16.7 %, 33 % exact"
    assert quality.score(found[:1], is_line=False, with_interval=True) == "0.0 % (0.0–0.0)"


def test_calibration_counts_lines_by_how_sure_they_were(quality):
    lines = [(0.95, True), (0.96, False), (0.3, False), (1.0, True)]
    assert list(quality.calibration_rows(lines)) == [
        ["0 to 0.5", "1", "30.0 %", "0.0 %"],
        ["0.95 to 0.99", "2", "95.5 %", "50.0 %"],
        ["0.99 to 1", "1", "100.0 %", "100.0 %"],
    ]


@pytest.mark.slow
def test_a_model_is_read_and_scored_from_the_command_line(folder, mini, tmp_path):
    processor = hf.new_processor(mini)
    processor.save_pretrained(tmp_path / "mini")
    hf.new_model(mini, processor, seed=1).save_pretrained(tmp_path / "mini")
    words = ["--folder", str(folder), "--model", str(tmp_path / "mini"), "--sets", "lines-clean", "--lines", "12"]
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "quality.py"), *words], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    report = (folder / "report.md").read_text()
    assert "| **lines-clean** | 12 | " in report
    assert "lines above 0.9 (of 12)" in report
    assert (folder / "calibration.png").stat().st_size > 1000
    kept = json.loads((folder / "readings" / "lines-clean--parsit-mini.json").read_text())
    assert len(kept["texts"]) == len(kept["confidences"]) == 12
    assert kept["processor_s"] > 0


@pytest.mark.slow
def test_the_classical_reader_learns_from_lines(quality, folder):
    """The loss falls to a fraction; what it reads then, columns of padding left out, is made of its characters."""
    peers = importlib.import_module("ctc_peer")
    samples = []
    for item in quality.quality_sets.read(folder / "lines-clean")[:6]:
        shown = Turn("user", (ImageRef(folder / "lines-clean" / item.image), "Read."))
        samples.append(Sample(item.image, (shown, Turn("assistant", (item.text,)))))
    sources = [peers.source_of(sample) for sample in samples]
    peer = peers.Peer.for_samples(samples, seed=0)
    assert 2_000_000 < peer.num_parameters < 2_600_000
    lines = peers.batch_of(sources)
    assert lines[0].shape[-1] == peers.POOLED * int(lines[1].max())
    losses = [peer.step(samples, lines, 1.0) for _ in range(12)]
    assert losses[-1] < losses[0] / 3
    assert peer.read(sources[:1]) == peer.read(sources)[:1]
    peer.save(folder / "ctc.safetensors")
    system = quality.System("peer", "ctc", str(folder / "ctc.safetensors"))
    assert not system.reads("page")
    assert system.read(sources, "line", 1).texts == peer.read(sources)
