"""olmOCR-mix: pages of PDFs with the text that a large model read from them.

Layouts (https://huggingface.co/datasets/allenai/olmOCR-mix-0225 and …-1025; Poznanski et al., arXiv 2502.18443; the
columns as in olmocr's own `prepare_olmocrmix.py` and `repackage_olmocrmix.py`):

    0225: train-s2pdf.parquet, eval-s2pdf.parquet, train-iabooks.parquet, eval-iabooks.parquet
          columns id, url, page_number, response: JSON {"primary_language", "is_rotation_valid", "rotation_correction",
          "is_table", "is_diagram", "natural_text"}
          pdf_tarballs/pdf_chunk_0000.tar.gz with members {id}.pdf, each of one page
    1025: 00_documents_train.parquet, 00_documents_eval.parquet, 01_books_…, 02_loc_transcripts_…, …
          the same with natural_text and the other fields as columns of their own, and
          pdf_relpath: pdf_tarballs/00_documents_train_00000.tar.gz:MEMBER.pdf

PDFs are looked for unpacked, under `--image_folder`, `pdfs/`, `pdf_tarballs/extracted/` and the folder itself, by
`{id}.pdf`, by the member's name, or by `TARBALL/member`; what is not there is read from the tarballs, in their order.
Then the whole text of the split is in memory (0.7 GB for the largest). Every row whose PDF is in neither is a finding.
Pages are drawn as they are: `rotation_correction` is not applied, the text is that of the page turned upright.
"""

from __future__ import annotations

import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parsit.data.containers.text import decode
from parsit.data.faults import DataFault
from parsit.data.importers.common import Importer, Item, Items, PublishedSet, asked, field, record_items
from parsit.types import ImageRef, InputError, Sample

READ_PROMPT = "Read the text of this page in natural reading order."
_TAR_MARK = ".tar.gz:"


def _find(source: PublishedSet) -> Items:
    patterns = (f"{source.split}-*.parquet", f"*_{source.split}.parquet")
    files = sorted({path for pattern in patterns for path in source.folder.glob(pattern)})
    if not files:
        raise DataFault("layout-missing", f"neither {' nor '.join(patterns)} in it", str(source.folder))
    rows = record_items(files)
    return Items(rows.total, _with_pdfs(source, rows.each))


def _with_pdfs(source: PublishedSet, rows: Any) -> Iterator[Item]:
    """Each row with its PDF, as (row, path): first what lies unpacked, then what is in tarballs."""
    waiting: dict[str, Item] = {}
    for item in rows:
        pdf = _unpacked(source, item.value) if isinstance(item.value, dict) else None
        key = _member(item.value) if isinstance(item.value, dict) and pdf is None else ""
        if pdf is not None:
            yield Item(item.place, (item.value, pdf))
        elif not key:
            yield Item(item.place, item.value)
        elif key in waiting:
            yield Item(item.place, DataFault("annotation-broken", f"a second row for {key}"))
        else:
            waiting[key] = item
    if waiting:
        yield from _from_tarballs(source, waiting)
    for key, item in waiting.items():
        yield Item(item.place, DataFault("image-missing", f"no {key} in pdf_tarballs/ or beside the set"))


def _identifier(row: dict[str, Any]) -> str:
    value = row.get("id", row.get("__index_level_0__"))
    return value if isinstance(value, str) else ""


def _member(row: dict[str, Any]) -> str:
    """The name of a row's PDF: in 0225 by its id, in 1025 in a column; "" where there is none."""
    path = row.get("pdf_relpath")
    if isinstance(path, str) and path:
        tarball, mark, name = path.partition(_TAR_MARK)
        return f"{Path(tarball).name}{mark}{name}" if mark else Path(path).name
    return f"{_identifier(row)}.pdf" if _identifier(row) else ""


def _unpacked(source: PublishedSet, row: dict[str, Any]) -> Path | None:
    tarball, mark, name = _member(row).rpartition(_TAR_MARK)
    if not name or ".." in Path(name).parts or Path(name).is_absolute():
        return None
    names = [name, f"{tarball}/{name}"] if mark else [name]
    roots = (
        [source.images] if source.images else [source.folder / each for each in ("pdfs", "pdf_tarballs/extracted", ".")]
    )
    return next((root / each for root in roots for each in names if (root / each).is_file()), None)


def _from_tarballs(source: PublishedSet, waiting: dict[str, Item]) -> Iterator[Item]:
    """The rows whose PDFs are in tarballs, taken out of `waiting`."""
    with tempfile.TemporaryDirectory(prefix="parsit-") as name:
        page = Path(name) / "page.pdf"
        for path in sorted((source.folder / "pdf_tarballs").glob("*.tar.gz")):
            try:
                # A stream, read once from its beginning to its end; nothing is unpacked under a name of the archive's.
                with tarfile.open(path, "r|gz") as archive:
                    for member in archive:
                        bare = member.name.removeprefix("./")
                        key = next((each for each in (f"{path.name}:{bare}", bare) if each in waiting), None)
                        if key is None or not member.isfile():
                            continue
                        stream = archive.extractfile(member)
                        assert stream is not None, "a regular file"
                        page.write_bytes(stream.read())
                        item = waiting.pop(key)
                        yield Item(item.place, (item.value, page))
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                yield Item(
                    str(path), DataFault("tar-broken", f"cannot be read further: {' '.join(str(error).split())}")
                )


def _samples(source: PublishedSet, item: Item) -> Iterator[Sample]:
    if not isinstance(item.value, tuple):
        raise DataFault("annotation-broken", "the row has neither id nor pdf_relpath")
    row, pdf = item.value
    text = _natural_text(row)
    if text is None:
        raise DataFault("answer-missing", "the row has no natural_text: an empty page")
    if source.render is None:
        raise InputError("olmocr needs something that draws PDF pages: call Importer.read with render=")
    try:
        image = source.render(pdf, 1)
    except InputError as error:
        reason = str(error).replace(f"{pdf}, ", "").replace(str(pdf), pdf.name)
        raise DataFault("pdf-page-failed", reason) from error
    identifier = _identifier(row) or Path(_member(row)).stem
    yield asked(f"olmocr-{identifier}", ImageRef(image), READ_PROMPT, text, item.place)


def _natural_text(row: dict[str, Any]) -> str | None:
    if row.get("response") is not None:
        row = decode(field(row, "response", str).encode("utf-8", "surrogatepass"))
        if not isinstance(row, dict):
            raise DataFault("annotation-broken", "'response' is no JSON object")
    if row.get("natural_text") is None:
        return None
    return field(row, "natural_text", str)


OLMOCR = Importer(
    "olmocr",
    ("train", "eval"),
    ("read",),
    "pages of PDFs with text from a large model",
    "https://huggingface.co/datasets/allenai/olmOCR-mix-0225",
    _find,
    _samples,
)
