"""`parsit ask FILE… "question"`: ask a model about PDFs and images; the answer goes to stdout.

All pages are shown in one conversation, so a page that cannot be read is an error of the whole
question: an answer that silently leaves a page out could be wrong.
"""

from __future__ import annotations

from pathlib import Path

from parsit.cli.engines import is_address
from parsit.cli.parse import MODEL_HELP, add_page_options, check_page_options, load_reader, print_result, report
from parsit.cli.parser import Parser
from parsit.types import InputError, UsageError

MAX_NAME = 255  # what a system takes for a file's name; a question may be longer


def parser() -> Parser:
    """The verb's command line."""
    p = Parser("parsit ask", "Ask a question about the pages of PDFs and images.")
    p.add_argument("words", nargs="+", metavar='FILE… "question"', help="files, and the question as the last word")
    p.add_argument("--model", metavar="MODEL", help=f"{MODEL_HELP}; parsit-tiny only reads, so that one must be named")
    p.add_argument("--pages", metavar="1-3,7", help="pages to show, of every file (default: all)")
    p.add_argument("--max_new_tokens", type=int, default=256, help="most tokens of the answer")
    p.add_argument("--schema", metavar="FILE.json", help="JSON schema that the answer follows")
    add_page_options(p)
    return p


def main(argv: list[str]) -> int:
    """Run the verb and return its exit code."""
    options = parser().parse_args(argv)
    check_page_options(options)
    *files, question = options.words
    if not files or (len(question) <= MAX_NAME and Path(question).is_file()):
        raise UsageError(
            f'the question is missing: it comes after the files, as in `parsit ask {options.words[0]} "…?"`'
        )

    schema = read_schema(options.schema) if options.schema is not None else None
    from parsit.parse.pages import PageFile
    from parsit.parse.selection import parse_selection

    selection = parse_selection(options.pages) if options.pages is not None else None
    for file in files:
        with PageFile(Path(file)) as opened:
            opened.numbers(selection)
    if not is_address(options.engine):
        require_answering(options.model)
    reader = load_reader(options.model, options.device, options.engine)
    how = {"pages": selection, "max_new_tokens": options.max_new_tokens, "dpi": options.dpi}
    how["schema"] = schema
    [answer] = reader.answers([Path(file) for file in files], [question], **how)
    print_result(f"{answer.text}\n")
    if answer.flags:
        report(f"the answer may not be whole: {', '.join(answer.flags)}")
    return 0


def require_answering(model: str | None) -> None:
    """Refuse a model that says it only reads, before it is loaded.

    Raises:
        InputError: There is no model.
        UsageError: It only reads, or none is named, and there is no default.
    """
    from parsit.hub import default_model, model_folder, require_asking, tasks_of

    folder = model_folder(model or default_model()[0], weights=False)
    require_asking(tasks_of(folder), f"{model or folder.name}: a question")


def read_schema(file: str) -> str:
    """The text of a schema's file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--schema {file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
