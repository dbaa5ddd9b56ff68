"""OpenAI's chat messages, with images as data URLs or relative paths.

    {"id": "7", "messages": [{"role": "user", "content": [{"type": "text", "text": "Read."},
                                                          {"type": "image_url", "image_url": {"url": "a.png"}}]},
                             {"role": "assistant", "content": "Hello"}]}

Texts and images keep their order. The parts of the newer Responses API (`input_text`, `input_image`) are read too.
Tools become what Qwen3's chat template would write; `tools`, `name` and `tool_call_id` have no place in a sample.
Layout: the Chat Completions reference at platform.openai.com. `messages` with images beside them are the
`huggingface` format's, which shares the reader of messages here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from parsit.data.faults import DataFault
from parsit.data.formats.common import (
    IMAGE_MARKER,
    TOOL_ANSWER_CLOSES,
    TOOL_ANSWER_JOINT,
    TOOL_ANSWER_OPENS,
    Context,
    Format,
    ImageNames,
    Written,
    joined,
    role_of,
    sample_id,
    text_of,
    tool_call,
    turn_list,
)
from parsit.data.formats.images import image_ref, native_extras
from parsit.types import ImageRef, Role, Sample, Turn

_TOOLS = ("tool", "function")
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    **dict.fromkeys(("user", *_TOOLS), "user"),
}
TURN_FIELDS = frozenset({"role", "content", "tool_calls"})
TEXT_PARTS = ("text", "input_text", "output_text")
_URL_PARTS = ("image_url", "input_image")


def parts_of(content: Any) -> list[Any]:
    """A message's parts; none where its content is plain text."""
    return content if isinstance(content, list) else []


def sniff(record: dict[str, Any]) -> bool:
    """`messages` without images beside them and without `{"type": "image"}`, which are the `huggingface` format's."""
    messages = record.get("messages")
    return messages is not None and not is_huggingface(record)


def is_huggingface(record: dict[str, Any]) -> bool:
    """`messages` with `images` (or `image`), or with parts of type `image`."""
    messages = record.get("messages")
    if not isinstance(messages, list):
        return False
    if record.get("images") is not None or record.get("image") is not None:
        return True
    for message in messages:
        if isinstance(message, dict):
            for part in parts_of(message.get("content")):
                if isinstance(part, dict) and part.get("type") == "image":
                    return True
    return False


def read(record: dict[str, Any], context: Context) -> Sample:
    """A record of chat messages. Raises `DataFault`."""

    def no_placeholder(part: dict[str, Any], number: int) -> ImageRef:
        raise DataFault("content-part-unknown", f"turn {number} has a part of type {part.get('type')!r}")

    messages = turn_list(record, "messages")
    turns = read_messages(messages, context, no_placeholder)
    if not any(turn.images for turn in turns):
        refuse_lone_markers(messages)
    return Sample(sample_id(record, context), turns, context.place)


def refuse_lone_markers(messages: Sequence[dict[str, Any]]) -> None:
    """Refuse `<image>` in the plain text of a question where the record has no image: it was lost on the way.

    In a part of type text it is a literal.

    Raises:
        DataFault: `image-markers-extra`.
    """
    questions = (message.get("content") for message in messages if ROLES.get(message["role"]) != "assistant")
    markers = sum(text.count(IMAGE_MARKER) for text in questions if isinstance(text, str))
    if markers:
        raise DataFault("image-markers-extra", f"{markers} {IMAGE_MARKER} in the text, but no image in the record")


def read_messages(
    messages: Sequence[dict[str, Any]],
    context: Context,
    other_part: Callable[[dict[str, Any], int], ImageRef],
) -> tuple[Turn, ...]:
    """Messages as turns.

    Args:
        messages: objects with `role` and `content`.
        context: where they come from.
        other_part: called with a part that is neither text nor `image_url`, and the message's number.

    Raises:
        DataFault: what is wrong with the first bad message.
    """
    turns: list[Turn] = []
    answered = False
    for number, message in enumerate(messages):
        role = role_of(message, "role", ROLES, number)
        parts = _read_content(message, number, context, other_part)
        answers = message["role"] in _TOOLS
        if answers:
            parts = [TOOL_ANSWER_OPENS, *parts, TOOL_ANSWER_CLOSES]
        if answers and answered:
            turns[-1] = Turn(role, joined([*turns[-1].parts, TOOL_ANSWER_JOINT, *parts]))
        else:
            turns.append(Turn(role, joined(parts)))
        answered = answers
    return tuple(turns)


def _read_content(
    message: dict[str, Any], number: int, context: Context, other_part: Callable[[dict[str, Any], int], ImageRef]
) -> list[str | ImageRef]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise DataFault("content-part-unknown", f"'tool_calls' of turn {number} is no list")
    content = message.get("content")
    parts: list[str | ImageRef]
    if isinstance(content, list):
        parts = [_read_part(part, number, context, other_part) for part in content]
    else:
        parts = [] if content is None and calls else [text_of(message, "content", number)]
    # As in Qwen3's template, a line for what is said before the first call.
    lines = "\n".join(_call(call, number) for call in calls)
    return [*parts, "\n" + lines if any(parts) else lines] if calls else parts


def _read_part(
    part: Any, number: int, context: Context, other_part: Callable[[dict[str, Any], int], ImageRef]
) -> str | ImageRef:
    if not isinstance(part, dict):
        raise DataFault("content-part-unknown", f"turn {number} holds a {type(part).__name__} for a part")
    kind = part.get("type")
    if kind in TEXT_PARTS:
        return text_of(part, "text", number)
    if kind in _URL_PARTS:
        url = part.get("image_url")
        return image_ref(url.get("url") if isinstance(url, dict) else url, context)
    return other_part(part, number)


def _call(call: Any, number: int) -> str:
    """One entry of `tool_calls`; its arguments are JSON in a string already, or an object."""
    function = call.get("function") or call if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataFault("content-part-unknown", f"turn {number} has a tool call without a function's name")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    name = json.dumps(function["name"], ensure_ascii=False)
    return tool_call(f'{{"name": {name}, "arguments": {arguments}}}')


def write(sample: Sample, name_of: ImageNames) -> Written:
    """A sample as chat messages: a text where a turn is only text, else parts.

    Raises:
        DataFault: an image in a turn that is not the user's, where OpenAI allows none.
    """
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(sample.turns):
        images = turn.images
        if images and turn.role != "user":
            raise DataFault("cannot-say", f"turn {number}: OpenAI's messages hold images in the user's turns only")
        # In plain text <image> would mark a place.
        in_parts = images or (IMAGE_MARKER in turn.text and turn.role != "assistant")
        content = [_part(part, name_of) for part in turn.parts] if in_parts else turn.text
        messages.append({"role": turn.role, "content": content})
    return Written({"id": sample.id, "messages": messages}, native_extras(sample))


def _part(part: str | ImageRef, name_of: ImageNames) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": name_of(part)}}


OPENAI = Format("openai", frozenset({"id", "messages"}), sniff, read, write, TURN_FIELDS)
