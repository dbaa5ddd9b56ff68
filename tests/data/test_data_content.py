"""The digest of what samples say and show: other texts and images of the same lengths have another."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from PIL import Image

from parsit import hf
from parsit.data import content
from parsit.data.content import content_digest
from parsit.data.dataset import DataLimits, open_data
from parsit.data.sources import read_sources


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


def write(folder, answers, shade=0, name="data.jsonl"):
    """Records with an image each; `shade` is the images' grey, at the same size in pixels and bytes."""
    folder.mkdir(exist_ok=True)
    for number in range(len(answers)):
        Image.new("L", (40, 24), shade).save(folder / f"{number}.bmp")
    records = [
        {
            "id": str(number),
            "image": f"{number}.bmp",
            "conversations": [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": answer}],
        }
        for number, answer in enumerate(answers)
    ]
    text = json.dumps(records) if name.endswith(".json") else "".join(json.dumps(record) + "\n" for record in records)
    (folder / name).write_text(text)
    return folder / name


def pack(folder, file):
    """The same records and images as a WebDataset."""
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as shard:
        for number, line in enumerate(file.read_text().splitlines()):
            record = json.loads(line) | {"image": f"{number:04}.bmp"}
            members = {"json": json.dumps(record).encode(), "bmp": (folder / f"{number}.bmp").read_bytes()}
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{number:04}.{ending}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return path


def digest(path, processor, **limits):
    data = open_data(read_sources([path]), processor, DataLimits(512, max_bad_fraction=0, **limits))
    return content_digest(data.samples)


@pytest.mark.parametrize("kind", ["data.jsonl", "data.json", "tar"])
def test_texts_and_images_are_in_it_and_the_place_is_not(tmp_path, processor, kind):
    def made(name, answers, shade=0):
        file = write(tmp_path / name, answers, shade, "data.jsonl" if kind == "tar" else kind)
        return digest(pack(tmp_path / name, file) if kind == "tar" else file, processor)

    one = made("one", ["12", "34", "56"])
    assert made("elsewhere", ["12", "34", "56"]) == one
    assert made("edited", ["12", "35", "56"]) != one
    assert made("order", ["34", "12", "56"]) != one
    assert made("white", ["12", "34", "56"], shade=255) != one


def test_images_of_some_samples_are_looked_at_and_all_texts(tmp_path, processor, monkeypatch):
    monkeypatch.setattr(content, "MOST_IMAGES_OF", 2)
    answers = ["12", "34", "56"]
    one = digest(write(tmp_path, answers), processor)
    pixels = (tmp_path / "1.bmp").read_bytes()
    (tmp_path / "1.bmp").write_bytes(pixels[:-1] + b"\xff")
    assert digest(tmp_path / "data.jsonl", processor) == one
    (tmp_path / "2.bmp").write_bytes(pixels[:-1] + b"\xff")
    assert digest(tmp_path / "data.jsonl", processor) != one
    (tmp_path / "2.bmp").unlink()
    assert digest(tmp_path / "data.jsonl", processor) != one
