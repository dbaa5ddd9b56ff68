"""Parquet of a pile: a row for each page, and one for each file that cannot be opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from parsit.data.containers.arrow import pyarrow_package
from parsit.files import WholeFile
from parsit.scale.store import Record, Store

if TYPE_CHECKING:
    from parsit.scale.publish import FileResult

ROWS_A_FILE = 50_000
GROUP_ROWS = 1000  # are in memory at a time


def write_parquet(results: Iterable[FileResult], store: Store, form: str) -> Iterator[FileResult]:
    """Write `parquet/part-00000.parquet` and so on, and hand the results on.

    Raises:
        InputError: pyarrow is not installed.
        ParsitError: it cannot be written.
    """
    arrow = pyarrow_package()
    schema = _schema(arrow)
    folder = store.folder / form
    results = iter(results)
    number, is_more = 0, True
    while is_more:
        is_more = False
        with WholeFile(folder / f"part-{number:05}.parquet") as draft:
            # By its path: a writer that is given up closes its file later than `draft` does.
            with arrow.parquet.ParquetWriter(draft.beside, schema) as writer:
                rows: list[dict[str, Any]] = []
                written = 0
                for result in results:
                    rows += _rows(result, store)
                    if len(rows) >= GROUP_ROWS:
                        written += len(rows)
                        writer.write_table(arrow.Table.from_pylist(rows, schema))
                        rows = []
                    yield result
                    if written >= ROWS_A_FILE:
                        is_more = True
                        break
                if rows:
                    writer.write_table(arrow.Table.from_pylist(rows, schema))
            draft.keep()
        number += 1
    for path in sorted(folder.glob("part-*.parquet"))[number:]:
        path.unlink()


def _schema(arrow: Any) -> Any:
    confidence = arrow.struct([("mean", arrow.float64()), ("lowest", arrow.float64())])
    strings = arrow.list_(arrow.string())
    line = [("text", arrow.string()), ("box", arrow.list_(arrow.int32())), ("flags", strings)]
    texts = [(name, arrow.string()) for name in ("key", "source", "digest", "model_digest", "text", "error")]
    numbers = [(name, arrow.int32()) for name in ("page", "page_count", "width", "height", "rotation")]
    tokens = [(name, arrow.int64()) for name in ("num_tokens", "num_prompt_tokens")]
    lines = arrow.list_(arrow.struct([*line, ("confidence", confidence)]))
    others = [("flags", strings), ("seconds", arrow.float64()), ("confidence", confidence), ("lines", lines)]
    return arrow.schema([*texts, *numbers, *tokens, *others])


def _rows(result: FileResult, store: Store) -> Iterator[dict[str, Any]]:
    common = {"source": _utf8(result.name), "digest": result.digest, "model_digest": store.reading_set.model_digest}
    if result.error:
        key = store.reading_set.key(result.digest, 0) if result.digest else ""
        yield common | {"key": key, "page": 0, "page_count": 0, "text": "", "error": _utf8(result.error)}
    for record in result.records:
        yield _clean(record) | common


def _clean(record: Record) -> Record:
    """A record without what UTF-8 cannot say, which Arrow refuses."""
    lines = [line | {"text": _utf8(line["text"])} for line in record["lines"]]
    return record | {"text": _utf8(record["text"]), "error": _utf8(record["error"]), "lines": lines}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
