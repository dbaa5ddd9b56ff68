"""Whatever validation passes, training can read: a property over all formats, of records changed at random."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from parsit import hf
from parsit.data.dataset import DataLimits, open_data
from parsit.data.sources import read_sources
from parsit.data.validate import validate_files
from parsit.processing.collate import collate
from parsit.processing.glyphs import glyph_targets

SEEN = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Hello"}]
ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read."}]}
ANSWERED = {"role": "assistant", "content": "Hello"}
RECORDS = [
    {"id": "1", "image": "a.png", "conversations": SEEN, "glyphs": [[["H", 1, 2, 9.5, 12], ["i", 9, 2, 14, 12]]]},
    {"id": 2, "image": ["a.png", "b.png"], "conversations": [{"from": "human", "value": [None, "x", None]}, SEEN[1]]},
    {"system": "S", "images": ["a.png"], "conversations": [{"role": "user", "content": "<image>"}, SEEN[1]]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}, ANSWERED]},
    {"messages": [ASKED, ANSWERED], "images": ["b.png"]},
    {"texts": [{"user": "Read.", "assistant": "Hello"}], "images": ["a.png"]},
]
ODD = [
    None, True, -1, 0, 1e-320, 1e999, -1e999, 10**400, 2**63, 1e6, "nan", "", " ", "a.png", "none.png", "thin.png",
    "<image>", "<|im_end|>", "\ud800", "\0", [], {}, [[]], [None], ["a.png"], {"path": "b.png"}, [["H", 3, 9, 1, 2]],
]  # fmt: skip


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainable")
    for name, size in (("a.png", (60, 40)), ("b.png", (33, 71)), ("thin.png", (1, 400))):
        Image.new("RGB", size, "white").save(folder / name)
    return folder


def places(value, path=()):
    """Every place in a record that can be changed."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def changed(record, path, value):
    """A record with one value replaced, or taken out where the value is `changed` itself."""
    if not path:
        return value if isinstance(value, dict) else record
    record = copy.deepcopy(record)
    at = record
    for key in path[:-1]:
        at = at[key]
    if value is changed:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return record


@st.composite
def records(draw):
    record = draw(st.sampled_from(RECORDS))
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(list(places(record))))
        record = changed(record, path, draw(st.sampled_from([*ODD, changed])))
    return record


@pytest.mark.slow
def test_what_validation_passes_can_be_trained_on(processor, folder, monkeypatch):
    monkeypatch.setenv("PARSIT_CACHE", str(folder / "cache"))
    asked: list[int] = []

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(made=st.lists(records(), min_size=1, max_size=6))
    def check(made):
        asked.append(trainable(made, folder / "d.jsonl", processor))

    check()
    assert sum(asked) > 200, "the property is worth nothing if nothing passes"


def trainable(made, path, processor):
    """Validate some records and do with the good ones what a run does before its first step; how many there were."""
    path.write_text("".join(json.dumps(record) + "\n" for record in made))
    good = validate_files([path]).good
    if not good:
        return 0
    data = open_data(read_sources([path]), processor, DataLimits(100_000, max_bad_fraction=1.0), workers=1)
    assert len(data) == good
    samples = [data.samples[number] for number in range(good)]
    features = [processor.encode(sample.turns) for sample in samples]
    assert [len(one.input_ids) for one in features] == data.num_tokens.tolist()
    assert all(one.num_supervised for one in features)
    batch = collate(features, processor.chat_tokens.pad)
    assert batch.pixel_values is None or torch.isfinite(batch.pixel_values).all()
    for sample, one in zip(samples, features, strict=True):
        sizes = [] if one.image_sizes is None else one.image_sizes.tolist()
        for image, (height, width) in zip(sample.images, sizes, strict=True):
            glyph_targets(image.glyphs, (width, height), processor.image_processor.layout)
    return good
