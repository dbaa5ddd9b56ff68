"""Hugging Face's layout for vision-language training: `messages` with `images` beside them.

    {"id": "7", "images": [{"bytes": …, "path": "a.png"}],
     "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read."}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]}

A part `{"type": "image"}` stands for the next of `images`, unless it carries its own (`image`, `url`, `path` or
`base64`, as transformers' chat templates take it). Where no part stands for an image, `<image>` in the texts of system
and user marks the places, as in LLaMA-Factory's and ms-swift's files. Layout: TRL's page on dataset formats, "vision
dataset". TRL itself puts images that nothing stands for before the first text; here they are a fault, since where an
image stands is the data's to say. `{"images": […], "texts": [{"user": …, "assistant": …}]}`, the layout of the_cauldron
and Docmatix, which has no words for places, is read with all images before the first question, as Idefics 3 does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parsit.data.faults import DataFault
from parsit.data.formats.common import (
    Context,
    Format,
    ImageNames,
    Written,
    joined,
    sample_id,
    text_of,
    turn_list,
    turns_with_images,
)
from parsit.data.formats.images import image_ref, images_of, native_extras
from parsit.data.formats.openai import TEXT_PARTS, TURN_FIELDS, is_huggingface, parts_of, read_messages
from parsit.types import ImageRef, Sample, Turn


def sniff(record: dict[str, Any]) -> bool:
    """`messages` with `images` or parts of type `image`; `texts` without `messages`."""
    return is_huggingface(record) or (isinstance(record.get("texts"), list) and record.get("messages") is None)


def read(record: dict[str, Any], context: Context) -> Sample:
    """A record of messages, or of questions and answers, and images. Raises `DataFault`."""
    if record.get("messages") is None:
        return Sample(sample_id(record, context), _questions(record, context), context.place)
    messages = turn_list(record, "messages")
    images = images_of(record, context)
    remaining = iter(images)
    turns = read_messages(messages, context, lambda part, number: _image_of(part, number, context, remaining))
    if not _has_placeholders(messages):  # without images too: a marker is then one too many
        turns = turns_with_images([(turn.role, turn.text) for turn in turns], images)
    elif (left := sum(1 for _ in remaining)) > 0:
        raise DataFault("image-markers-missing", f"{left} of {len(images)} images have no part that stands for them")
    return Sample(sample_id(record, context), turns, context.place)


def _questions(record: dict[str, Any], context: Context) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for number, pair in enumerate(turn_list(record, "texts")):
        question, answer = text_of(pair, "user", number), text_of(pair, "assistant", number)
        images = images_of(record, context) if not turns else []
        turns += [Turn("user", joined([*images, question])), Turn("assistant", joined([answer]))]
    return tuple(turns)


def _has_placeholders(messages: list[dict[str, Any]]) -> bool:
    return any(part.get("type") not in TEXT_PARTS for message in messages for part in parts_of(message.get("content")))


def _image_of(part: dict[str, Any], number: int, context: Context, remaining: Iterator[ImageRef]) -> ImageRef:
    if part.get("type") != "image":
        raise DataFault("content-part-unknown", f"turn {number} has a part of type {part.get('type')!r}")
    for key in ("image", "url", "path"):
        if part.get(key) is not None:
            return image_ref(part[key], context)
    if part.get("base64") is not None:
        return image_ref(f"data:image;base64,{part['base64']}", context)
    image = next(remaining, None)
    if image is None:
        raise DataFault("image-markers-extra", f"turn {number} has more parts of type 'image' than the record images")
    return image


def write(sample: Sample, name_of: ImageNames) -> Written:
    """A sample as `messages`, each turn a list of parts, and `images`; only glyphs are lost."""
    record: dict[str, Any] = {"id": sample.id}
    names = [name_of(image) for image in sample.images]
    if names:
        record["images"] = names
    record["messages"] = [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in turn.parts
            ],
        }
        for turn in sample.turns
    ]
    return Written(record, native_extras(sample))


HUGGINGFACE = Format(
    "huggingface",
    frozenset({"id", "messages", "images", "image", "texts"}),
    sniff,
    read,
    write,
    TURN_FIELDS | {"user", "assistant"},
)
