"""From records to results: each file's readings in the order of the pile, in the form that is asked for.

SET/md/NAME.md …           a file for each: Markdown, text or JSON
SET/results/output_00000.jsonl    documents in Dolma's form, as olmOCR writes them
SET/parquet/part-00000.parquet    a row for each page

Results are made from the records alone, so that another form costs no second reading. What a run wrote replaces what
an earlier one of the same set wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parsit.files import WholeFile, write_whole
from parsit.scale.drawing import pages_of
from parsit.scale.inputs import Source
from parsit.scale.parquet import write_parquet
from parsit.scale.reading import Reading
from parsit.scale.store import Record, Store, json_line
from parsit.scale.tables import Style, tables_in, to_html, with_tables
from parsit.types import Document, Page

FORMATS = ("md", "txt", "json", "jsonl", "parquet")
DOCUMENTS_A_FILE = 1000  # of JSONL
_LONGEST_NAME = 200  # bytes of a file's name; systems take 255


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be read: a file, or one page of it."""

    name: str
    page: int
    reason: str


@dataclass(frozen=True, slots=True)
class FileResult:
    """A file with the records of its pages. `error` says why it could not be opened; then there are none."""

    name: str
    digest: str
    page_count: int
    records: tuple[Record, ...]
    error: str = ""

    def failures(self) -> Iterator[Failure]:
        """What failed of it."""
        if self.error:
            yield Failure(self.name, 0, self.error)
        for record in self.records:
            if record["error"]:
                yield Failure(self.name, record["page"], record["error"])


def file_results(
    sources: Sequence[Source], reading: Reading, store: Store, selection: str | None
) -> Iterator[FileResult]:
    """What the store holds of each file, in their order.

    Raises:
        InputError: the store cannot be read.
    """
    for source in sources:
        digest = reading.digests.get(source.name, "")
        known = store.known(digest) if digest else None
        if source.name in reading.unread or known is None:
            yield FileResult(source.name, digest, 0, (), reading.unread.get(source.name, "was not read"))
            continue
        numbers = pages_of(selection, known.page_count)
        if known.failed_whole(numbers):
            record = store.record(digest, 0) or {"error": ""}
            yield FileResult(source.name, digest, 0, (), record["error"])
        else:
            found = [store.record(digest, number) for number in numbers]
            records = tuple(record for record in found if record)
            yield FileResult(source.name, digest, known.page_count, records)


def publish(results: Iterable[FileResult], store: Store, form: str, tables: Style = "as-read") -> Iterator[FileResult]:
    """Write results as they come and hand them on; all is in its place when the last one was taken.

    Args:
        results: of files.
        store: where they are from; results are written beside its records.
        form: one of `FORMATS`.
        tables: how tables are written.

    Raises:
        ParsitError: a result cannot be written.
    """
    writers: dict[str, Callable[..., Iterator[FileResult]]] = {"jsonl": _write_dolma, "parquet": write_parquet}
    return writers.get(form, _write_files)(_with_tables(results, tables), store, form)


def _with_tables(results: Iterable[FileResult], tables: Style) -> Iterator[FileResult]:
    for result in results:
        records = tuple({**record, "text": with_tables(record["text"], tables)} for record in result.records)
        yield FileResult(result.name, result.digest, result.page_count, records, result.error)


def _write_files(results: Iterable[FileResult], store: Store, form: str) -> Iterator[FileResult]:
    write = {"md": Document.to_markdown, "txt": Document.to_text}
    for result in results:
        path = store.folder / form / result_path(result.name, form)
        if form == "json":
            write_whole(path, json_line(_as_json(result, store)))
        elif not result.error:
            write_whole(path, write[form](_document(result)))
        yield result


def result_path(name: str, form: str) -> Path:
    """Where the result of a file goes below its format's folder: its name as it was typed, and the ending.

    An absolute name, or one that goes upwards, is written from the root on.
    """
    typed = Path(name.replace("::", "/"))
    path = Path(*Path(typed.absolute()).resolve().parts[1:]) if typed.is_absolute() or ".." in typed.parts else typed
    *folders, last = path.parts
    return Path(*map(_short, folders), f"{_short(last)}.{form}")


def _short(name: str) -> str:
    """A name that a file system takes; of a longer one the beginning, and a hash."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= _LONGEST_NAME:
        return name
    return f"{raw[: _LONGEST_NAME - 20].decode('utf-8', 'ignore')}-{hashlib.sha256(raw).hexdigest()[:16]}"


def _document(result: FileResult) -> Document:
    pages = [
        Page(record["page"], record["text"], record["width"], record["height"], tuple(record["flags"]))
        for record in result.records
    ]
    return Document(result.name, tuple(pages))


def _as_json(result: FileResult, store: Store) -> dict[str, Any]:
    """A file's result: `{"source", "digest", "model_digest", "set", "page_count", "error", "pages"}`.

    A page is its record, with `tables` as HTML where there are some.
    """
    pages = []
    for record in result.records:
        page = {name: value for name, value in record.items() if name not in ("source", "digest", "page_count")}
        tables = [to_html(table) for table in tables_in(record["text"])]
        pages.append(page | ({"tables": tables} if tables else {}))
    known = {"source": result.name, "digest": result.digest, "page_count": result.page_count, "error": result.error}
    reading_set = store.reading_set
    return known | {"model_digest": reading_set.model_digest, "set": reading_set.id, "pages": pages}


def _write_dolma(results: Iterable[FileResult], store: Store, form: str) -> Iterator[FileResult]:
    folder = store.folder / "results"
    number = 0
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    batch: list[bytes] = []

    def write() -> None:
        nonlocal number
        with WholeFile(folder / f"output_{number:05}.{form}") as draft:
            draft.file.writelines(batch)
            draft.keep()
        number += 1
        batch.clear()

    for result in results:
        batch.append(json_line(dolma_document(result, day)))
        if len(batch) == DOCUMENTS_A_FILE:
            write()
        yield result
    if batch:
        write()
    _remove_from(folder, "output_*.jsonl", number)


def _remove_from(folder: Path, pattern: str, count: int) -> None:
    """Remove the files of an earlier, larger pile: those from a number on."""
    for path in sorted(folder.glob(pattern))[count:]:
        path.unlink()


def dolma_document(result: FileResult, day: str) -> dict[str, Any]:
    """A file as a document of Dolma, with olmOCR's attributes.

    The form is that of `build_dolma_document` in allenai/olmocr, olmocr/pipeline.py: pages are joined by newlines,
    `pdf_page_numbers` are [start, end, page] in characters, the other attributes have an entry for each page. What
    Parsit does not know is null (`primary_language`, `is_diagram`). Unlike there a file without text is a document
    as well; `metadata` says what failed.
    """
    text, spans = "", []
    for place, record in enumerate(result.records):
        start = len(text)
        text += record["text"] + ("\n" if place < len(result.records) - 1 else "")
        spans.append([start, len(text), record["page"]])
    records = result.records
    metadata: dict[str, Any] = {
        "Source-File": result.name,
        "parsit-version": version("parsit"),
        "pdf-total-pages": result.page_count,
        "total-input-tokens": sum(record["num_prompt_tokens"] for record in records),
        "total-output-tokens": sum(record["num_tokens"] for record in records),
        "total-fallback-pages": sum(bool(record["error"]) for record in records),
        "digest": result.digest,
    }
    errors = {str(failure.page): failure.reason for failure in result.failures()}
    attributes = {
        "pdf_page_numbers": spans,
        "primary_language": [None for _ in records],
        "is_rotation_valid": ["upside_down" not in record["flags"] for record in records],
        "rotation_correction": [record["rotation"] for record in records],
        "is_table": [bool(tables_in(record["text"])) for record in records],
        "is_diagram": [None for _ in records],
    }
    return {
        "id": hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "text": text,
        "source": "parsit",
        "added": day,
        "created": day,
        "metadata": metadata | ({"errors": errors} if errors else {}),
        "attributes": attributes,
    }
