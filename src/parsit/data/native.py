r"""Parsit's native format, which is LLaVA's: JSON or JSONL records to `Sample`s.

    {"id": "7", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nRead."},
                                                    {"from": "gpt", "value": "Hello"}]}

`image` is a path or a list of paths, relative to the image folder. `<image>` in a human turn marks
where an image goes; in a record without images, and in a gpt turn, it is plain text. `glyphs`, if
there, holds one list of `[text, x0, y0, x1, y1]` for each image. A record that breaks a rule is an
error that names file and line; nothing is repaired silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parsit.types import GlyphBox, ImageRef, InputError, Role, Sample, Turn

IMAGE_MARKER = "<image>"
ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}


def read_files(paths: Sequence[str | Path], image_folder: str | Path | None = None) -> list[Sample]:
    """All samples of some files, in order.

    Args:
        paths: JSON (a list of records) or JSONL files.
        image_folder: where the records' image paths start; None: each file's own folder.

    Raises:
        InputError: a file or a record that cannot be used, with its line.
    """
    samples = [sample for path in paths for sample in read_file(Path(path), image_folder)]
    if not samples:
        raise InputError(f"no samples in {', '.join(str(path) for path in paths)}: nothing to work on")
    return samples


def read_file(path: Path, image_folder: str | Path | None = None) -> Iterator[Sample]:
    """One file's samples. Raises as `read_files`."""
    if not path.is_file():
        raise InputError(f"{path}: no such data file")
    root = Path(image_folder) if image_folder is not None else path.parent
    if not root.is_dir():
        raise InputError(f"{root}: no such image folder")
    for place, record in _records(path):
        yield parse_record(record, root, place)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, record) of each record; the place is file:line for JSONL, file[index] for JSON."""
    if path.suffix == ".json":
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not valid JSON: {error}") from error
        if not isinstance(records, list):
            raise InputError(f"{path}: a JSON file must hold a list of records")
        yield from ((f"{path}[{index}]", record) for index, record in enumerate(records))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise InputError(f"{path}:{number}: not valid JSON: {error}") from error


def parse_record(record: Any, root: Path, place: str) -> Sample:
    """One record as a `Sample`.

    Args:
        record: the decoded JSON.
        root: the image folder, which no path may leave.
        place: file and line, for errors.

    Raises:
        InputError: what is wrong, where.
    """
    if not isinstance(record, dict):
        raise InputError(f"{place}: a record must be an object, not {type(record).__name__}")
    conversations = record.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise InputError(f"{place}: 'conversations' must be a list with at least one turn")
    images = _images(record, root, place)
    raw_turns = [_raw_turn(turn, place, number) for number, turn in enumerate(conversations)]
    markers = sum(text.count(IMAGE_MARKER) for role, text in raw_turns if role != "assistant")
    if images and markers != len(images):
        raise InputError(f"{place}: {markers} {IMAGE_MARKER} in the text, but {len(images)} images in the record")
    remaining = iter(images)
    turns = tuple(Turn(role, _parts(role, text, remaining if images else None)) for role, text in raw_turns)
    if not any(turn.role == "assistant" and turn.text for turn in turns):
        raise InputError(f"{place}: no gpt turn with text, so that nothing could be learnt from it")
    return Sample(id=str(record.get("id", place)), turns=turns, place=place)


def _raw_turn(turn: Any, place: str, number: int) -> tuple[Role, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise InputError(f"{place}: turn {number} must be an object with 'from' and a text 'value'")
    role = ROLES.get(str(turn.get("from")))
    if role is None:
        raise InputError(f"{place}: turn {number} is from {turn.get('from')!r}: use human, gpt or system")
    return role, turn["value"]


def _parts(role: Role, text: str, images: Iterator[ImageRef] | None) -> tuple[str | ImageRef, ...]:
    """The text cut at its image markers, which become images; LLaVA's newline after a leading marker stays text."""
    if images is None or role == "assistant":
        return (text,)
    first, *rest = text.split(IMAGE_MARKER)
    parts: list[str | ImageRef] = [first]
    for piece in rest:
        parts += [next(images), piece]
    return tuple(part for part in parts if part != "")


def _images(record: dict[str, Any], root: Path, place: str) -> list[ImageRef]:
    value = record.get("image")
    paths = [] if value is None else value if isinstance(value, list) else [value]
    glyphs = record.get("glyphs") or [[] for _ in paths]
    if len(glyphs) != len(paths):
        raise InputError(f"{place}: {len(glyphs)} lists in 'glyphs', but {len(paths)} images")
    return [
        ImageRef(_inside(root, path, place), _glyphs(boxes, place)) for path, boxes in zip(paths, glyphs, strict=True)
    ]


def _inside(root: Path, path: Any, place: str) -> Path:
    """The image's path, which must stay in the image folder (whoever wrote the data set is not trusted)."""
    if not isinstance(path, str) or not path:
        raise InputError(f"{place}: an image must be a path, not {path!r}")
    parts = Path(path).parts
    if Path(path).is_absolute() or ".." in parts:
        raise InputError(f"{place}: image {path!r} leaves the image folder; give a path inside it")
    return root / path


def _glyphs(boxes: Any, place: str) -> tuple[GlyphBox, ...]:
    try:
        return tuple(GlyphBox(str(t), float(x0), float(y0), float(x1), float(y1)) for t, x0, y0, x1, y1 in boxes)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}: 'glyphs' must hold lists of [text, x0, y0, x1, y1]") from error
