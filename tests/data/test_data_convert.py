"""Conversion: samples that stay equal through every format, records that are set aside, images on their way."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from parsit.data.containers import records
from parsit.data.convert import convert_file, extent
from parsit.data.convert_settings import ConvertSettings
from parsit.data.faults import DataFault
from parsit.data.files import read_files
from parsit.data.formats import native
from parsit.data.image_output import kind_of
from parsit.types import FileSlice, GlyphBox, ImageRef, InputError, ParsitError, Sample, Turn, UsageError


def png(number=0):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def turns(question="2 + 2?", answer="4"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def convert(source, target, **options):
    return convert_file(ConvertSettings(Path(source), Path(target), **options))


def comparable(sample):
    """A sample without its place, images by their content."""

    def part(value):
        if isinstance(value, str):
            return value
        source = value.source
        content = source if isinstance(source, bytes) else source.read() if isinstance(source, FileSlice) else None
        return (
            source.name if content is None and source.suffix != ".png" else content or source.read_bytes(),
            value.glyphs,
        )

    return sample.id, [(turn.role, [part(value) for value in turn.parts]) for turn in sample.turns]


# Texts that look like structure, and others that need escaping somewhere.
TEXTS = st.one_of(
    st.sampled_from(
        [
            "<image>",
            "<tool_call>\n{}\n</tool_call>",
            "<|im_start|>",
            "\n",
            " ",
            "ü\u2028😀",
            '"\\',
            "[",
            "{}",
            "<imag",
            "e>",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
NAMES = ("0.png", "1.png", "sub/2.png")


def parts(images):
    part = st.one_of(TEXTS, st.sampled_from(images)) if images else TEXTS
    return st.lists(part, min_size=1, max_size=5)


@st.composite
def conversations(draw, images):
    """Turns that make sense, with text in every turn, in the form that readers give them."""
    roles = (["system"] if draw(st.booleans()) else []) + ["user", "assistant"] * draw(st.integers(1, 2))
    made = []
    for role in roles:
        joined = []
        for part in [*draw(parts(images)), "x"]:
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            elif part != "":
                joined.append(part)
        made.append(Turn(role, tuple(joined)))
    return tuple(made)


def expressible(sample, name):
    """Whether a format has words for the sample, by its own rules."""
    if name == "openai":
        return all(turn.role == "user" for turn in sample.turns if turn.images)
    if name in ("llava", "sharegpt"):
        in_answers = any(turn.images for turn in sample.turns if turn.role == "assistant")
        literal = any(
            "<image>" in p for t in sample.turns if t.role != "assistant" for p in t.parts if isinstance(p, str)
        )
        return not in_answers and not literal
    return True


@pytest.mark.parametrize(
    ("to", "ending"),
    [
        ("parsit", ".json"),
        ("llava", ".jsonl"),
        ("sharegpt", ".jsonl"),
        ("openai", ".json"),
        ("huggingface", ".jsonl"),
        ("huggingface", ".parquet"),
        ("webdataset", ".tar"),
    ],
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_there_and_back_again(tmp_path_factory, to, ending, data):
    folder = tmp_path_factory.mktemp("trip")
    (folder / "sub").mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(png(number))
    images = [ImageRef(folder / name) for name in NAMES]
    samples = [
        Sample(str(number), made)
        for number, made in enumerate(data.draw(st.lists(conversations(images), min_size=1, max_size=3)))
    ]
    names = dict(zip(images, NAMES, strict=True))
    write_lines(folder / "in.jsonl", *(native.write(sample, names.__getitem__).record for sample in samples))
    expected = [comparable(sample) for sample in samples if expressible(sample, to)]
    report = convert(folder / "in.jsonl", folder / f"there{ending}", to=to)
    assert report.faults.total() == report.faults["cannot-say"] == len(samples) - len(expected)
    assert report.converted == len(expected)
    assert (folder / f"there{ending}").exists() == bool(expected)
    if expected:
        convert(folder / f"there{ending}", folder / "back.jsonl")
        assert [comparable(sample) for sample in read_files([folder / f"there{ending}"])] == expected
        assert [comparable(sample) for sample in read_files([folder / "back.jsonl"])] == expected


GLYPHS = {"id": "1", "image": "0.png", "conversations": turns("<image>"), "glyphs": [[["H", 1, 2, 3, 4]]]}


@pytest.mark.parametrize("to", ["llava", "sharegpt", "openai", "huggingface"])
def test_glyphs_that_are_lost_are_told(tmp_path, to):
    source = write_lines(tmp_path / "in.jsonl", GLYPHS)
    assert convert(source, tmp_path / "out.jsonl", to=to).lost == {"glyphs": 1}
    assert read_files([tmp_path / "out.jsonl"])[0].images[0].glyphs == ()


def test_native_records_stay_as_they_are(tmp_path):
    kept = [
        GLYPHS | {"source": {"url": "x"}, "score": 0.1},
        {
            "image": ["./a//0.png"],
            "conversations": [*turns([None, " ü"]), {"from": "human", "value": "?", "weight": 0}],
        },
    ]
    source = write_lines(tmp_path / "in.jsonl", *kept)
    report = convert(source, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == kept
    assert not report.lost
    assert read_files([source])[0].images[0].glyphs == (GlyphBox("H", 1, 2, 3, 4),)


def test_llava_records_stay_as_they_are_and_parsits_additions_do_not(tmp_path):
    kept = {"id": "1", "image": "0.png", "conversations": turns("<image>"), "source": "x"}
    changed = {"id": "2", "image": "0.png", "conversations": turns([None, "Read."], ["Hello"]), "source": "x"}
    source = write_lines(tmp_path / "in.jsonl", kept, changed)
    report = convert(source, tmp_path / "out.jsonl", to="llava")
    assert lines_of(tmp_path / "out.jsonl") == [
        kept,
        {"id": "2", "image": "0.png", "conversations": turns("<image>Read.", "Hello")},
    ]
    assert report.lost == {"source": 1}


def test_bad_records_are_set_aside_and_listed(tmp_path):
    source = tmp_path / "in.jsonl"
    bad = {"id": "7", "conversations": [{"from": "robot", "value": "x"}]}
    source.write_text("\n".join(["{broken", json.dumps(bad), json.dumps({"id": "8", "conversations": turns()}), "[1]"]))
    report = convert(source, tmp_path / "out.jsonl")
    assert (report.records, report.converted) == (4, 1)
    assert report.faults == {"json-broken": 1, "role-unknown": 1, "record-not-an-object": 1}
    findings = lines_of(tmp_path / "out.jsonl.findings.jsonl")
    assert [(f["code"], f["place"], f["id"]) for f in findings] == [
        ("json-broken", f"{source}:1", ""),
        ("role-unknown", f"{source}:2", "7"),
        ("record-not-an-object", f"{source}:4", ""),
    ]
    assert [record["id"] for record in lines_of(tmp_path / "out.jsonl")] == ["8"]


def test_fields_that_are_not_carried_are_counted(tmp_path):
    record = {"messages": [{"role": "user", "content": "x", "name": "Ann"}, {"role": "assistant", "content": "y"}]}
    source = write_lines(tmp_path / "in.jsonl", record, record | {"source": "web"})
    assert convert(source, tmp_path / "out.jsonl").lost == {"messages[].name": 2, "source": 1}


def test_a_file_that_is_cut_off_is_converted_as_far_as_it_goes(tmp_path):
    source = tmp_path / "in.json"
    source.write_text(json.dumps([{"id": str(n), "conversations": turns()} for n in range(3)])[:-20])
    report = convert(source, tmp_path / "out.json")
    assert (report.records, report.converted, report.faults) == (2, 2, {"json-cut-off": 1})
    assert "json-cut-off" in report.stopped
    assert len(read_files([tmp_path / "out.json"])) == 2


def test_without_one_good_record_nothing_is_written(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", {"id": "1"})
    report = convert(source, tmp_path / "out.parquet")
    assert not report.written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet.findings.jsonl"]
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataFault, match="file-empty"):
        convert(tmp_path / "empty.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def openai_record(number, url):
    question = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Read."}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "Hello"}]
    return {"id": str(number), "messages": messages}


def test_images_become_data_urls_and_files_again(tmp_path):
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    source = write_lines(
        tmp_path / "in.jsonl",
        *({"id": str(n), "image": f"{n % 2}.png", "conversations": turns("<image>Read.", "Hello")} for n in range(4)),
    )
    report = convert(source, tmp_path / "open.jsonl", to="openai", embed_images=True)
    assert report.images_not_looked_at == 0
    url = lines_of(tmp_path / "open.jsonl")[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,iVBOR")
    report = convert(tmp_path / "open.jsonl", tmp_path / "new" / "back.json")
    assert len(list((tmp_path / "new" / "back_images").iterdir())) == 2  # each content once
    assert report.images_written == 4
    assert report.image_folder is None or report.image_folder == tmp_path / "new"
    again = read_files([tmp_path / "new" / "back.json"], report.image_folder or tmp_path)
    assert [comparable(sample) for sample in again] == [comparable(sample) for sample in read_files([source])]


def test_written_images_lie_beside_an_output_in_another_folder(tmp_path):
    (tmp_path / "a").mkdir()
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    source = write_lines(tmp_path / "a" / "in.jsonl", openai_record(0, url), openai_record(1, "1.png"))
    report = convert(source, tmp_path / "b" / "out.jsonl")
    assert report.image_folder == tmp_path / "b"
    (sample,) = read_files([tmp_path / "b" / "out.jsonl"])
    assert sample.images[0].source.is_file()
    assert report.faults == {"cannot-say": 1}  # one file of records has one image folder


def test_tar_shards_are_what_webdataset_reads(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    source = write_lines(
        tmp_path / "in.jsonl",
        {"id": "a", "image": "0.png", "conversations": turns("<image>"), "source": "kept"},
        {"id": "b", "image": ["0.png", "1.png"], "conversations": turns("<image><image>")},
        {"id": "c", "conversations": turns()},
    )
    convert(source, tmp_path / "out.tar")
    first, second, third = webdataset.WebDataset(str(tmp_path / "out.tar"), shardshuffle=False)
    assert first["png"] == png(0)
    assert json.loads(first["json"])["source"] == "kept"
    assert (second["0.png"], second["1.png"]) == (png(0), png(1))
    assert json.loads(third["json"])["id"] == "c"
    before = (tmp_path / "out.tar").read_bytes()
    convert(source, tmp_path / "out.tar", overwrite=True)
    assert (tmp_path / "out.tar").read_bytes() == before
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames()[:3] == ["000000000.json", "000000000.png", "000000001.json"]


def test_parquet_is_what_datasets_shows(tmp_path):
    (tmp_path / "0.png").write_bytes(png(9))
    source = write_lines(
        tmp_path / "in.jsonl",
        {"id": "a", "image": "0.png", "conversations": turns("Look: <image>", "ü")},
        {"id": "b", "conversations": turns()},
    )
    convert(source, tmp_path / "out.parquet", embed_images=True)
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), cache_dir=tmp_path / "cache")
    first, second = loaded["train"]
    assert first["images"][0].getpixel((0, 0)) == (9, 0, 0)
    assert first["messages"][0]["content"] == [{"type": "text", "text": "Look: "}, {"type": "image", "text": None}]
    assert second["images"] == []
    convert(source, tmp_path / "paths.parquet")
    assert next(iter(records(tmp_path / "paths.parquet")))[2]["images"] == [{"bytes": None, "path": "0.png"}]


def test_images_are_looked_at_where_there_is_an_image_folder(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "1.png").write_bytes(png()[:40])
    source = write_lines(
        tmp_path / "in.jsonl",
        *({"id": str(n), "image": f"{n}.png", "conversations": turns("<image>")} for n in range(3)),
    )
    report = convert(source, tmp_path / "out.jsonl")
    assert (report.converted, report.images, report.images_not_looked_at) == (3, 3, 3)
    report = convert(source, tmp_path / "out.jsonl", image_folder=tmp_path, overwrite=True)
    assert (report.converted, report.images, report.images_not_looked_at) == (1, 1, 0)
    assert report.faults["image-missing"] == 1
    assert report.faults.total() == 2


def test_a_link_out_of_the_image_folder_is_not_embedded(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "data" / "0.png").symlink_to(tmp_path / "secret.png")
    source = write_lines(
        tmp_path / "data" / "in.jsonl", {"id": "1", "image": "0.png", "conversations": turns("<image>")}
    )
    assert convert(source, tmp_path / "out.tar").faults == {"image-symlink-leaves-root": 1}


def test_images_in_parquet_become_files(tmp_path):
    rows = [{"id": "1", "image": {"bytes": png(5), "path": None}, "conversations": turns("<image>"), "source": "kept"}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "in.parquet")
    convert(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    (record,) = lines_of(tmp_path / "out.jsonl")
    assert record["source"] == "kept"
    assert (tmp_path / record["image"]).read_bytes() == png(5)


def test_what_json_cannot_say_is_set_aside(tmp_path):
    rows = [{"id": "1", "conversations": turns(), "raw": b"\0"}, {"id": "2", "conversations": turns(), "raw": None}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "in.parquet")
    report = convert(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert (report.converted, report.faults) == (1, {"cannot-say": 1})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output": "out.csv"}, UsageError, "--output must end in"),
        ({"output": "out.jsonl", "to": "alpaca"}, UsageError, "--to must be one of"),
        ({"output": "out.jsonl", "to": "webdataset"}, UsageError, r"must end in \.tar"),
        ({"output": "out.jsonl", "format_name": "webdataset"}, UsageError, r"does not end in \.tar"),
        ({"output": "out.parquet", "to": "openai"}, UsageError, "--to huggingface"),
        ({"output": "out.jsonl", "embed_images": True}, UsageError, "--embed_images needs"),
        ({"output": "in.jsonl", "overwrite": True}, UsageError, "would overwrite the input"),
        ({"output": "old.jsonl"}, InputError, "add --overwrite"),
        ({"output": "found.jsonl"}, InputError, r"found\.jsonl\.findings\.jsonl exists"),
        ({"output": "folder.jsonl", "overwrite": True}, InputError, "is a folder"),
        ({"output": "out.jsonl", "image_folder": Path("nowhere")}, InputError, "no such image folder"),
        ({"output": "out.jsonl", "input": "none.jsonl"}, DataFault, "file-missing"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_record(tmp_path, options, error, message):
    write_lines(tmp_path / "in.jsonl", {"id": "1", "conversations": turns()})
    (tmp_path / "old.jsonl").write_text("old")
    (tmp_path / "found.jsonl.findings.jsonl").write_text("old")
    (tmp_path / "folder.jsonl").mkdir()
    before = sorted(tmp_path.iterdir())
    chosen = {"input": "in.jsonl"} | options
    with pytest.raises(error, match=message):
        convert_file(ConvertSettings(**chosen | {name: tmp_path / chosen[name] for name in ("input", "output")}))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.jsonl").read_text() == "old"


def test_older_findings_do_not_outlive_their_output(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", {"id": "1", "conversations": turns()})
    (tmp_path / "out.jsonl.findings.jsonl").write_text("old")
    convert(source, tmp_path / "out.jsonl", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    source = write_lines(tmp_path / "in.jsonl", {"id": "1", "conversations": turns()})
    monkeypatch.setattr(
        "tempfile.mkstemp", lambda prefix, dir: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "x"))
    )
    with pytest.raises(ParsitError, match="cannot be written: No space left on device"):
        convert(source, tmp_path / "out.jsonl")


def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", *({"id": str(n), "conversations": turns()} for n in range(200)))

    def stop(_):
        raise KeyboardInterrupt

    for name in ("out.json", "out.parquet", "out.tar"):
        with pytest.raises(KeyboardInterrupt):
            convert_file(ConvertSettings(source, tmp_path / name), stop)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_progress_adds_up_to_the_extent(tmp_path):
    source = write_lines(tmp_path / "in.jsonl", *({"id": str(n), "conversations": turns()} for n in range(100)))
    for path in (source, tmp_path / "d.parquet", tmp_path / "d.tar"):
        done = []
        convert_file(ConvertSettings(path, tmp_path / "out.jsonl", overwrite=True), done.append)
        # A tar's end mark and padding belong to no record.
        assert sum(done) == extent(path) or (path.suffix == ".tar" and extent(path) - sum(done) <= 10240)
        if path == source:
            for name in ("d.parquet", "d.tar"):
                convert(source, tmp_path / name)


PEAK = """
import sys
from pathlib import Path
from parsit.data.convert import convert_file
from parsit.data.convert_settings import ConvertSettings
convert_file(ConvertSettings(Path(sys.argv[1]), Path(sys.argv[2])))
# Not getrusage: what it says includes the process that started this one.
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ["out.json", "out.parquet", "out.tar"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    answer = "".join(random.Random(0).choices("abcdefgh ", k=80_000))
    peaks = []
    for count in (400, 1200):
        source = write_lines(
            tmp_path / f"{count}.jsonl", *({"id": str(n), "conversations": turns(answer=answer)} for n in range(count))
        )
        target = tmp_path / f"{count}-{name}"
        ran = subprocess.run([sys.executable, "-c", PEAK, source, target], capture_output=True, text=True, check=True)
        peaks.append(int(ran.stdout))
    assert peaks[1] - peaks[0] < 30  # the second file has 64 MB more


def test_the_kind_of_an_image_comes_from_its_first_bytes():
    for kind, ending in [
        ("PNG", ".png"),
        ("JPEG", ".jpg"),
        ("GIF", ".gif"),
        ("BMP", ".bmp"),
        ("TIFF", ".tif"),
        ("WEBP", ".webp"),
        ("PPM", ".pnm"),
    ]:
        buffer = io.BytesIO()
        Image.new("RGB", (3, 2)).save(buffer, kind)
        assert kind_of(buffer.getvalue())[0] == ending
    with pytest.raises(DataFault, match="image-unknown-format"):
        kind_of(b"no image")
