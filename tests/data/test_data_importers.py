"""The importers: small samples in the published layouts, real image files, and what is wrong with some of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from parsit.data.faults import DataFault
from parsit.data.importers import IMPORTERS
from parsit.data.importers.cord import parse_lines
from parsit.data.importers.docbank import page_text
from parsit.data.importers.layout import TextBox, join_lines, rows_of, words_in
from parsit.data.importers.pubtabnet import table_html
from parsit.types import InputError, Sample, UsageError


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "white").save(path)
    return path


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def read(name, folder, split="train", **options):
    """The samples by id as (image, prompt, answer), and the faults as (code, place)."""
    found = list(IMPORTERS[name].read(folder, split, **options))
    samples = {each.id: each for each in found if isinstance(each, Sample)}
    return samples, [(each.code, each.place) for each in found if isinstance(each, DataFault)]


def answers(samples):
    return {identifier: sample.turns[-1].text for identifier, sample in samples.items()}


def question(number, answer_list=("Yes",), **fields):
    return {"questionId": number, "question": f"Q{number}?", "docId": 1, "answers": list(answer_list)} | fields


def test_docvqa(tmp_path):
    first = image(tmp_path / "documents/xnbl0037_1.png")
    entries = [
        question(337, ["0.28", ".28"], image="documents/xnbl0037_1.png", ucsf_document_id="xnbl0037"),
        question(338, image="documents/gone_2.png"),
        {"question": "no id"},
        question(339, image="documents/../../x.png"),
        question(340, None or [], image="documents/xnbl0037_1.png"),
        question(341, image="documents/xnbl0037_1.png", answers="not a list"),
        question(342, image="documents/xnbl0037_1.png"),
    ]
    path = write(tmp_path / "train_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "data": entries})
    samples, faults = read("docvqa", tmp_path)
    assert answers(samples) == {"docvqa-train-337": "0.28", "docvqa-train-342": "Yes"}
    sample = samples["docvqa-train-337"]
    assert sample.images[0].source == first
    assert sample.other_answers == (".28",)
    assert sample.turns[0].text == "\nQ337?\nAnswer with a word or a short phrase."
    assert sample.place == f"{path}:data[0]"
    codes = ["image-missing", "annotation-broken", "image-path-leaves-root", "answer-missing", "annotation-broken"]
    assert faults == [(code, f"{path}:data[{n}]") for n, code in enumerate(codes, 1)]


def test_docvqa_in_the_newer_folders_and_with_images_elsewhere(tmp_path):
    entries = [question(1, image="documents/a_1.png")]
    write(tmp_path / "spdocvqa_qas/val_v1.0_withQT.json", {"data": entries})
    inside = image(tmp_path / "spdocvqa_images/a_1.png")
    samples, faults = read("docvqa", tmp_path, "validation")
    assert (samples["docvqa-val-1"].images[0].source, faults) == (inside, [])
    other = image(tmp_path / "mine/a_1.png")
    samples, _ = read("docvqa", tmp_path, "val", images=tmp_path / "mine")
    assert samples["docvqa-val-1"].images[0].source == other


def test_infographicvqa(tmp_path):
    file = image(tmp_path / "infographicsvqa_images/20471.jpeg")
    entries = [question(98313, image_local_name="20471.jpeg"), question(98314, image_local_name="20472.jpeg")]
    path = write(tmp_path / "infographicsvqa_qas/infographicsVQA_train_v1.0.json", {"data": entries})
    samples, faults = read("infographicvqa", tmp_path)
    assert [sample.images[0].source for sample in samples.values()] == [file]
    assert faults == [("image-missing", f"{path}:data[1]")]


def test_chartqa(tmp_path):
    folder = tmp_path / "ChartQA Dataset/val"
    image(folder / "png/a.png")
    human = write(
        folder / "val_human.json",
        '[{"imgname": "a.png", "query": "How many?", "label": "14"}, {"imgname": "a.png"}, {broken}, '
        '{"imgname": "a.png", "query": "When?", "label": "2014"}]',
    )
    augmented = write(folder / "val_augmented.json", [{"imgname": "b.png", "query": "What?", "label": "x"}])
    samples, faults = read("chartqa", tmp_path, "val")
    assert answers(samples) == {"chartqa-val-human-0": "14", "chartqa-val-human-3": "2014"}
    assert faults == [
        ("annotation-broken", f"{human}[1]"),
        ("json-broken", f"{human}[2]"),
        ("image-missing", f"{augmented}[0]"),
    ]


def entity(identifier, text, label, linking=(), box=(0, 0, 9, 9)):
    return {"id": identifier, "text": text, "box": list(box), "label": label, "linking": list(linking), "words": []}


def test_funsd(tmp_path):
    folder = tmp_path / "dataset/training_data"
    form = [
        entity(0, "Registration No.", "question", [[0, 1]]),
        entity(1, "533", "answer", [[0, 1]]),
        entity(2, "Address", "question", [[2, 4], [2, 3], [5, 2]]),
        entity(3, "Berlin", "answer", [[2, 3]], (0, 50, 9, 59)),
        entity(4, "Main St. 1", "answer", [[2, 4]], (0, 40, 9, 49)),
        entity(5, "FORM", "header", [[5, 2]]),
        entity(6, "Signed", "question"),
    ]
    for name, value in {"a": {"form": form}, "b": {"form": [entity(0, "X", "question", [[0, 7]])]}, "c": {}}.items():
        write(folder / f"annotations/{name}.json", value)
    write(folder / "annotations/d.json", {"form": form[:2]})
    write(folder / "annotations/e.json", "{")
    write(folder / "annotations/f.json", {"form": form[:2]})
    for name in "abcef":
        image(folder / f"images/{name}.png")
    samples, faults = read("funsd", tmp_path)
    assert {name: json.loads(text) for name, text in answers(samples).items()} == {
        "funsd-train-a": {"Registration No.": "533", "Address": ["Main St. 1", "Berlin"], "Signed": ""},
        "funsd-train-f": {"Registration No.": "533"},
    }
    codes = {"b": "annotation-broken", "c": "annotation-broken", "d": "image-missing", "e": "json-broken"}
    assert faults == [(code, str(folder / f"annotations/{name}.json")) for name, code in codes.items()]


SROIE_BOX = "10,30,50,30,50,40,10,40,TOTAL: 1,50\n72,5,90,5,90,15,72,15,SDN BHD\n10,4,60,4,60,16,10,16,BOOK TA .K\n"


@pytest.mark.parametrize(("box", "key"), [("box/{}.csv", "key/{}.json"), ("box/{}.txt", "entities/{}.txt")])
def test_sroie(tmp_path, box, key):
    folder = tmp_path / "train"
    fields = {"company": "BOOK TA .K SDN BHD", "date": "25/12/2018", "address": "NO.53", "total": "1.50"}
    for name in ("a", "b", "c"):
        image(folder / f"img/{name}.jpg")
        write(folder / box.format(name), SROIE_BOX)
        write(folder / key.format(name), fields)
    write(folder / box.format("b"), "1,2,3,short\n")
    (folder / key.format("c")).unlink()
    write(folder / key.format("d"), fields)
    samples, faults = read("sroie", tmp_path)
    assert set(samples) == {"sroie-train-a-fields", "sroie-train-a-read", "sroie-train-b-fields", "sroie-train-c-read"}
    assert json.loads(answers(samples)["sroie-train-a-fields"]) == fields
    assert answers(samples)["sroie-train-a-read"] == "BOOK TA .K SDN BHD\nTOTAL: 1,50"
    assert faults == [
        ("annotation-broken", str(folder / box.format("b"))),
        ("annotation-missing", str(folder / "img/c.jpg")),
        ("image-missing", str(folder / "img/d")),
    ]


def line(category, *words, group=1, **more):
    texts = [{"text": text, "is_key": is_key, "quad": {}, "row_id": 1} for text, is_key in words]
    return {"words": texts, "category": category, "group_id": group} | more


CORD_LINES = [
    line("menu.nm", ("NASI", 0), ("GORENG", 0), group=3),
    line("menu.cnt", ("2", 0), group=3),
    line("menu.nm", ("SPECIAL", 0), group=3),
    line("menu.sub_nm", ("EXTRA EGG", 0), group=3, sub_group_id=1),
    line("menu.sub_price", ("0", 0), group=3, sub_group_id=1),
    line("menu.sub_nm", ("ICE", 0), group=3, sub_group_id=2),
    line("menu.nm", ("TEH", 0), group=4),
    line("total.total_price", ("Total", 1), ("75,000", 0), group=5),
    line("total.cashprice", ("80,000", 0), group=6),
]
CORD_PARSE = {
    "menu": [
        {"nm": "NASI GORENG SPECIAL", "cnt": "2", "sub": [{"nm": "EXTRA EGG", "price": "0"}, {"nm": "ICE"}]},
        {"nm": "TEH"},
    ],
    "total": {"total_price": "75,000", "cashprice": "80,000"},
}


def test_cord_of_image_and_json_folders(tmp_path):
    assert parse_lines(CORD_LINES) == CORD_PARSE
    for name, value in {"0": {"valid_line": CORD_LINES}, "1": {"meta": {}}, "2": {"valid_line": []}}.items():
        write(tmp_path / f"CORD/dev/json/receipt_{name}.json", value)
        image(tmp_path / f"CORD/dev/image/receipt_{name}.png")
    write(tmp_path / "CORD/dev/json/receipt_3.json", {"valid_line": CORD_LINES})
    samples, faults = read("cord", tmp_path, "validation")
    assert {name: json.loads(text) for name, text in answers(samples).items()} == {"cord-dev-receipt_0": CORD_PARSE}
    assert [code for code, _ in faults] == ["annotation-broken", "answer-missing", "image-missing"]


def test_cord_of_parquet(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    truths = [{"gt_parse": {"menu": {"nm": "TEH"}}, "valid_line": []}, {"gt_parse": {"total": {"cashprice": "5"}}}]
    rows = [
        {"image": {"bytes": data.getvalue(), "path": None}, "ground_truth": json.dumps(truths[0])},
        {"image": {"bytes": None, "path": "x.png"}, "ground_truth": json.dumps(truths[0])},
        {"image": {"bytes": data.getvalue(), "path": None}, "ground_truth": "{"},
        {"image": {"bytes": data.getvalue(), "path": None}, "ground_truth": json.dumps(truths[1])},
    ]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    broken = write(tmp_path / "data/train-00001-of-00002.parquet", "PAR1 no more")
    samples, faults = read("cord", tmp_path)
    assert [json.loads(text) for text in answers(samples).values()] == [truths[0]["gt_parse"], truths[1]["gt_parse"]]
    assert next(iter(samples.values())).images[0].source == data.getvalue()
    assert faults == [
        ("image-missing", f"{path}[1]"),
        ("json-broken", f"{path}[2]"),
        ("parquet-broken", str(broken)),
    ]


def test_pubtabnet(tmp_path):
    structure = ["<thead>", "<tr>", "<td", ' colspan="2"', ">", "</td>", "</tr>", "</thead>", "<tbody>", "<tr>"]
    structure += ["<td>", "</td>", "<td>", "</td>", "</tr>", "</tbody>"]
    cells = [{"tokens": ["<b>", "p", " ", "<", "1", "</b>"], "bbox": [1, 2, 3, 4]}, {"tokens": []}, {"tokens": ["5"]}]
    table = {"structure": {"tokens": structure}, "cells": cells}
    lines = [
        {"filename": "PMC1_007_00.png", "split": "train", "imgid": 0, "html": table},
        {"filename": "PMC2_007_00.png", "split": "val", "imgid": 1, "html": table},
        {"filename": "PMC3_007_00.png", "split": "train", "imgid": 2, "html": table | {"cells": cells[1:]}},
        {"filename": "PMC4_007_00.png", "split": "train", "imgid": 3, "html": table},
    ]
    path = write(tmp_path / "PubTabNet_2.0.0.jsonl", "\n".join(map(json.dumps, lines)) + "\n{\n")
    image(tmp_path / "train/PMC1_007_00.png")
    image(tmp_path / "val/PMC2_007_00.png")
    samples, faults = read("pubtabnet", tmp_path)
    html = (
        '<table><thead><tr><td colspan="2"><b>p &lt;1</b></td></tr></thead>'
        "<tbody><tr><td></td><td>5</td></tr></tbody></table>"
    )
    assert answers(samples) == {"pubtabnet-train-PMC1_007_00": html}
    places = [("annotation-broken", 3), ("image-missing", 4), ("json-broken", 5)]
    assert faults == [(code, f"{path}:{number}") for code, number in places]
    assert set(read("pubtabnet", tmp_path, "val")[0]) == {"pubtabnet-val-PMC2_007_00"}
    with pytest.raises(DataFault, match="'tokens' hold something else"):
        table_html(["<td>", "</td>"], [{"tokens": [1]}])


def docbank(*words):
    return "".join(
        f"{text}\t{x0}\t{y0}\t{x1}\t{y1}\t0\t0\t0\tCMR12\t{label}\n" for text, x0, y0, x1, y1, label in words
    )


PAGE = docbank(
    ("Intro", 70, 50, 120, 64, "section"),
    ("The", 70, 90, 95, 104, "paragraph"),
    ("bound-", 100, 90, 150, 104, "paragraph"),
    ("ary", 70, 106, 90, 120, "paragraph"),
    ("and", 95, 106, 120, 120, "paragraph"),
    ("x2", 126, 104, 136, 112, "paragraph"),
    ("boundary.", 70, 122, 160, 136, "paragraph"),
    ("New", 70, 160, 100, 174, "paragraph"),
    ("##LTFigure##", 70, 300, 900, 500, "figure"),
    ("Figure", 70, 510, 110, 520, "caption"),
)


def test_docbank(tmp_path):
    assert page_text(PAGE) == "Intro\n\nThe boundary and x2 boundary.\n\nNew\n\nFigure"
    names = ["1.tar_1.gz_a_0", "1.tar_1.gz_a_1", "2.tar_2.gz_b_0", "3.tar_3.gz_c_0", "4.tar_4.gz_d_0"]
    texts = [PAGE, docbank(("(cid:54)", 1, 1, 2, 2, "equation")), "a\tb\n", PAGE, PAGE]
    for name, text in zip(names, texts, strict=True):
        write(tmp_path / f"DocBank_500K_txt/{name}.txt", text)
        image(tmp_path / f"DocBank_500K_ori_img/{name}_ori.jpg")
    (tmp_path / f"DocBank_500K_ori_img/{names[3]}_ori.jpg").unlink()
    write(tmp_path / "indexed_files/500K_dev.txt", "\n".join(f"{name}.txt" for name in [*names[:4], "gone"]) + "\n")
    samples, faults = read("docbank", tmp_path, "dev")
    assert list(samples) == [f"docbank-{names[0]}"]
    codes = ["text-unreadable", "annotation-broken", "image-missing", "annotation-missing"]
    where = [*names[1:4], "gone"]
    assert faults == [
        (code, str(tmp_path / f"DocBank_500K_txt/{name}.txt")) for code, name in zip(codes, where, strict=True)
    ]
    assert list(read("docbank", tmp_path, "all")[0]) == [f"docbank-{names[0]}", f"docbank-{names[4]}"]
    coco = {"images": [{"file_name": f"{names[4]}_ori.jpg", "id": 1}]}
    write(tmp_path / "MSCOCO_Format_Annotation/500K_test.json", coco)
    assert list(read("docbank", tmp_path, "test")[0]) == [f"docbank-{names[4]}"]


def draw(path, number):
    """Stands for the rendering of PDFs, which is another room's: the file's bytes, or an error."""
    data = path.read_bytes()
    if b"broken" in data:
        raise InputError(f"{path} is a damaged PDF")
    return b"\x89PNG " + data + str(number).encode()


def tarball(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_olmocr_0225_with_tarballs_and_with_unpacked_pdfs(tmp_path):
    def row(identifier, text):
        response = json.dumps({"primary_language": "en", "is_table": False, "natural_text": text})
        return {"id": identifier, "url": "s3://x", "page_number": 3, "response": response}

    rows = [row("aaaa1", "Page A"), row("bbbb2", None), row("cccc3", "Page C"), row("dddd4", "D"), row("eeee5", "E")]
    rows.append(row("ffff6", "F") | {"response": "{"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-s2pdf.parquet")
    members = {"aaaa1.pdf": b"A", "./bbbb2.pdf": b"B", "dddd4.pdf": b"broken", "ffff6.pdf": b"F"}
    tarball(tmp_path / "pdf_tarballs/pdf_chunk_0000.tar.gz", members)
    write(tmp_path / "pdfs/cccc3.pdf", "C")
    cut = tmp_path / "pdf_tarballs/pdf_chunk_0001.tar.gz"
    cut.write_bytes(gzip.compress(b"x" * 2000)[:-9])
    samples, faults = read("olmocr", tmp_path, render=draw)
    assert answers(samples) == {"olmocr-cccc3": "Page C", "olmocr-aaaa1": "Page A"}
    assert samples["olmocr-aaaa1"].images[0].source == b"\x89PNG A1"
    path = tmp_path / "train-s2pdf.parquet"
    assert faults == [
        ("answer-missing", f"{path}[1]"),
        ("pdf-page-failed", f"{path}[3]"),
        ("json-broken", f"{path}[5]"),
        ("tar-broken", str(cut)),
        ("image-missing", f"{path}[4]"),
    ]


def test_olmocr_1025(tmp_path):
    def row(identifier, member, text):
        path = f"pdf_tarballs/00_documents_eval_00000.tar.gz:{member}"
        return {"id": identifier, "pdf_relpath": path, "page_number": 1, "natural_text": text, "is_table": False}

    rows = [row("a", "x:1/a.pdf", "A"), row("b", "b.pdf", "B"), row("c", "../c.pdf", "C")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00_documents_eval.parquet")
    tarball(tmp_path / "pdf_tarballs/00_documents_eval_00000.tar.gz", {"x:1/a.pdf": b"A"})
    tarball(tmp_path / "pdf_tarballs/00_documents_eval_00001.tar.gz", {"b.pdf": b"another b"})
    write(tmp_path / "pdfs/00_documents_eval_00000/b.pdf", "B")
    write(tmp_path / "c.pdf", "outside pdfs")
    samples, faults = read("olmocr", tmp_path, "validation", render=draw)
    assert answers(samples) == {"olmocr-b": "B", "olmocr-a": "A"}
    assert [code for code, _ in faults] == ["image-missing"]


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_folder_without_the_set_is_refused(tmp_path, name):
    with pytest.raises(DataFault) as caught:
        list(IMPORTERS[name].read(tmp_path, IMPORTERS[name].splits[0]))
    assert (caught.value.code, caught.value.place) == ("layout-missing", str(tmp_path))
    with pytest.raises(DataFault, match="no such folder"):
        list(IMPORTERS[name].read(tmp_path / "none", IMPORTERS[name].splits[0]))
    with pytest.raises(UsageError, match="has no split 'nine'; it has"):
        list(IMPORTERS[name].read(tmp_path, "nine"))


def test_the_total_is_the_number_of_items(tmp_path):
    write(tmp_path / "train_v1.0.json", {"data": [question(1), question(2)]})
    _, items = IMPORTERS["docvqa"].items(tmp_path, "train")
    assert items.total == len(list(items.each)) == 2


def test_rows_go_from_top_to_bottom_and_left_to_right():
    boxes = [TextBox("c", 5, 21, 9, 30), TextBox("b", 50, 1, 60, 11), TextBox("a", 0, 0, 9, 10)]
    assert [[box.text for box in row] for row in rows_of(boxes)] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        (["one", "two"], "one two"),
        (["the bound-", "ary is"], "the boundary is"),
        (["a well-", "known word"], "a well-known word"),
        (["an un\u00ad", "heard word"], "an unheard word"),
        (["exam-", "ple"], "exam-\nple"),
        (["Smith-", "Jones"], "Smith-\nJones"),
        (["pages 12-", "13"], "pages 12- 13"),
        (["and -", "so"], "and - so"),
    ],
)
def test_hyphens_go_only_when_that_is_safe(lines, joined):
    assert join_lines(lines, {"boundary", "well-known"}) == joined


def test_halves_of_words_are_no_words():
    assert words_in(["The exam-", "ple Boundary of well-known words"]) == {
        "the",
        "boundary",
        "of",
        "well-known",
        "words",
    }
