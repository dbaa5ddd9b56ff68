"""The formats beside the native one: what each layout means, which format a record is, and what is wrong with it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from parsit.data.faults import DataFault
from parsit.data.formats import Context, detect, format_named, not_carried, read_record
from parsit.data.formats.common import joined
from parsit.types import ImageRef, Turn

CONTEXT = Context("d.jsonl:1", Path("root"))
A, B = ImageRef(Path("root/a.png")), ImageRef(Path("root/b.png"))
GPT = {"from": "gpt", "value": "Hello"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
ANSWER = Turn("assistant", ("Hello",))


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"conversations": [{"from": "human", "value": "x"}, GPT]}, "parsit"),
        ({"conversations": [{"from": "human", "value": "x"}, GPT], "images": None, "system": None}, "parsit"),
        ({"conversations": [{"from": "human", "value": "x"}, GPT], "system": "S"}, "sharegpt"),
        ({"conversations": [{"from": "human", "value": "x"}, GPT], "images": ["a.png"]}, "sharegpt"),
        ({"conversations": [{"from": "user", "value": "x"}, GPT]}, "sharegpt"),
        ({"conversation": [{"role": "user", "content": "x"}]}, "sharegpt"),
        ({"conversations": "hello"}, "sharegpt"),
        ({"messages": [{"role": "user", "content": "x"}, ASSISTANT]}, "openai"),
        ({"messages": [{"role": "user", "content": "x"}, ASSISTANT], "images": None}, "openai"),
        ({"messages": [user(text("x"), {"type": "image_url", "image_url": "a.png"}), ASSISTANT]}, "openai"),
        ({"messages": "hello"}, "openai"),
        ({"messages": [user({"type": "image", "path": "a.png"}), ASSISTANT]}, "huggingface"),
        ({"messages": [{"role": "user", "content": "<image>"}, ASSISTANT], "images": ["a.png"]}, "huggingface"),
        ({"texts": [{"user": "x", "assistant": "y"}], "images": ["a.png"]}, "huggingface"),
    ],
)
def test_each_record_is_in_one_format(record, name):
    assert detect(record).name == name


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        pytest.param(
            {"system": "S", "images": ["a.png"], "conversations": [{"from": "human", "value": "<image>Read."}, GPT]},
            [Turn("system", ("S",)), Turn("user", (A, "Read.")), ANSWER],
            id="system and images",
        ),
        pytest.param(
            {"conversation": [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Hello"}]},
            [Turn("user", ("Hi",)), ANSWER],
            id="roles and contents",
        ),
        pytest.param(
            {
                "conversations": [
                    {"from": "human", "value": "Weather?"},
                    {"from": "function_call", "value": '{"name": "w"}'},
                    {"from": "observation", "value": "rain"},
                    {"from": "tool_response", "value": "wind"},
                    GPT,
                ]
            },
            [
                Turn("user", ("Weather?",)),
                Turn("assistant", ('<tool_call>\n{"name": "w"}\n</tool_call>',)),
                Turn(
                    "user",
                    ("<tool_response>\nrain\n</tool_response>\n<tool_response>\nwind\n</tool_response>",),
                ),
                ANSWER,
            ],
            id="ShareGPT's tools",
        ),
        pytest.param(
            {
                "messages": [
                    user(text("A "), {"type": "image_url", "image_url": {"url": "a.png"}}, text("!")),
                    ASSISTANT,
                ]
            },
            [Turn("user", ("A ", A, "!")), ANSWER],
            id="interleaved",
        ),
        pytest.param(
            {
                "messages": [
                    user(text("<image>"), text(""), text(" x"), {"type": "input_image", "image_url": "a.png"}),
                    ASSISTANT,
                ]
            },
            [Turn("user", ("<image> x", A)), ANSWER],
            id="literal marker, adjacent texts",
        ),
        pytest.param(
            {
                "messages": [
                    {"role": "developer", "content": "S"},
                    {"role": "user", "content": "Weather?"},
                    {
                        "role": "assistant",
                        "content": "I look.",
                        "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": '{"at": "Ü"}'}}],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "rain"},
                    {"role": "tool", "content": [text("wind"), {"type": "image_url", "image_url": "b.png"}]},
                    {"role": "assistant", "content": None, "tool_calls": [{"name": "v", "arguments": {"n": 1}}]},
                ]
            },
            [
                Turn("system", ("S",)),
                Turn("user", ("Weather?",)),
                Turn("assistant", ('I look.\n<tool_call>\n{"name": "w", "arguments": {"at": "Ü"}}\n</tool_call>',)),
                Turn(
                    "user",
                    (
                        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nwind",
                        B,
                        "\n</tool_response>",
                    ),
                ),
                Turn("assistant", ('<tool_call>\n{"name": "v", "arguments": {"n": 1}}\n</tool_call>',)),
            ],
            id="OpenAI's tools",
        ),
        pytest.param(
            {
                "images": [{"bytes": b"data", "path": "x.png"}, {"bytes": None, "path": "b.png"}],
                "messages": [user({"type": "image", "text": None}, text("Read."), {"type": "image"}), ASSISTANT],
            },
            [Turn("user", (ImageRef(b"data"), "Read.", B)), ANSWER],
            id="placeholders",
        ),
        pytest.param(
            {"messages": [user({"type": "image", "path": "a.png"}, {"type": "image", "image": b"data"}), ASSISTANT]},
            [Turn("user", (A, ImageRef(b"data"))), ANSWER],
            id="parts with their own images",
        ),
        pytest.param(
            {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>Read <b>"}, ASSISTANT]},
            [Turn("user", (A, "Read <b>")), ANSWER],
            id="markers in plain messages",
        ),
        pytest.param(
            {"image": b"data", "conversations": [{"from": "human", "value": "<image>"}, GPT]},
            [Turn("user", (ImageRef(b"data"),)), ANSWER],
            id="LLaVA with bytes",
        ),
        pytest.param(
            {"images": ["a.png", "b.png"], "texts": [{"user": "Q", "assistant": "Hello", "source": "s"}]},
            [Turn("user", (A, B, "Q")), ANSWER],
            id="the_cauldron",
        ),
    ],
)
def test_what_a_record_says(record, turns):
    assert list(read_record(record, CONTEXT).turns) == turns


def test_a_data_url_is_its_bytes():
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    record = {"messages": [user({"type": "image_url", "image_url": {"url": url}}), ASSISTANT]}
    assert read_record(record, CONTEXT).images == (ImageRef(b"\x89PNG"),)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"conversations": [{"from": "robot", "value": "x"}, GPT]}, "role-unknown"),
        ({"conversations": [{"from": "human"}, GPT], "system": "S"}, "text-missing"),
        ({"conversations": [{"from": "user", "value": 3}, GPT]}, "text-wrong-type"),
        ({"conversations": 3}, "conversations-wrong-type"),
        ({"conversation": []}, "conversations-empty"),
        ({"system": 3, "conversations": [{"from": "human", "value": "x"}, GPT]}, "text-wrong-type"),
        ({"system": "S", "conversations": [{"from": "system", "value": "x"}, GPT]}, "system-not-first"),
        ({"images": ["a.png"], "conversations": [{"from": "human", "value": "x"}, GPT]}, "image-markers-missing"),
        ({"image": "a", "images": ["b"], "conversations": [{"from": "human", "value": "x"}, GPT]}, "image-wrong-type"),
        ({"messages": {}}, "conversations-wrong-type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role-unknown"),
        ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, "text-missing"),
        ({"messages": [user("x"), ASSISTANT]}, "content-part-unknown"),
        ({"messages": [user({"type": "input_audio"}), ASSISTANT]}, "content-part-unknown"),
        ({"messages": [user({"type": "text"}), ASSISTANT]}, "text-missing"),
        ({"messages": [user({"type": "image_url"}), ASSISTANT]}, "image-wrong-type"),
        (
            {"messages": [user({"type": "image_url", "image_url": {"url": "https://a/b.png"}}), ASSISTANT]},
            "image-url-remote",
        ),
        (
            {"messages": [user({"type": "image_url", "image_url": "data:image/png;base64,?"}), ASSISTANT]},
            "data-url-broken",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": 3}]}, "content-part-unknown"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "content-part-unknown"),
        ({"messages": [user({"type": "image"}), ASSISTANT], "images": []}, "image-markers-extra"),
        ({"messages": [user({"type": "image"}), ASSISTANT], "images": ["a.png", "b.png"]}, "image-markers-missing"),
        ({"messages": [user({"type": "video"}), ASSISTANT], "images": ["a.png"]}, "content-part-unknown"),
        ({"messages": [user(text("no marker")), ASSISTANT], "images": ["a.png"]}, "image-markers-missing"),
        ({"texts": [], "images": ["a.png"]}, "conversations-empty"),
        ({"question": "x"}, "conversations-missing"),
    ],
)
def test_each_fault_has_its_code(record, code):
    with pytest.raises(DataFault) as caught:
        read_record(record, CONTEXT)
    assert caught.value.code == code
    assert str(caught.value).startswith("d.jsonl:1: ")


def test_a_format_that_was_named_is_not_guessed():
    record = {"messages": [{"role": "user", "content": "x"}, ASSISTANT]}
    with pytest.raises(DataFault, match="format-mismatch"):
        read_record(record, CONTEXT, format_named("parsit"))
    with pytest.raises(DataFault, match="format-unknown"):
        format_named("alpaca")


def test_fields_that_are_left_behind_are_named():
    record = {
        "id": "1",
        "source": "web",
        "score": None,
        "messages": [{"role": "user", "content": "x", "name": "Ann"}, ASSISTANT | {"weight": 0, "name": None}],
    }
    assert sorted(not_carried(record, detect(record))) == ["messages[].name", "messages[].weight", "source"]


def test_adjacent_texts_are_joined_and_empty_ones_dropped():
    assert joined(["", "a", "", "b", A, "", "c"]) == ("ab", A, "c")
