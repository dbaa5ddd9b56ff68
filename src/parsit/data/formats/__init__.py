"""Formats: what a record means. One module per format, each with the functions that its `Format` names.

Detection goes record by record, in the order of `FORMATS`: the first whose `sniff` says yes reads the record. The
native format comes first, so that what is native already stays as it is. Whatever else has `conversations` (or
`conversation`) is ShareGPT's: its reader names what is wrong. Of the two formats with `messages`, a record is the
`huggingface` format's if it has `images` (or `image`) or a part of type `image`, and `openai`'s otherwise; of these
two at most one says yes. A text without images means the same in both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parsit.data.containers import RecordWithFiles
from parsit.data.faults import DataFault
from parsit.data.formats import huggingface, native, openai, sharegpt
from parsit.data.formats.common import Context, Format, ImageNames, Written, check_turns
from parsit.data.formats.images import looks_like_image, named_like_image
from parsit.types import Sample

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (native.PARSIT, native.LLAVA, sharegpt.SHAREGPT, huggingface.HUGGINGFACE, openai.OPENAI)
}

_TURN_LISTS = ("conversations", "conversation", "messages", "texts")

__all__ = [
    "FORMATS",
    "Context",
    "Format",
    "ImageNames",
    "Written",
    "detect",
    "format_named",
    "not_carried",
    "read_record",
    "recognise",
]


def format_named(name: str) -> Format | None:
    """The format of that name; None for `auto`.

    Raises:
        DataFault: there is none.
    """
    if name == "auto":
        return None
    if name not in FORMATS:
        raise DataFault("format-unknown", f"there is no format {name!r}; there are auto, {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(record: Any) -> Format:
    """The format of one record.

    Raises:
        DataFault: `record-not-an-object`, `format-unknown` or what is missing.
    """
    if not isinstance(record, dict):
        raise DataFault("record-not-an-object", f"a record must be an object, not {type(record).__name__}")
    for format in FORMATS.values():
        if format.sniff(record):
            return format
    fields = ", ".join(sorted(map(str, record))[:8]) or "no field at all"
    if all(record.get(key) is None for key in _TURN_LISTS):
        raise DataFault("conversations-missing", f"the record has neither 'conversations' nor 'messages', but {fields}")
    raise DataFault("format-unknown", f"the record fits no known format: it has {fields}")


def read_record(record: Any, context: Context, format: Format | None = None) -> Sample:
    """One record as a `Sample`, its turns checked.

    Args:
        record: the decoded value; a `RecordWithFiles` brings its files into the context.
        context: its place, and where its images are.
        format: its format; None: detect it.

    Raises:
        DataFault: what is wrong, with its place.
    """
    return recognise(record, context, format)[1]


def recognise(record: Any, context: Context, format: Format | None = None) -> tuple[Format, Sample, list[str]]:
    """One record's format, its `Sample`, and the fields that the sample lacks (`not_carried`).

    Arguments and errors as `read_record`.
    """
    if isinstance(record, RecordWithFiles):
        context = replace(context, files=record.files)
    try:
        if format is None or not isinstance(record, dict):
            format = detect(record)
        elif not format.sniff(record):
            raise DataFault("format-mismatch", f"the record is not in the {format.name} format")
        sample = format.read(record, context)
        check_turns(sample)
        unread = not_carried(record, format)
        if unread and not sample.images:
            _refuse_lost_image(record, unread)
    except DataFault as fault:
        if fault.code == "image-markers-extra" and format is not None:
            fault = _with_guess(fault, record, not_carried(record, format))
        raise fault.at(context.place) from None
    return format, sample, unread


def _refuse_lost_image(record: dict[str, Any], unread: list[str]) -> None:
    """Refuse a record without images that has one in a field which nothing reads: the model would be trained blind.

    Raises:
        DataFault: `image-field-unknown`.
    """
    lost = [repr(name[:60]) for name in _like_images(record, unread) if named_like_image(name)]
    if lost:
        raise DataFault("image-field-unknown", f"the record has no image, but {', '.join(lost)} looks like one")


def _with_guess(fault: DataFault, record: dict[str, Any], unread: list[str]) -> DataFault:
    """The fault of a marker without an image, with the fields that may hold the image."""
    guess = ", ".join(repr(name[:60]) for name in _like_images(record, unread))
    return DataFault(fault.code, f"{fault.detail}; {guess} may hold it, and is not read") if guess else fault


def _like_images(record: dict[str, Any], unread: list[str]) -> list[str]:
    """Those of the fields that nothing reads, of the record or of its turns, that look like images."""
    found = []
    for name in sorted(unread):
        key, _, field = name.partition("[].")
        turns = record.get(key) if field else None
        values = [turn.get(field) for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        if looks_like_image(values if field else record.get(name)):
            found.append(name)
    return found


def not_carried(record: dict[str, Any], format: Format) -> list[str]:
    """The fields of a record, and of its turns, that its format's reader does not take over; those that are null aside.

    Fields of turns come as `conversations[].weight`, members of a tar file beside record and images as `.cls`.
    """
    names: list[str] = []
    if not record.keys() <= format.fields:
        names += [str(name) for name in record.keys() - format.fields if record[name] is not None]
    for key in _TURN_LISTS:
        turns = record.get(key)
        if not isinstance(turns, list):
            continue
        unknown = {
            name
            for turn in turns
            if isinstance(turn, dict) and not turn.keys() <= format.turn_fields
            for name in turn.keys() - format.turn_fields
            if turn[name] is not None
        }
        names += [f"{key}[].{name}" for name in unknown]
    if isinstance(record, RecordWithFiles):
        names += record.others
    return names
