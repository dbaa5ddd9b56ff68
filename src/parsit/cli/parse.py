"""`parsit parse FILE…`: read PDFs and images into Markdown, JSON or text.

Folders, globs, lists and archives are piles (`parsit.cli.pile`); this module reads files that are named.

The command line, the output names and every file are checked before torch is imported, so what
cannot work is said at once. With several files one failure does not stop the others. A result is
written under another name beside its place and renamed, so a file that exists is whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsit.cli.engines import add_engine_option, is_address, make_engine
from parsit.cli.parser import Parser
from parsit.files import refuse_inputs, write_whole
from parsit.types import Document, InputError, Page, ParsitError, UsageError

FORMATS: dict[str, Callable[[Document], str]] = {
    "md": Document.to_markdown,
    "json": Document.to_json,
    "txt": Document.to_text,
}
# Each makes a pile of what is named, even of one file.
PILE_FORMATS = ("jsonl", "parquet")
PILE_OPTIONS = (
    "tables",
    "retry_flagged",
    "retry_failed",
    "text_layer",
    "workers",
    "batch_size",
    "ray",
    "actors",
    "actor_cpus",
    "actor_gpus",
)
GROUPS = {
    "a pile: a folder, a 'glob', @LIST of names, a tar; or any of these options": PILE_OPTIONS,
}
MODEL_HELP = "folder of a trained model or of a run, or ORG/NAME[@REVISION] on the Hub"
MIN_DPI, MAX_DPI = 10, 2400


@dataclass(frozen=True, slots=True)
class Job:
    """One file to be read, the number of pages to be read in it, and where the result goes (None: stdout)."""

    file: Path
    page_count: int
    out: Path | None


def parser() -> Parser:
    """The verb's command line."""
    p = Parser(
        "parsit parse", "Read PDFs and images (PNG, JPEG, TIFF, WebP …) into Markdown, JSON or text.", groups=GROUPS
    )
    p.add_argument(
        "files", nargs="+", metavar="FILE", help="PDF or image, by its content; for a pile, folders and such"
    )
    p.add_argument("--model", metavar="MODEL", help=f"{MODEL_HELP} (default: parsit-tiny, which comes with Parsit)")
    p.add_argument("--pages", metavar="1-3,7", help="pages to read, of every file (default: all)")
    p.add_argument(
        "--format",
        choices=[*FORMATS, *PILE_FORMATS],
        help="output format (default: by the suffix of --out, else md); jsonl (Dolma's) and parquet are for piles",
    )
    p.add_argument(
        "--out",
        metavar="PATH",
        help="file to write, or a folder: one that is there, ends in /, or for several files (default: stdout)",
    )
    p.add_argument("--prompt", help="what to say to the model after each image (default: the model's own prompt)")
    p.add_argument("--split", choices=["page", "lines"], help="what the model sees at a time (default: as trained)")
    p.add_argument("--max_new_tokens", type=int, help="most tokens per image (default: 4400 a page, 96 a line)")
    add_page_options(p)
    add_pile_options(p)
    return p


def add_pile_options(p: Parser) -> None:
    """The options of piles; None: not given."""
    p.add_argument(
        "--tables", choices=["as-read", "markdown", "html"], help="how tables are written (default: as read)"
    )
    p.add_argument(
        "--retry_flagged",
        type=bool,
        help="read again what loops, is cut or upside down: warmer, in smaller tiles, turned (default: true)",
    )
    p.add_argument(
        "--retry_failed", action="store_true", default=None, help="read again what an earlier run recorded as failed"
    )
    p.add_argument(
        "--text_layer",
        choices=["auto", "never", "only"],
        help="take pages of PDFs whose text layer says what they show (default: never); only: and read no picture",
    )
    p.add_argument("--workers", type=int, metavar="N", help="processes that draw pages ahead (default: by processors)")
    p.add_argument("--batch_size", type=int, metavar="N", help="images that are read at a time (default: 8)")
    p.add_argument("--ray", metavar="ADDRESS", help="read on a Ray cluster; auto: the one that is there")
    p.add_argument("--actors", type=int, metavar="N", help="engines on the cluster (default: as many as fit)")
    p.add_argument("--actor_cpus", type=float, metavar="X", help="processors of each (default: 2)")
    p.add_argument("--actor_gpus", type=float, metavar="X", help="GPUs of each (default: 1, where the cluster has any)")


def add_page_options(p: Parser) -> None:
    """The options that `parse` and `ask` share."""
    p.add_argument("--dpi", type=float, default=150.0, help="dots per inch at which PDF pages are drawn")
    p.add_argument("--device", help="torch device such as cpu or cuda:0 (default: the best there is)")
    add_engine_option(p)


def main(argv: list[str]) -> int:
    """Run the verb and return its exit code: 1 if a file or a page failed."""
    options = parser().parse_args(argv)
    check_page_options(options)
    from parsit.scale.inputs import is_pile

    is_for_piles = options.format in PILE_FORMATS or any(getattr(options, name) is not None for name in PILE_OPTIONS)
    if is_for_piles or is_pile(options.files):
        from parsit.cli.pile import read_pile

        return read_pile(options)
    files = [Path(file) for file in options.files]
    check_target(options.out, len(files))
    suffix = output_format(options.format, options.out, len(files))
    outs = output_paths(files, options.out, suffix)

    from parsit.parse.selection import parse_selection

    selection = parse_selection(options.pages) if options.pages is not None else None
    jobs = check_files(files, outs, selection)
    if not jobs:
        return 1
    reader = load_reader(options.model, options.device, options.engine)
    how = {"pages": selection, "prompt": options.prompt, "split": options.split, "dpi": options.dpi}
    how |= {"max_new_tokens": options.max_new_tokens, "on_error": "keep"}
    documents = [read(reader, job, FORMATS[suffix], how) for job in jobs]
    if options.out is None:
        print_documents([document for document in documents if document], suffix, len(files))
    whole = all(document and not any(page.error for page in document.pages) for document in documents)
    return 0 if whole and len(jobs) == len(files) else 1


def check_page_options(options: Any) -> None:
    """Refuse numbers that make no sense.

    Raises:
        UsageError: `--dpi` or `--max_new_tokens` is out of range, or `--engine` is none.
    """
    is_address(options.engine)
    if not MIN_DPI <= options.dpi <= MAX_DPI:
        raise UsageError(f"--dpi {options.dpi:g} is outside {MIN_DPI} to {MAX_DPI}")
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise UsageError(f"--max_new_tokens {options.max_new_tokens} leaves no room for a token; give 1 or more")


def check_target(out: str | None, file_count: int) -> None:
    """Check that `--out` can be what it has to be, a folder or a file; see `is_folder`.

    Raises:
        UsageError: It is a file and has to be a folder, or the folder it would be written in is missing.
    """
    if out is None:
        return
    target = Path(out)
    if is_folder(out, file_count):
        if target.exists() and not target.is_dir():
            several = (
                "with several files it must be a folder" if file_count > 1 else "a path that ends in / is a folder"
            )
            raise UsageError(f"--out {out} is a file; {several}")
    elif not target.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {target.parent}")


def is_folder(out: str, file_count: int) -> bool:
    """Whether `--out` names a folder for the results: for several files, if it is one, or if it ends like one."""
    return file_count > 1 or Path(out).is_dir() or out.endswith(("/", os.sep))


def output_format(named: str | None, out: str | None, file_count: int) -> str:
    """The output format: as named, or by the suffix of the one file that is written, or Markdown.

    Raises:
        UsageError: The suffix stands for no known format.
    """
    if named or out is None or is_folder(out, file_count):
        return named or "md"
    suffix = Path(out).suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise UsageError(f"--out {out}: no known format has the suffix {suffix!r}; say --format md, json or txt")
    return suffix


def output_paths(files: list[Path], out: str | None, suffix: str) -> list[Path | None]:
    """Where each file's result goes.

    Raises:
        UsageError: Two results would have one name, or a result would overwrite an input.
    """
    if out is None:
        return [None] * len(files)
    target = Path(out)
    outs = [target / f"{file.stem}.{suffix}" for file in files] if is_folder(out, len(files)) else [target]
    for position, path in enumerate(outs):
        if path in outs[:position]:
            twin = files[outs.index(path)]
            raise UsageError(f"{twin} and {files[position]} would both be written to {path}; read them one by one")
        refuse_inputs(path, files)
    return list(outs)


def check_files(files: list[Path], outs: list[Path | None], selection: Any) -> list[Job]:
    """Open every file and count its pages; says on stderr which cannot be read and leaves those out."""
    from parsit.parse.pages import PageFile

    jobs = []
    for file, out in zip(files, outs, strict=True):
        try:
            with PageFile(file) as opened:
                jobs.append(Job(file, len(opened.numbers(selection)), out))
        except InputError as error:
            report(error)
    return jobs


def load_reader(model: str | None, device: str | None, engine: str) -> Any:
    """The `Reader` of a model, by default the package's; torch is imported here, once there is known to be a model.

    Raises:
        InputError: There is no model, it cannot be loaded, or the server does not answer.
        UsageError: None is named, and there is no default.
    """
    loaded = make_engine(engine, model, device)
    from parsit.parse.reader import Reader

    return Reader(loaded)


def read(reader: Any, job: Job, form: Callable[[Document], str], how: dict[str, Any]) -> Document | None:
    """Read one file and write the result if it goes to a file; None if that failed, which is then said."""
    try:
        with progress(job) as advance:
            document = reader.parse(job.file, on_page=advance, **how)
        if job.out:
            write_whole(job.out, form(document))
        return document
    except ParsitError as error:
        report(error)
        return None


@contextmanager
def progress(job: Job) -> Iterator[Callable[[Page], None]]:
    """A bar on stderr that a call per page moves on, if stderr is a terminal; says which pages fail."""
    from parsit.cli.console import bar

    with bar(job.file.name, job.page_count, lines_in_pipe=False) as move_on:

        def advance(page: Page) -> None:
            move_on(1)
            if page.error:
                report(f"{job.file}, page {page.number}: {page.error}")

        yield advance


def print_documents(documents: list[Document], suffix: str, file_count: int) -> None:
    """Write the results to stdout as UTF-8: one as it is; of several, JSON as an array, the others named."""
    if suffix == "json" and file_count > 1:
        text = "[\n" + ",\n".join(document.to_json().rstrip() for document in documents) + "\n]\n"
    elif suffix == "md" and file_count > 1:
        text = "\n".join(f"<!-- file {document.source} -->\n\n{document.to_markdown()}" for document in documents)
    else:
        text = "\f".join(FORMATS[suffix](document) for document in documents)
    print_result(text)


def print_result(text: str) -> None:
    """What was read, to stdout as UTF-8 whatever the locale says: a character that it lacks must not cost the text."""
    sys.stdout.flush()
    # A lone surrogate is written as its escape, as in files.
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def report(problem: ParsitError | str) -> None:
    """One line on stderr."""
    print(f"parsit: {problem}", file=sys.stderr)
