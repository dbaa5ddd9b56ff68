"""The native format: what is read, and that each fault is named with its place."""

from __future__ import annotations

import json

import pytest

from parsit.data.faults import DataFault
from parsit.data.files import read_files
from parsit.data.formats import FORMATS, native
from parsit.types import GlyphBox, ImageRef, InputError

HUMAN = {"from": "human", "value": "<image>\nRead."}
GPT = {"from": "gpt", "value": "Hello"}
TEXT = {"from": "human", "value": "x"}
ASKED, ANSWERED = {"role": "user", "content": "<image>Read."}, {"role": "assistant", "content": "Hello"}


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


def test_the_image_marker_is_plain_text_in_an_answer_and_in_a_list_of_texts(tmp_path):
    in_answer = {
        "id": "1",
        "image": "a.png",
        "conversations": [HUMAN, {"from": "gpt", "value": "The tag <image> is HTML."}],
    }
    in_a_list = {"id": "2", "conversations": [{"from": "human", "value": ["What is <image>?"]}, GPT]}
    first, second = read_files([write(tmp_path / "d.jsonl", in_answer, in_a_list)])
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
        *(
            ({"image": "a.png", "glyphs": [[box]], "conversations": [HUMAN, GPT]}, "glyphs-wrong-type")
            for box in (
                ["a", "nan", 0, 1, 1],
                ["a", 0, 0, 1, 10**400],
                ["a", 0, 0, 1, -1e7],
                ["a", 0, 0, True, 1],
                ["a", 0, 0, 1, None],
                [None, 0, 0, 1, 1],
                ["a", 0, 0, 1, 1, 1],
                "abcde",
            )
        ),
        (
            '{"image": "a.png", "glyphs": [[["a", 0, 0, 1e999, 1]]], "conversations":'
            ' [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]}',
            "glyphs-wrong-type",
        ),
        ({"conversations": [HUMAN, GPT]}, "image-markers-extra"),
        ({"image": None, "conversations": [HUMAN, GPT]}, "image-markers-extra"),
        ({"image": [], "conversations": [HUMAN, GPT]}, "image-markers-extra"),
        ({"image_path": "a.png", "conversations": [HUMAN, GPT]}, "image-markers-extra"),
        ({"images": [], "conversations": [HUMAN, GPT]}, "image-markers-extra"),
        ({"messages": [ASKED, ANSWERED]}, "image-markers-extra"),
        ({"messages": [ASKED, ANSWERED], "images": []}, "image-markers-extra"),
        ({"messages": [ASKED, ANSWERED], "images": None}, "image-markers-extra"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "<image>"}]}, ANSWERED], "images": []},
            "image-markers-extra",
        ),
        ({"image_path": "a.png", "conversations": [TEXT, GPT]}, "image-field-unknown"),
        ({"page_images": ["a.JPG"], "conversations": [TEXT, GPT]}, "image-field-unknown"),
        ({"img": {"bytes": None, "path": "a.tiff"}, "conversations": [TEXT, GPT]}, "image-field-unknown"),
        ({"conversations": [TEXT | {"image": "data:image/png;base64,AA=="}, GPT]}, "image-field-unknown"),
        ({"messages": [{"role": "user", "content": "Hi", "image": "a.png"}, ANSWERED]}, "image-field-unknown"),
        ({"source": "a.png", "image_path": None, "image_id": "7", "conversations": [TEXT, GPT]}, None),
        ({"image": "a.png", "thumbnail_image": "b.png", "conversations": [HUMAN, GPT]}, None),
        ('{"id": "1", "image": "a.png", "conversations": [], "image": "b.png"}', "json-broken"),
        (
            '{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "a", "value": "b"}]}',
            "json-broken",
        ),
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


def test_a_guess_names_the_field_that_may_hold_the_image(tmp_path):
    record = {"id": "1", "page": "scans/a.png", "conversations": [HUMAN, GPT]}
    with pytest.raises(DataFault, match=r"1 <image> in the text, but 0 images in the record; 'page' may hold it"):
        read_files([write(tmp_path / "d.jsonl", record)])


def test_a_key_that_comes_twice_is_named(tmp_path):
    with pytest.raises(DataFault, match=r"d\.jsonl:1: .*the key 'image' is given twice"):
        read_files([write(tmp_path / "d.jsonl", '{"image": "a.png", "image": "b.png", "conversations": []}')])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_another_encoding_is_named_once_for_the_file(tmp_path, encoding, name):
    text = (
        json.dumps([{"conversations": [TEXT, GPT]}]) if name == "d.json" else json.dumps({"conversations": [TEXT, GPT]})
    )
    (tmp_path / name).write_bytes(f"{text}\n{' ' * 9}".encode(encoding))
    with pytest.raises(DataFault, match=encoding[:6].upper()) as caught:
        read_files([tmp_path / name])
    assert (caught.value.code, caught.value.place) == ("encoding-broken", str(tmp_path / name))


def test_accepted_answers_come_back_as_they_were_written(tmp_path):
    record = {"id": "1", "answers": ["Hello", "Hi", "Hello", "hello"], "conversations": [TEXT, GPT]}
    (sample,) = read_files([write(tmp_path / "d.jsonl", record)])
    assert sample.other_answers == ("Hi", "hello")
    written = native.write(sample, lambda image: "").record
    assert written["answers"] == ["Hello", "Hi", "hello"]
    (again,) = read_files([write(tmp_path / "e.jsonl", written)])
    assert again.other_answers == sample.other_answers
    for name in ("llava", "sharegpt", "openai", "huggingface"):
        assert FORMATS[name].write(sample, lambda image: "").lost == ("answers",)
