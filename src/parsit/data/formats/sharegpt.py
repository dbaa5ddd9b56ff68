r"""ShareGPT's layout and its dialects.

    {"id": "7", "system": "Be brief.", "images": ["a.png"],
     "conversations": [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Hello"}]}

Turns stand in `conversations` or `conversation`, with `from` and `value` or with `role` and `content`. `system` is a
first turn. Images stand in `images` or `image`, and `<image>` in a turn that is not the assistant's marks where one
goes. The roles of tools are those of LLaMA-Factory's data/README.md and of ms-swift's custom-dataset page; their text
becomes what Qwen3's chat template would write: `<tool_call>` in the assistant's turn, `<tool_response>` in the user's.
"""

from __future__ import annotations

from typing import Any

from parsit.data.faults import DataFault
from parsit.data.formats.common import (
    IMAGE_MARKER,
    TOOL_ANSWER_JOINT,
    Context,
    Format,
    ImageNames,
    Written,
    marked_texts,
    role_of,
    sample_id,
    text_of,
    tool_answer,
    tool_call,
    turn_list,
    turns_with_images,
)
from parsit.data.formats.images import images_of, native_extras
from parsit.types import Role, Sample

_CALLS = ("function_call", "tool_call")
_ANSWERS = ("observation", "tool", "tool_response", "function_response")
ROLES: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("human", "user", *_ANSWERS), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "bot", "model", "bard", *_CALLS), "assistant"),
}
NAMES: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}


def _key(record: dict[str, Any]) -> str:
    return "conversations" if record.get("conversations") is not None else "conversation"


def sniff(record: dict[str, Any]) -> bool:
    """Anything under `conversations` or `conversation`; what is wrong with it is `read`'s to say."""
    return record.get(_key(record)) is not None


def read(record: dict[str, Any], context: Context) -> Sample:
    """A ShareGPT record. Raises `DataFault`."""
    turns = turn_list(record, _key(record))
    name = sample_id(record, context)
    raw: list[tuple[Role, str]] = []
    system = record.get("system")
    if system is not None and not isinstance(system, str):
        raise DataFault("text-wrong-type", f"'system' is {type(system).__name__}, not text")
    if system:
        raw.append(("system", system))
    answered = False
    for number, turn in enumerate(turns):
        speaker = "from" if turn.get("from") is not None else "role"
        role = role_of(turn, speaker, ROLES, number)
        text = text_of(turn, "value" if turn.get("value") is not None else "content", number)
        answers = turn[speaker] in _ANSWERS
        if turn[speaker] in _CALLS:
            text = tool_call(text)
        elif answers:
            text = tool_answer(text)
        if answers and answered:
            raw[-1] = (role, raw[-1][1] + TOOL_ANSWER_JOINT + text)
        else:
            raw.append((role, text))
        answered = answers
    return Sample(name, turns_with_images(raw, images_of(record, context)), context.place)


def write(sample: Sample, name_of: ImageNames) -> Written:
    """A sample as a ShareGPT record with `images`.

    Raises:
        DataFault: a text with a literal `<image>`, or an image in an answer.
    """
    texts = marked_texts(sample)
    if texts is None:
        raise DataFault("cannot-say", f"ShareGPT has no words for a literal {IMAGE_MARKER} or images in answers")
    record: dict[str, Any] = {"id": sample.id}
    names = [name_of(image) for image in sample.images]
    if names:
        record["images"] = names
    record["conversations"] = [
        {"from": NAMES[turn.role], "value": text} for turn, text in zip(sample.turns, texts, strict=True)
    ]
    return Written(record, native_extras(sample))


SHAREGPT = Format(
    "sharegpt",
    frozenset({"id", "system", "image", "images", "conversation", "conversations"}),
    sniff,
    read,
    write,
    frozenset({"from", "value", "role", "content"}),
)
