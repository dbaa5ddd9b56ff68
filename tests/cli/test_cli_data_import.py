"""`parsit data import` and `parsit data from-pdf` on real small files, called as the command line calls them."""

from __future__ import annotations

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typst
from PIL import Image

from parsit.cli.data_from_pdf import from_pdf
from parsit.cli.data_import import import_
from parsit.data.files import read_files
from parsit.types import InputError, UsageError


def chartqa(folder, number=3, missing=()):
    (folder / "train/png").mkdir(parents=True)
    for index in set(range(number)) - set(missing):
        Image.new("RGB", (6, 4), "white").save(folder / f"train/png/{index}.png")
    records = [{"imgname": f"{index}.png", "query": f"Q{index}?", "label": f"A{index}"} for index in range(number)]
    (folder / "train/train_human.json").write_text(json.dumps(records))
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_set_becomes_a_file_that_is_read_back(tmp_path, capsys):
    folder = chartqa(tmp_path / "set")
    out = tmp_path / "made/charts.jsonl"
    assert import_(["chartqa", str(folder), "--out", str(out)]) == 0
    spoken = capsys.readouterr()
    assert spoken.out == f"chartqa train: 3 samples in {out}, images in {folder} (--image_folder)\n"
    assert [path.name for path in out.parent.iterdir()] == ["charts.jsonl"]
    assert lines(out)[1] == {
        "id": "chartqa-train-human-1",
        "image": "train/png/1.png",
        "conversations": [
            {"from": "human", "value": "<image>\nQ1?\nAnswer with a word or a short phrase."},
            {"from": "gpt", "value": "A1"},
        ],
    }
    samples = read_files([out], folder)
    assert [sample.images[0].source for sample in samples] == [folder / f"train/png/{n}.png" for n in range(3)]


def test_what_is_set_aside_is_listed_and_the_exit_code_says_so(tmp_path, capsys):
    folder = chartqa(tmp_path / "set", missing=[1])
    out = tmp_path / "charts.jsonl"
    assert import_(["chartqa", str(folder), "--out", str(out)]) == 1
    told = capsys.readouterr().out
    assert "2 samples" in told
    assert f"1 set aside (image-missing 1): {tmp_path / 'charts.findings.jsonl'}" in told
    (finding,) = lines(tmp_path / "charts.findings.jsonl")
    assert (finding["code"], finding["place"]) == ("image-missing", f"{folder}/train/train_human.json[1]")
    assert len(lines(out)) == 2
    # Mended and imported again: the old list of findings must not stay.
    Image.new("RGB", (6, 4)).save(folder / "train/png/1.png")
    with pytest.raises(InputError, match="exists: choose another --out, or add --overwrite"):
        import_(["chartqa", str(folder), "--out", str(out)])
    assert import_(["chartqa", str(folder), "--out", str(out), "--overwrite"]) == 0
    assert len(lines(out)) == 3
    assert not (tmp_path / "charts.findings.jsonl").exists()


def test_pages_of_pdfs_are_drawn_beside_the_file(tmp_path, capsys):
    (tmp_path / "set/pdf_tarballs").mkdir(parents=True)
    rows = [{"id": f"page{n}", "response": json.dumps({"natural_text": f"Text {n}"})} for n in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set/train-s2pdf.parquet")
    (tmp_path / "page.typ").write_text("#set page(width: 3in, height: 2in)\nHello")
    pdf = typst.compile(tmp_path / "page.typ")
    with tarfile.open(tmp_path / "set/pdf_tarballs/pdf_chunk_0000.tar.gz", "w:gz") as archive:
        for name, data in {"page0.pdf": pdf, "page1.pdf": b"%PDF-1.7 broken"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    out = tmp_path / "ocr/train.jsonl"
    assert import_(["olmocr", str(tmp_path / "set"), "--out", str(out)]) == 1
    (record,) = lines(out)
    assert record["image"].startswith("train_images/")
    with Image.open(out.parent / record["image"]) as image:
        assert image.size == (450, 300)
    assert f"images in {out.parent} " in capsys.readouterr().out
    assert read_files([out])[0].turns[-1].text == "Text 0"
    (finding,) = lines(out.parent / "train.findings.jsonl")
    assert finding["code"] == "pdf-page-failed"
    assert "page.pdf is a damaged PDF" in finding["detail"]
    assert "/tmp" not in finding["detail"]


def test_images_elsewhere_in_the_set(tmp_path):
    folder = chartqa(tmp_path / "set")
    (folder / "train/png").rename(folder / "pictures")
    out = tmp_path / "a.jsonl"
    assert import_(["chartqa", str(folder), "--out", str(out), "--image_folder", str(folder / "pictures")]) == 0
    assert lines(out)[0]["image"] == "pictures/0.png"
    with pytest.raises(InputError, match="must lie in"):
        import_(["chartqa", str(folder), "--out", str(out), "--image_folder", str(tmp_path)])


def test_the_list_names_every_set(capsys):
    from parsit.data.importers import IMPORTERS

    assert import_(["--list"]) == 0
    told = capsys.readouterr().out
    for name, importer in IMPORTERS.items():
        (row,) = [line for line in told.splitlines() if line.startswith(f"{name} ")]
        assert importer.source in row
        assert ",".join(importer.splits) in row
    assert "see the set's card" in told


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["chartaq", "set", "--out", "a.jsonl"], UsageError, "unknown set 'chartaq'; did you mean chartqa?"),
        (["chartqa", "set"], UsageError, "--out is missing"),
        (["chartqa", "set", "--out", "a.json"], UsageError, "must end in .jsonl"),
        (["chartqa", "set", "--out", "a.jsonl", "--split", "dve"], UsageError, "has no split 'dve'"),
        (["chartqa", "set", "--out", "a.jsonl", "--split", "test"], InputError, "none of"),
        (["chartqa", "none", "--out", "a.jsonl"], InputError, "no such folder"),
    ],
)
def test_mistakes_leave_nothing_behind(tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    chartqa(tmp_path / "set")
    with pytest.raises(error, match=message.replace("?", r"\?")):
        import_(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_from_pdf(tmp_path, capsys):
    words = "The quick surveyor measured the old bridge before winter, and wrote it all down."
    (tmp_path / "in/deep").mkdir(parents=True)
    page = "#set page(width: 4in, height: 2in)\n"
    source = f"{page}{words}\n#pagebreak()\n#pagebreak()\n{words}"
    (tmp_path / "in/deep/a.pdf").write_bytes(typst.compile(source.encode()))
    (tmp_path / "in/b.pdf").write_bytes(b"%PDF-1.7 nothing more")
    flags = ["--dpi", "100", "--glyphs", "--validation_fraction", "0", "--test_fraction", "0.5", "--workers", "1"]
    argv = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), *flags, "--seed", "3"]
    assert from_pdf(argv) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 pages (train ")
    assert "from 2 PDFs" in told
    assert f"not taken (page-no-text 1, pdf-unreadable 1): {tmp_path / 'out/findings.jsonl'}" in told
    records = [record for split in ("train", "test") for record in lines(tmp_path / f"out/{split}.jsonl")]
    assert [record["id"] for record in records] == ["deep/a.pdf#1", "deep/a.pdf#3"]
    assert {record["conversations"][1]["value"] for record in records} == {words}
    assert len(records[0]["glyphs"][0]) == len(words.replace(" ", ""))
    with Image.open(tmp_path / "out" / records[0]["image"]) as image:
        assert image.size == (400, 200)
    with pytest.raises(InputError, match="exists"):
        from_pdf(argv)
    code = from_pdf([*argv, "--overwrite", "--pages_per_pdf", "1", "--allow_scanned", "--min_quality", "0.5"])
    # The PDF's bytes choose the page, and the time of writing is among them: it may be the empty one.
    taken = sum(len(lines(tmp_path / f"out/{split}.jsonl")) for split in ("train", "test"))
    assert (taken, code) in ((1, 0), (0, 1))
    with pytest.raises(UsageError, match="--dpi must be LOW-HIGH"):
        from_pdf([str(tmp_path / "in"), "--out", str(tmp_path / "x"), "--dpi", "fine"])


def test_from_pdf_without_a_page_that_is_taken(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.pdf").write_bytes(b"%PDF-1.7 nothing more")
    assert from_pdf([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert "0 pages" in capsys.readouterr().out
