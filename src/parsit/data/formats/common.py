"""What the formats share: the context of a record, images by reference, turns that make sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from parsit.data.faults import DataFault
from parsit.types import FileSlice, ImageRef, Role, Sample, Turn

IMAGE_MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class Context:
    """Where a record comes from.

    `place`: for messages and as the id of a record without one. `root`: the image folder that paths start from and may
    not leave. `files`: images that travel with the record, by name (members of a tar shard).
    """

    place: str
    root: Path
    files: Mapping[str, FileSlice | bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """A sample in some format. `lost`: what the format cannot say and the sample had, in a word or two each."""

    record: dict[str, Any]
    lost: tuple[str, ...] = ()


# Gives an image the path (relative to the output's image folder) or the data URL that the record will show.
ImageNames = Callable[[ImageRef], str]


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Args:
        name: for `--format` and `--to`.
        fields: the record's fields that `read` understands; others are reported as not carried over.
        sniff: whether a record (an object) looks like this format.
        read: record to `Sample`; raises `DataFault`.
        write: `Sample` to record; raises `DataFault("cannot-say")` where the format has no words for the sample.
        turn_fields: the same as `fields` for the objects in its list of turns.
    """

    name: str
    fields: frozenset[str]
    sniff: Callable[[dict[str, Any]], bool]
    read: Callable[[dict[str, Any], Context], Sample]
    write: Callable[[Sample, ImageNames], Written]
    turn_fields: frozenset[str] = frozenset()


def sample_id(record: Mapping[str, Any], context: Context) -> str:
    """The record's id as text, its place where it has none.

    Raises:
        DataFault: an id that is neither text nor a number, or no Unicode.
    """
    value = record.get("id")
    if value is None:
        return context.place
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataFault("id-wrong-type", f"the id is {short(value)}")
    if isinstance(value, str) and not is_unicode(value):
        raise DataFault("text-not-unicode", f"the id {short(value)} holds a lone surrogate")
    return str(value)


def turn_list(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The record's conversation as a list of objects.

    Raises:
        DataFault: it is missing, no list, empty, or holds something else.
    """
    value = record.get(key)
    if value is None:
        raise DataFault("conversations-missing", f"the record has no '{key}'")
    if not isinstance(value, list):
        raise DataFault("conversations-wrong-type", f"'{key}' is {short(value)}, not a list of turns")
    if not value:
        raise DataFault("conversations-empty", f"'{key}' is empty")
    for number, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise DataFault("turn-not-an-object", f"turn {number} is {short(turn)}")
    return value


def role_of(turn: Mapping[str, Any], key: str, roles: Mapping[str, Role], number: int) -> Role:
    """Who speaks in a turn. Raises `DataFault` where that is missing or unknown."""
    value = turn.get(key)
    if value is None:
        raise DataFault("role-missing", f"turn {number} has no '{key}'")
    role = roles.get(value) if isinstance(value, str) else None
    if role is None:
        raise DataFault("role-unknown", f"turn {number} is from {short(value)}")
    return role


def text_of(turn: Mapping[str, Any], key: str, number: int) -> str:
    """A turn's text. Raises `DataFault` where it is missing or no text."""
    value = turn.get(key)
    if value is None:
        raise DataFault("text-missing", f"turn {number} has no '{key}'")
    if not isinstance(value, str):
        raise DataFault("text-wrong-type", f"'{key}' of turn {number} is {short(value)}")
    return value


def joined(parts: Iterable[str | ImageRef]) -> tuple[str | ImageRef, ...]:
    """Parts of a turn as every reader gives them: adjacent texts joined, empty ones left out."""
    made: list[str | ImageRef] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        elif part != "":
            made.append(part)
    return tuple(made)


def cut_at_markers(text: str, images: Iterator[ImageRef]) -> tuple[str | ImageRef, ...]:
    """The text with an image in the place of each marker; LLaVA's newline after a leading marker stays text."""
    first, *rest = text.split(IMAGE_MARKER)
    parts: list[str | ImageRef] = [first]
    for piece in rest:
        parts += [next(images), piece]
    return tuple(part for part in parts if part != "")


def turns_with_images(raw: Sequence[tuple[Role, str]], images: Sequence[ImageRef]) -> tuple[Turn, ...]:
    """Turns of text in which `<image>` marks the images' places; in an answer it is plain text.

    Raises:
        DataFault: more or fewer markers than images.
    """
    markers = sum(text.count(IMAGE_MARKER) for role, text in raw if role != "assistant")
    if markers != len(images):
        code = "image-markers-missing" if markers < len(images) else "image-markers-extra"
        images_in_words = f"{len(images)} images" if len(images) != 1 else "1 image"
        raise DataFault(code, f"{markers} {IMAGE_MARKER} in the text, but {images_in_words} in the record")
    remaining = iter(images)
    return tuple(
        Turn(role, cut_at_markers(text, remaining) if images and role != "assistant" else ((text,) if text else ()))
        for role, text in raw
    )


def tool_call(text: str) -> str:
    """A call of a tool as Qwen3's chat template (`tokenizer_config.json` of Qwen/Qwen3-4B) puts it into an answer."""
    return f"<tool_call>\n{text}\n</tool_call>"


# A tool's answer is part of a user's turn there, and several answers in a row are lines of one turn.
TOOL_ANSWER_OPENS, TOOL_ANSWER_CLOSES = "<tool_response>\n", "\n</tool_response>"
TOOL_ANSWER_JOINT = "\n"


def tool_answer(text: str) -> str:
    """A tool's answer, as Qwen3's chat template puts it into a user's turn."""
    return TOOL_ANSWER_OPENS + text + TOOL_ANSWER_CLOSES


def marked_texts(sample: Sample) -> list[str] | None:
    """The turns' texts with `<image>` where an image stands: what `turns_with_images` reads back.

    None where that would be read back as something else: images in an answer, or a literal `<image>`.
    """
    texts: list[str] = []
    has_literals, in_answers = False, False
    for turn in sample.turns:
        words: list[str] = []
        for part in turn.parts:
            if isinstance(part, str):
                words.append(part)
                has_literals = has_literals or (IMAGE_MARKER in part and turn.role != "assistant")
            else:
                words.append(IMAGE_MARKER)
                in_answers = in_answers or turn.role == "assistant"
        texts.append("".join(words))
    return None if in_answers or has_literals else texts


def check_turns(sample: Sample) -> None:
    """That the conversation can be learnt from: system first, user and assistant in turn, text in an answer.

    Raises:
        DataFault: the first rule that is broken.
    """
    roles = [turn.role for turn in sample.turns]
    if not roles:
        raise DataFault("conversations-empty", "the conversation has no turns")
    supervised = False
    for number, turn in enumerate(sample.turns):
        if turn.role == "system" and number:
            raise DataFault("system-not-first", f"turn {number} is a system turn")
        text = turn.text
        if text.strip():
            supervised = supervised or turn.role == "assistant"
        elif not turn.images:
            raise DataFault("turn-empty", f"turn {number} ({turn.role}) is empty")
        if not is_unicode(text):
            raise DataFault("text-not-unicode", f"turn {number} holds a lone surrogate")
    spoken = roles[1:] if roles[0] == "system" else roles
    if not spoken or spoken[0] != "user":
        found = spoken[0] if spoken else "system"
        raise DataFault("first-turn-not-user", f"the conversation begins with a turn of the {found}")
    for number, (role, following) in enumerate(pairwise(spoken), len(roles) - len(spoken)):
        if role == following:
            raise DataFault("turns-not-alternating", f"turns {number} and {number + 1} are both the {role}'s")
    if not supervised:
        raise DataFault("nothing-supervised", "no assistant's turn has text")


def is_unicode(text: str) -> bool:
    """Whether the text is free of lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def short(value: Any, limit: int = 60) -> str:
    """A value as an error message shows it."""
    if isinstance(value, (dict, list, bytes)):
        return f"{type(value).__name__} of {len(value)} items" if value else f"an empty {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
