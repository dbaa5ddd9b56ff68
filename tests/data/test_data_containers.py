"""Containers: every record in order and alone, equal to what the packages that made the file read; broken files."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import webdataset
from PIL import Image

from parsit.data.containers import container_of, records
from parsit.data.containers.tar import READ_PROMPT
from parsit.data.faults import DataFault
from parsit.data.files import read_files
from parsit.types import FileSlice


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = [
    {
        "id": str(number),
        "images": [{"bytes": png((number, 0, 0)), "path": f"{number}.png"}],
        "messages": [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Read."}]},
            {"role": "assistant", "content": [{"type": "text", "text": f"Seite {number} – ü"}]},
        ],
    }
    for number in range(25)
]


def hf_dataset():
    return datasets.Dataset.from_list(ROWS).cast_column("images", datasets.List(datasets.Image()))


def values(path):
    return [value for _, _, value in records(path)]


def alone(path):
    """Every record read by its place, in another order, then sorted back."""
    container = container_of(path)
    spans = list(container.scan(path))
    shuffled = random.Random(1).sample(spans, len(spans))
    read = {span.number: container.read(path, span) for span in shuffled}
    return [read[span.number] for span in spans]


def write_parquet(folder):
    hf_dataset().to_parquet(folder / "d.parquet", batch_size=10)
    return folder / "d.parquet"


def write_saved(folder):
    hf_dataset().save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


def write_arrow_file(folder):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(folder / "d.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return folder / "d.arrow"


def write_shards(folder):
    (folder / "shards").mkdir()
    for number in range(3):
        hf_dataset().shard(3, number, contiguous=True).to_parquet(
            folder / f"shards/train-{number:05d}-of-00003.parquet"
        )
    return folder / "shards"


@pytest.mark.parametrize("write", [write_parquet, write_saved, write_arrow_file, write_shards])
def test_arrow_rows_equal_what_datasets_stored(tmp_path, write):
    path = write(tmp_path)
    assert values(path) == ROWS
    assert alone(path) == ROWS
    assert container_of(path).num_rows(path) == len(ROWS)
    sample = read_files([path])[7]
    assert sample.images[0].source == ROWS[7]["images"][0]["bytes"]
    assert sample.turns[1].text == "Seite 7 – ü"
    assert sample.place == f"{path}[7]"


def test_rows_equal_what_datasets_loads(tmp_path):
    saved = write_saved(tmp_path)
    loaded = datasets.load_from_disk(saved).cast_column("images", datasets.List(datasets.Image(decode=False)))
    assert values(saved) == loaded.to_list()


def test_llava_in_parquet_with_bytes(tmp_path):
    rows = [
        {"image": {"bytes": png("red"), "path": None}, "conversations": turns("<image>\nRead.")},
        {"image": None, "conversations": turns("2 + 2?")},
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    first, second = read_files([tmp_path / "d.parquet"])
    assert first.images[0].source == png("red")
    assert second.images == ()


def test_a_data_set_with_several_splits_is_refused(tmp_path):
    whole = datasets.DatasetDict({"train": hf_dataset(), "test": hf_dataset()})
    whole.save_to_disk(tmp_path / "whole")
    with pytest.raises(DataFault, match=r"test, train.*several-splits"):
        values(tmp_path / "whole")
    assert values(tmp_path / "whole" / "test") == ROWS
    (tmp_path / "hub").mkdir()
    for split in ("train", "validation"):
        hf_dataset().to_parquet(tmp_path / f"hub/{split}-00000-of-00001.parquet")
    with pytest.raises(DataFault, match=r"train, validation.*several-splits"):
        values(tmp_path / "hub")


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    path = tmp_path / "d.parquet"
    pa.parquet.write_table(pa.table({"id": ["1", "2"]}), path)
    container = container_of(path)
    last = list(container.scan(path))[-1]
    pa.parquet.write_table(pa.table({"id": ["3"]}), path)
    assert values(path) == [{"id": "3"}]
    with pytest.raises(DataFault, match="changed-since-indexed"):
        container.read(path, last)


def turns(question, answer="Hello"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_json(record):
    return json.dumps(record).encode()


def test_tar_samples_equal_what_webdataset_reads(tmp_path):
    path = tmp_path / "s.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(20):
            record = {"id": str(number), "conversations": turns("<image>" * (number % 3) + "Read.")}
            images = {f"{image}.png": png((number, image, 0)) for image in range(number % 3)}
            writer.write({"__key__": f"part.a/{number:03d}", "json": record, "cls": b"7"} | images)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    ours = list(records(path))
    assert [place for _, place, _ in ours] == [f"{path}:{sample['__key__']}" for sample in theirs]
    for sample, (_, _, value), again in zip(theirs, ours, alone(path), strict=True):
        record = json.loads(sample["json"])
        names = [f"{sample['__key__']}.{ending}" for ending in sorted(sample) if ending.endswith(".png")]
        assert value == (record | {"image": names} if names else record)
        assert [value.files[name].read() for name in names] == [sample[name.split(".", 2)[2]] for name in names]
        assert value.others == (".cls",)
        assert again == value
        assert again.files == value.files
    samples = read_files([path])
    assert [len(sample.images) for sample in samples] == [number % 3 for number in range(20)]


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a/0.png", "conversations": turns("<image>\nRead.")},
        {"image": "0.png", "conversations": turns("<image>\nRead.")},
        {"image": "png", "conversations": turns("<image>\nRead.")},
        {"image": ".png", "conversations": turns("<image>\nRead.")},
        {"conversations": turns("<image>\nRead.")},
        {"messages": [{"role": "user", "content": "<image>\nRead."}, {"role": "assistant", "content": "Hello"}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": "0.png"}, {"type": "text", "text": "\nRead."}],
                },
                {"role": "assistant", "content": "Hello"},
            ]
        },
    ],
)
def test_a_record_calls_its_image_by_name_by_ending_or_not_at_all(tmp_path, record):
    path = write_tar(tmp_path / "s.tar", [("a/0.json", as_json(record)), ("a/0.png", png("red"))])
    (sample,) = read_files([path])
    image, words = sample.turns[0].parts
    assert isinstance(image.source, FileSlice)
    assert image.source.read() == png("red")
    assert words == "\nRead."


def test_a_text_member_is_what_is_read_from_its_image(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.png", png("red")), ("0.txt", "Grüße".encode())])
    (sample,) = read_files([path])
    assert sample.turns[0].parts[1:] == (f"\n{READ_PROMPT}",)
    assert sample.turns[1].text == "Grüße"


def test_long_names_folders_and_meta_files(tmp_path):
    long = "x" * 150
    path = write_tar(
        tmp_path / "s.tar",
        [
            ("__meta__/shard.json", b"x"),
            ("0.txt", b"a"),
            ("0.png", png("red")),
            (".hidden.json", b"x"),
            (f"{long}.png", png("blue")),
            (f"{long}.txt", b"b"),
        ],
    )
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("README"))
    samples = read_files([path])
    assert [sample.images[0].source.read() for sample in samples] == [png("red"), png("blue")]
    assert [place for _, place, _ in records(path)] == [f"{path}:0", f"{path}:{long}"]


def test_a_record_with_files_travels_between_processes(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.png", png("red")), ("0.txt", b"a")])
    (value,) = values(path)
    copy = pickle.loads(pickle.dumps(value))
    assert (copy, copy.files, copy.others) == (value, value.files, value.others)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([("0.png", b"x")], "tar-no-record"),
        ([("0.json", b"{"), ("0.png", b"x")], "json-broken"),
        ([("0.txt", b"\xff"), ("0.png", b"x")], "encoding-broken"),
        ([("0.txt", b"a"), ("0.txt", b"b")], "tar-broken"),
    ],
)
def test_a_bad_sample_in_a_tar_stands_alone(tmp_path, members, code):
    good = [("1.png", b"x"), ("1.txt", b"good")]
    bad, rest = values(write_tar(tmp_path / "s.tar", members + good))
    assert bad.code == code
    assert bad.place == f"{tmp_path}/s.tar:0"
    assert rest["conversations"][1]["value"] == "good"


def cut_off(path, data):
    path.write_bytes(data[: len(data) // 2])


def cut_in_padding(path, data):
    path.write_bytes(data.rstrip(b"\0"))


def damaged_header(path, data):
    path.write_bytes(data[:15360] + b"\xff" * 512 + data[15872:])


def joined_twice(path, data):
    path.write_bytes(data + data)


@pytest.mark.parametrize("damage", [cut_off, cut_in_padding, damaged_header, joined_twice])
def test_a_broken_tar_does_not_end_silently(tmp_path, damage):
    members = [(f"{number}.{ending}", b"x" * 600) for number in range(20) for ending in ("png", "txt")]
    path = write_tar(tmp_path / "s.tar", members)
    damage(path, path.read_bytes())
    found = []
    with pytest.raises(DataFault, match="tar-broken"):
        found.extend(value for _, _, value in records(path))
    assert found  # what stood before the damage was read


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("d.parquet", b"no parquet", "parquet-broken"),
        ("d.arrow", b"no arrow file", "parquet-broken"),
        ("d.tar", b"no tar file" * 100, "tar-broken"),
        ("d.tar", gzip.compress(b"x" * 1000, mtime=0), "file-compressed"),
        ("d.tar.gz", b"", "file-compressed"),
        ("d.csv", b"a,b", "file-type-unknown"),
        ("folder/readme.txt", b"", "file-type-unknown"),
    ],
)
def test_files_that_cannot_be_read_have_their_code(tmp_path, name, data, code):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(DataFault) as caught:
        values(tmp_path / "folder" if name.startswith("folder") else path)
    assert caught.value.code == code


def test_a_shard_that_is_missing_is_named(tmp_path):
    saved = write_saved(tmp_path)
    shard = sorted(saved.glob("*.arrow"))[1]
    shard.unlink()
    with pytest.raises(DataFault, match=f"{shard.name}.*file-missing"):
        values(saved)


def test_a_control_character_in_a_list_is_one_broken_record(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[\x0b,{"id": "1"}]')
    (_, _, broken), (_, _, good) = records(path)
    assert broken.code == "json-broken"
    assert good == {"id": "1"}
    path.write_bytes(b"[\x0b")
    with pytest.raises(DataFault, match="json-cut-off"):
        list(records(path))


def test_what_a_mac_adds_to_an_archive_is_passed_over(tmp_path):
    record = json.dumps({"conversations": turns("<image>\nRead.")}).encode()
    members = {"set/._0.png": b"Mac", "set/0.png": png("red"), "set/._0.json": b"Mac", "set/0.json": record}
    members |= {"set/.DS_Store": b"Mac", "__MACOSX/set/._0.png": b"Mac", "._1.png": b"Mac"}
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (sample,) = read_files([path])
    (image,) = sample.images
    assert image.source.read() == png("red")


def test_a_text_member_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in {"a.png": png("red"), "a.txt": b"\xef\xbb\xbfHello"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (sample,) = read_files([path])
    assert sample.turns[1].text == "Hello"
