"""The index on disk and the data set over it: what is good is found again, what is bad is set aside and counted."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from parsit import hf
from parsit.data import index as index_module
from parsit.data.dataset import DataLimits, open_data
from parsit.data.files import read_files
from parsit.data.index import open_index
from parsit.data.records import DataFile
from parsit.data.sources import read_sources
from parsit.types import InputError

LIMITS = DataLimits(model_max_length=512)


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty records in JSONL: half about an image, some of several turns; a cache of its own."""
    monkeypatch.setenv("PARSIT_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    records = []
    for number in range(20):
        Image.new("RGB", (30 + 9 * number, 24), "white").save(data / f"{number}.png")
        talk = [
            {"from": "human", "value": ("<image>\n" if number % 2 else "") + f"Read number {number}."},
            {"from": "gpt", "value": f"It is {number}. " * (1 + number)},
        ]
        if number % 5 == 0:
            talk += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Quite sure of it. " * 10}]
        records.append({"id": f"r{number}", "conversations": talk} | ({"image": f"{number}.png"} if number % 2 else {}))
    write(data / "d.jsonl", records)
    return data


def write(path, records):
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def opened(folder, processor, limits=LIMITS, name="d.jsonl", **more):
    return open_data(read_sources([folder / name]), processor, limits, **more)


def test_samples_come_from_disk_as_the_reader_gives_them_with_the_processors_lengths(folder, processor):
    data = opened(folder, processor)
    expected = read_files([folder / "d.jsonl"])
    assert [data.samples[n] for n in range(len(data))] == expected
    for number, sample in enumerate(expected):
        features = processor.encode(sample.turns)
        assert data.num_tokens[number] == len(features.input_ids)
        assert data.num_tiles[number] == (0 if features.pixel_values is None else len(features.pixel_values))
    supervised = open_index(DataFile(folder / "d.jsonl", folder), processor).column("num_supervised")
    assert supervised.tolist() == [processor.encode(sample.turns).num_supervised for sample in expected]


def test_an_index_is_built_once_and_again_for_what_changed(folder, processor):
    built = []

    def progress(path, done, total):
        built.append((path.name, done, total))

    write(folder / "e.jsonl", lines_of(folder / "d.jsonl")[:3])
    sources = read_sources([folder / "d.jsonl", folder / "e.jsonl"])
    first = open_data(sources, processor, LIMITS, on_progress=progress)
    assert {name: total for name, _, total in built} == {"d.jsonl": 20, "e.jsonl": 3}
    built.clear()
    again = open_data(sources, processor, LIMITS, on_progress=progress)
    assert built == []
    assert again.digest == first.digest
    write(folder / "e.jsonl", lines_of(folder / "d.jsonl")[:4])
    changed = open_data(sources, processor, LIMITS, on_progress=progress)
    assert {name for name, _, _ in built} == {"e.jsonl"}
    assert len(changed) == 24
    assert changed.digest != first.digest


@pytest.mark.parametrize("what", ["time", "ends", "folder", "layout", "format"])
def test_whatever_the_lengths_depend_on_is_part_of_the_key(folder, processor, mini, what, tmp_path):
    from dataclasses import replace

    path = folder / "d.jsonl"
    before = open_index(DataFile(path, folder), processor).folder
    reading, other = DataFile(path, folder), processor
    if what == "time":
        os.utime(path, ns=(1, 1))
    elif what == "ends":
        status = path.stat()
        text = path.read_text()
        path.write_text(text.replace("Sure?", "Sore?"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif what == "folder":
        (tmp_path / "other").mkdir()
        reading = DataFile(path, tmp_path / "other")
    elif what == "format":
        reading = DataFile(path, folder, "parsit")
    else:
        other = hf.new_processor(
            replace(mini, multimodal=mini.multimodal | {"image_grid_pinpoints": "(1x1),...,(2x2)"})
        )
    assert open_index(reading, other).folder != before


def test_an_interrupted_build_leaves_nothing_that_looks_whole(folder, processor):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_index(DataFile(folder / "d.jsonl", folder), processor, on_progress=interrupt)
    assert list((index_module.cache_folder() / "index").iterdir()) == []
    assert len(open_index(DataFile(folder / "d.jsonl", folder), processor)) == 20


@pytest.mark.slow
def test_several_processes_build_the_same_index(folder, processor, monkeypatch):
    alone = open_index(DataFile(folder / "d.jsonl", folder), processor)
    columns = {name: alone.column(name).copy() for name in index_module.COLUMNS}
    monkeypatch.setenv("PARSIT_CACHE", str(folder / "other-cache"))
    monkeypatch.setattr(index_module, "_ALONE_UP_TO", 0)
    monkeypatch.setattr(index_module, "_CHUNK", 3)
    together = open_index(DataFile(folder / "d.jsonl", folder), processor, workers=2)
    for name, column in columns.items():
        assert np.array_equal(together.column(name), column), name


def test_bad_records_are_set_aside_counted_and_listed(folder, processor, tmp_path):
    lines = lines_of(folder / "d.jsonl")
    lines[2] = lines[2][:-5]
    lines[7] = lines[7].replace("7.png", "gone.png")
    write(folder / "d.jsonl", lines)
    data = opened(folder, processor, DataLimits(512, max_bad_fraction=0.1))
    assert len(data) == 18
    assert data.num_records == 20
    assert dict(data.set_aside) == {"json-broken": 1, "image-missing": 1}
    assert [sample.id for sample in (data.samples[n] for n in range(18))] == [
        f"r{n}" for n in range(20) if n not in (2, 7)
    ]
    data.write_findings(tmp_path / "list.jsonl")
    listed = [json.loads(line) for line in lines_of(tmp_path / "list.jsonl")]
    assert [(f["code"], f["place"]) for f in listed] == [
        ("json-broken", f"{folder}/d.jsonl:3"),
        ("image-missing", f"{folder}/d.jsonl:8"),
    ]
    assert all(f["remedy"] for f in listed)


def test_too_much_that_is_bad_stops_the_run_with_the_first_place_and_the_list(folder, processor):
    lines = lines_of(folder / "d.jsonl")
    lines[2] = "{"
    write(folder / "d.jsonl", lines)
    with pytest.raises(
        InputError, match=r"1 of 20 records are bad \(json-broken 1\), more than --max_bad_fraction 0\.001"
    ):
        opened(folder, processor)
    with pytest.raises(InputError, match=r"first: .*d\.jsonl:3: .*findings\.jsonl"):
        opened(folder, processor)
    with pytest.raises(InputError, match=r"all are listed in .*run/set_aside\.jsonl"):
        opened(folder, processor, findings_file=folder / "run" / "set_aside.jsonl")
    (entry,) = map(json.loads, lines_of(folder / "run" / "set_aside.jsonl"))
    assert (entry["code"], entry["place"]) == ("json-broken", f"{folder}/d.jsonl:3")


def test_over_long_samples_are_skipped_cut_or_refused(folder, processor):
    whole = opened(folder, processor)
    limit = int(np.sort(whole.num_tokens)[-4])
    too_long = np.flatnonzero(whole.num_tokens > limit)
    skipped = opened(folder, processor, DataLimits(limit))
    assert len(skipped) == 20 - len(too_long)
    assert skipped.set_aside["over-long"] == len(too_long) == 3
    assert skipped.num_tokens.max() <= limit
    with pytest.raises(
        InputError, match=rf"d\.jsonl:\d+: \d+ tokens, more than --model_max_length {limit}.*\[over-long\]"
    ):
        opened(folder, processor, DataLimits(limit, over_long="error"))


def test_truncation_keeps_whole_turns_and_never_half_an_image(folder, processor):
    whole = opened(folder, processor)
    several = [n for n in range(20) if len(whole.samples[n].turns) == 4]
    limit = min(int(whole.num_tokens[n]) for n in several) - 1
    data = opened(folder, processor, DataLimits(limit, over_long="truncate"))
    assert data.num_tokens.max() <= limit
    assert data.noted["over-long-truncated"] > 0
    for number in range(len(data)):
        sample = data.samples[number]
        features = processor.encode(sample.turns)
        assert len(features.input_ids) == data.num_tokens[number]
        assert sample.turns[-1].role == "assistant"
        original = next(whole.samples[n] for n in range(20) if whole.samples[n].id == sample.id)
        assert sample.turns == original.turns[: len(sample.turns)]
    # What does not fit even to its first answer is set aside.
    assert data.set_aside["over-long"] + len(data) == 20


def test_samples_with_too_many_tiles_are_set_aside(folder, processor):
    whole = opened(folder, processor)
    limit = int(whole.num_tiles.max()) - 1
    data = opened(folder, processor, DataLimits(512, max_tiles=limit))
    assert data.set_aside["too-many-tiles"] == (whole.num_tiles > limit).sum() > 0
    assert data.num_tiles.max() <= limit


def test_a_mixture_takes_what_it_says_the_same_in_every_run(folder, processor):
    (folder / "mix.yaml").write_text(
        "datasets:\n"
        "  - json_path: d.jsonl\n    sampling_strategy: first:4\n"
        "  - json_path: d.jsonl\n    sampling_strategy: random:50%\n    name: again\n    weight: 2\n"
    )
    data = opened(folder, processor, name="mix.yaml", seed=3)
    ids = [data.samples[n].id for n in range(len(data))]
    assert ids[:4] == ["r0", "r1", "r2", "r3"]
    assert len(ids) == 4 + 2 * 10
    assert len(set(ids[4:])) == 10
    assert opened(folder, processor, name="mix.yaml", seed=3).digest == data.digest
    assert opened(folder, processor, name="mix.yaml", seed=4).digest != data.digest


def test_duplicate_ids_are_noted_and_kept(folder, processor):
    lines = lines_of(folder / "d.jsonl")
    write(folder / "d.jsonl", [*lines, lines[0]])
    data = opened(folder, processor)
    assert len(data) == 21
    assert dict(data.noted) == {"id-duplicate": 1}


def test_a_store_travels_to_workers_without_its_columns(folder, processor):
    data = opened(folder, processor)
    sent = pickle.dumps(data.samples.files[0])
    assert len(sent) < 1000
    assert pickle.loads(sent).span(3) == data.samples.files[0].span(3)


def test_nothing_left_is_an_error(folder, processor):
    with pytest.raises(
        InputError, match=r"no sample is left of 20 records: the shortest has \d+ tokens.*raise it to .*line"
    ):
        opened(folder, processor, DataLimits(3), findings_file=folder / "run" / "set_aside.jsonl")
    listed = [json.loads(line) for line in lines_of(folder / "run" / "set_aside.jsonl")]
    assert [entry["code"] for entry in listed] == ["over-long"] * 20
    write(folder / "tiles.jsonl", [line for line in lines_of(folder / "d.jsonl") if '"image"' in line][-2:])
    with pytest.raises(InputError, match="none is within --max_tiles_per_pack 1: raise it"):
        opened(folder, processor, DataLimits(512, max_tiles=1), name="tiles.jsonl")
    write(folder / "empty.jsonl", [""])
    with pytest.raises(InputError, match="no sample is left"):
        opened(folder, processor, name="empty.jsonl")


def test_a_file_that_changes_under_a_run_is_named(folder, processor):
    data = opened(folder, processor)
    write(folder / "d.jsonl", lines_of(folder / "d.jsonl")[:3])
    with pytest.raises(InputError, match=r"d\.jsonl.* ends before"):
        data.samples[19]


def test_every_kind_of_file_can_be_trained_on(folder, processor, tmp_path):
    records = [json.loads(line) for line in lines_of(folder / "d.jsonl")]
    (folder / "d.json").write_text(json.dumps(records, indent=1))
    jsonl, array = (opened(folder, processor, name=name) for name in ("d.jsonl", "d.json"))
    assert array.num_tokens.tolist() == jsonl.num_tokens.tolist()
    assert [array.samples[n].turns for n in range(20)] == [jsonl.samples[n].turns for n in range(20)]
