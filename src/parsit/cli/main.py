"""The `parsit` command: finds the verb, lets its module parse the rest, turns errors into exit codes.

Only the verb's own module is imported, and it imports torch after its command line is parsed, so
`--help` and usage errors answer at once.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from pathlib import Path

from parsit.cli.process import end, stop_on_sigterm, wait_passively
from parsit.types import ParsitError, UsageError

_SHOWN = 120  # characters of a file's name in a message
# verb -> (module with `main(argv) -> exit code`, what it does). The table is all that --help needs.
VERBS = {
    "info": ("parsit.cli.info", "show a model's parts, parameters, image tokens and memory"),
    "data": ("parsit.cli.data", "make, check, change and look at data"),
    "check": ("parsit.cli.check", "look for what would stop a training run"),
    "train": ("parsit.cli.train", "train a model from a preset"),
    "export": ("parsit.cli.export", "merge adapters and write an ordinary model folder"),
    "import": ("parsit.cli.import_", "turn a LLaVA-NeXT or old Parsit checkpoint into a model folder"),
    "eval": ("parsit.cli.eval", "score a model on a data set"),
    "parse": ("parsit.cli.parse", "read PDFs and images into Markdown, JSON or text"),
    "ask": ("parsit.cli.ask", "ask a question about PDFs and images"),
    "serve": ("parsit.cli.serve", "answer over HTTP: OpenAI's clients, files to parse, a page in the browser"),
}


def usage() -> str:
    """The text of `parsit --help`."""
    lines = [
        "usage: parsit VERB [options]",
        "",
        "Train, evaluate and run vision-language models that read documents.",
        "",
        "verbs:",
    ]
    lines += [f"  {verb:<8}{summary}" for verb, (_, summary) in VERBS.items()]
    lines += ["", "`parsit VERB --help` shows a verb's options; `parsit --version` the version."]
    return "\n".join(lines)


def dispatch(argv: list[str]) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    wait_passively()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("parsit"))
        return 0
    if argv[0] not in VERBS:
        near = difflib.get_close_matches(argv[0], VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown verb {argv[0]!r}{hint} (`parsit --help` lists the verbs)")
    module = importlib.import_module(VERBS[argv[0]][0])
    return module.main(argv[1:])


def main() -> None:
    """Entry point of the console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    stop_on_sigterm()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this: what is printed goes nowhere, as was asked for
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (for the whole process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks is shown as an escape
    if os.environ.get("COLUMNS") == "0":  # some shells say so of a terminal without a size: tables would be empty
        del os.environ["COLUMNS"]
    try:
        code = dispatch(sys.argv[1:])
    except UsageError as error:
        print(f"parsit: {error}", file=sys.stderr)
        code = 2
    except ParsitError as error:
        print(f"parsit: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("parsit: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (`parsit … | head`): not an error of ours.
        sys.stderr.close()
        code = 0
    except OSError as error:
        # What the system says of a place or a disk, wherever it came up; without a number it is a fault of ours.
        if error.errno is None:
            raise
        name = str(error.filename or "")
        place = f"{name[:_SHOWN]}{'…' if name[_SHOWN:] else ''}: " if name else ""
        print(f"parsit: {place}{error.strerror}", file=sys.stderr)
        code = 1
    if "RANK" in os.environ:  # one of several that have met, or one as DeepSpeed's engine has it
        end(code)
    sys.exit(code)
