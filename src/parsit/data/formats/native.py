r"""Parsit's native format, which is LLaVA's with three additions.

    {"id": "7", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nRead."},
                                                    {"from": "gpt", "value": "Hello"}]}

`image` is a path or a list of paths, relative to the image folder. `<image>` in a human turn marks where an image
goes; in a gpt turn it is plain text. The additions: `glyphs` holds one list of `[text, x0, y0, x1, y1]` for each
image; `answers` lists all accepted answers of the last turn, whose own text is the one that is taught; and a `value`
may be a list of texts and nulls, a null for each image, where a text with a literal `<image>`, or an image in an
answer, could not be written otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from parsit.data.faults import DataFault
from parsit.data.formats.common import (
    IMAGE_MARKER,
    Context,
    Format,
    ImageNames,
    Written,
    is_unicode,
    joined,
    marked_texts,
    role_of,
    sample_id,
    short,
    text_of,
    turn_list,
    turns_with_images,
)
from parsit.data.formats.images import glyph_lists, image_list, image_ref, native_extras
from parsit.types import ImageRef, Role, Sample, Turn

ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
Value = str | list[str | None]
NAMES: dict[Role, str] = {role: name for name, role in ROLES.items()}
_SPEAKERS = tuple(ROLES)  # unlike a dictionary's keys, a tuple can be asked about what has no hash


def sniff(record: dict[str, Any]) -> bool:
    """`conversations` of turns from human, gpt and system, and images in `image`."""
    turns = record.get("conversations")
    return (
        isinstance(turns, list)
        and record.get("images") is None
        and record.get("system") is None
        and all(isinstance(turn, dict) and turn.get("from") in _SPEAKERS and "value" in turn for turn in turns)
    )


def read(record: dict[str, Any], context: Context) -> Sample:
    """A native record. Raises `DataFault`."""
    turns = turn_list(record, "conversations")
    name = sample_id(record, context)
    values = image_list(record.get("image"))
    images = [
        image_ref(value, context, glyphs)
        for value, glyphs in zip(values, glyph_lists(record, len(values)), strict=True)
    ]
    if any(isinstance(turn.get("value"), list) for turn in turns):
        remaining = iter(images)
        made = tuple(_turn_of_list(turn, number, remaining) for number, turn in enumerate(turns))
        if next(remaining, None) is not None:
            raise DataFault("image-markers-missing", f"fewer nulls in the turns than the {len(images)} images")
    else:
        raw: list[tuple[Role, str]] = [
            (role_of(turn, "from", ROLES, n), text_of(turn, "value", n)) for n, turn in enumerate(turns)
        ]
        made = turns_with_images(raw, images)
    return Sample(name, made, context.place, _other_answers(record, made))


def _other_answers(record: dict[str, Any], turns: Sequence[Turn]) -> tuple[str, ...]:
    """The accepted answers that are not the last turn's text."""
    answers = record.get("answers")
    if answers is None:
        return ()
    if not isinstance(answers, list) or not all(isinstance(answer, str) and is_unicode(answer) for answer in answers):
        raise DataFault("answers-wrong-type", f"'answers' is {short(answers)}")
    taught = turns[-1].text if turns else ""
    return tuple(answer for answer in dict.fromkeys(answers) if answer != taught)


def _turn_of_list(turn: dict[str, Any], number: int, images: Iterator[ImageRef]) -> Turn:
    """A turn whose value is a list of texts and nulls; a plain text beside such turns holds no image."""
    role = role_of(turn, "from", ROLES, number)
    value = turn.get("value")
    if not isinstance(value, list):
        text = text_of(turn, "value", number)
        return Turn(role, (text,) if text else ())
    parts: list[str | ImageRef] = []
    for part in value:
        if part is None:
            image = next(images, None)
            if image is None:
                raise DataFault("image-markers-extra", f"turn {number} has more nulls than the record has images")
            parts.append(image)
        elif isinstance(part, str):
            parts.append(part)
        else:
            raise DataFault("content-part-unknown", f"turn {number} holds a {type(part).__name__}")
    return Turn(role, joined(parts))


def write(sample: Sample, name_of: ImageNames) -> Written:
    """A sample as a native record; nothing is lost."""
    texts = marked_texts(sample)
    values: Sequence[Value] = texts if texts is not None else [_listed(turn) for turn in sample.turns]
    return Written(_record(sample, values, name_of, with_extras=True))


def write_llava(sample: Sample, name_of: ImageNames) -> Written:
    """A sample as LLaVA writes it.

    Raises:
        DataFault: a text with a literal `<image>`, or an image in an answer.
    """
    texts = marked_texts(sample)
    if texts is None:
        raise DataFault("cannot-say", f"LLaVA's format has no words for a literal {IMAGE_MARKER} or images in answers")
    return Written(_record(sample, texts, name_of, with_extras=False), native_extras(sample))


def _record(sample: Sample, values: Sequence[Value], name_of: ImageNames, with_extras: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"id": sample.id}
    images = sample.images
    names = [name_of(image) for image in images]
    if names:
        record["image"] = names[0] if len(names) == 1 else names
    record["conversations"] = [
        {"from": NAMES[turn.role], "value": value} for turn, value in zip(sample.turns, values, strict=True)
    ]
    if with_extras and any(image.glyphs for image in images):
        record["glyphs"] = [[[g.text, g.x0, g.y0, g.x1, g.y1] for g in image.glyphs] for image in images]
    if with_extras and sample.other_answers:
        record["answers"] = [sample.turns[-1].text, *sample.other_answers]
    return record


def _listed(turn: Turn) -> list[str | None]:
    return [part if isinstance(part, str) else None for part in turn.parts]


_FIELDS = frozenset({"id", "image", "conversations", "glyphs", "answers"})
_TURN_FIELDS = frozenset({"from", "value"})
PARSIT = Format("parsit", _FIELDS, sniff, read, write, _TURN_FIELDS)
LLAVA = Format("llava", _FIELDS, sniff, read, write_llava, _TURN_FIELDS)
