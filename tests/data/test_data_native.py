"""The native format: what is read, and that each fault is named with its place."""

from __future__ import annotations

import json

import pytest

from parsit.data.faults import DataFault
from parsit.data.files import read_files
from parsit.types import GlyphBox, ImageRef, InputError

HUMAN = {"from": "human", "value": "<image>\nRead."}
GPT = {"from": "gpt", "value": "Hello"}


def write(path, *records):
    path.write_text("\n".join(json.dumps(r) if not isinstance(r, str) else r for r in records) + "\n", encoding="utf-8")
    return path


def test_records_become_samples(tmp_path):
    glyphs = [[["H", 1, 2, 3, 4.5]]]
    record = {
        "id": 7,
        "image": "a/b.png",
        "conversations": [{"from": "system", "value": "S"}, HUMAN, GPT],
        "glyphs": glyphs,
    }
    path = write(
        tmp_path / "d.jsonl", record, "", {"id": "t", "conversations": [{"from": "human", "value": "2+2?"}, GPT]}
    )
    first, second = read_files([path])
    assert first.id == "7"
    assert first.place == f"{path}:1"
    assert [turn.role for turn in first.turns] == ["system", "user", "assistant"]
    image, text = first.turns[1].parts
    assert image == ImageRef(tmp_path / "a/b.png", (GlyphBox("H", 1.0, 2.0, 3.0, 4.5),))
    assert text == "\nRead."
    assert second.place == f"{path}:3"
    assert second.images == ()


def test_json_and_jsonl_give_equal_samples(tmp_path):
    records = [{"id": str(i), "image": f"{i}.png", "conversations": [HUMAN, GPT]} for i in range(3)]
    lines = write(tmp_path / "d.jsonl", *records)
    (tmp_path / "d.json").write_text(json.dumps(records))
    assert [s.turns for s in read_files([lines])] == [s.turns for s in read_files([tmp_path / "d.json"])]


def test_the_image_marker_is_structure_only_where_there_is_an_image(tmp_path):
    in_answer = {
        "id": "1",
        "image": "a.png",
        "conversations": [HUMAN, {"from": "gpt", "value": "The tag <image> is HTML."}],
    }
    no_image = {"id": "2", "conversations": [{"from": "human", "value": "What is <image>?"}, GPT]}
    first, second = read_files([write(tmp_path / "d.jsonl", in_answer, no_image)])
    assert first.turns[1].text == "The tag <image> is HTML."
    assert second.turns[0].parts == ("What is <image>?",)


def test_several_images_go_where_their_markers_are(tmp_path):
    record = {
        "id": "1",
        "image": ["a.png", "b.png"],
        "conversations": [{"from": "human", "value": "A <image> B <image>"}, GPT],
    }
    (sample,) = read_files([write(tmp_path / "d.jsonl", record)])
    assert [p if isinstance(p, str) else p.source.name for p in sample.turns[0].parts] == [
        "A ",
        "a.png",
        " B ",
        "b.png",
    ]


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ("{broken", "json-broken"),
        ("[1]", "record-not-an-object"),
        ({"id": "1"}, "conversations-missing"),
        ({"id": [1], "conversations": [HUMAN, GPT]}, "id-wrong-type"),
        ({"id": "\ud800", "conversations": [HUMAN, GPT]}, "text-not-unicode"),
        ({"conversations": []}, "conversations-empty"),
        ({"conversations": {}}, "conversations-wrong-type"),
        ({"conversations": ["hello"]}, "turn-not-an-object"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "role-unknown"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "role-unknown"),
        ({"conversations": [{"value": "x"}]}, "role-missing"),
        ({"conversations": [{"from": "human"}]}, "text-missing"),
        ({"conversations": [{"from": "human", "value": 3}]}, "text-wrong-type"),
        ({"conversations": [{"from": "human", "value": ["x", 3]}, GPT]}, "content-part-unknown"),
        ({"image": "a.png", "conversations": [{"from": "human", "value": "no marker"}, GPT]}, "image-markers-missing"),
        (
            {"image": "a.png", "conversations": [{"from": "human", "value": "<image><image>"}, GPT]},
            "image-markers-extra",
        ),
        ({"image": "a.png", "conversations": [{"from": "human", "value": ["x"]}, GPT]}, "image-markers-missing"),
        ({"conversations": [{"from": "human", "value": [None, "x"]}, GPT]}, "image-markers-extra"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}]}, "turn-empty"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "nothing-supervised"),
        ({"conversations": [GPT, {"from": "human", "value": "x"}]}, "first-turn-not-user"),
        ({"conversations": [{"from": "human", "value": "x"}, GPT, GPT]}, "turns-not-alternating"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "system", "value": "s"}]}, "system-not-first"),
        ({"conversations": [{"from": "human", "value": "\ud800"}, GPT]}, "text-not-unicode"),
        ({"image": "../secret.png", "conversations": [HUMAN, GPT]}, "image-path-leaves-root"),
        ({"image": "/etc/secret.png", "conversations": [HUMAN, GPT]}, "image-path-absolute"),
        ({"image": "https://example.org/a.png", "conversations": [HUMAN, GPT]}, "image-url-remote"),
        ({"image": "", "conversations": [HUMAN, GPT]}, "image-path-empty"),
        ({"image": 7, "conversations": [HUMAN, GPT]}, "image-wrong-type"),
        ({"image": "a\0.png", "conversations": [HUMAN, GPT]}, "image-wrong-type"),
        ({"image": "data:image/png;base64,!", "conversations": [HUMAN, GPT]}, "data-url-broken"),
        ({"image": "a.png", "glyphs": [[]], "conversations": [HUMAN, GPT], "x": 1}, None),
        ({"image": "a.png", "glyphs": [], "conversations": [HUMAN, GPT]}, "glyphs-wrong-number"),
        ({"image": "a.png", "glyphs": {}, "conversations": [HUMAN, GPT]}, "glyphs-wrong-type"),
        ({"image": "a.png", "glyphs": [[["a", 1]]], "conversations": [HUMAN, GPT]}, "glyphs-wrong-type"),
        ({"image": "a.png", "glyphs": [[], []], "conversations": [HUMAN, GPT]}, "glyphs-wrong-number"),
    ],
)
def test_each_fault_is_named_with_file_and_line(tmp_path, record, code):
    good = {"id": "0", "conversations": [{"from": "human", "value": "x"}, GPT]}
    path = write(tmp_path / "d.jsonl", good, record)
    if code is None:
        assert len(read_files([path])) == 2
        return
    with pytest.raises(DataFault) as caught:
        read_files([path])
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


def test_a_value_may_be_a_list_of_texts_and_nulls(tmp_path):
    record = {
        "id": "1",
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": ["The tag ", "<image>", " and ", None, ""]},
            {"from": "gpt", "value": [None, "as you see"]},
        ],
    }
    (sample,) = read_files([write(tmp_path / "d.jsonl", record)])
    assert sample.turns[0].parts == ("The tag <image> and ", ImageRef(tmp_path / "a.png"))
    assert sample.turns[1].parts == (ImageRef(tmp_path / "b.png"), "as you see")


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl.*file-missing"):
        read_files([tmp_path / "none.jsonl"])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="no samples"):
        read_files([tmp_path / "empty.jsonl"])
    with pytest.raises(InputError, match="no such image folder"):
        read_files([tmp_path / "empty.jsonl"], tmp_path / "nowhere")
