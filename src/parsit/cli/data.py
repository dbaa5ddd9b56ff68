"""`parsit data …`: sub-verbs that make, check, change and look at data; each is a module of its own."""

from __future__ import annotations

import difflib
import importlib

from parsit.types import UsageError

# sub-verb -> (module, its function of the command line, what it does)
SUBVERBS = {
    "synth": ("parsit.cli.data_synth", "synth", "make documents from scratch, with exact ground truth"),
    "from-pdf": ("parsit.cli.data_from_pdf", "from_pdf", "make pairs of page image and text from PDFs"),
    "import": ("parsit.cli.data_import", "import_", "turn a public document set into Parsit's format"),
    "convert": ("parsit.cli.data_convert", "convert", "turn one format into another"),
    "validate": ("parsit.cli.data_validate", "validate", "say what is wrong with data files"),
    "show": ("parsit.cli.data_show", "show", "a page of samples as a model gets them"),
    "stats": ("parsit.cli.data_show", "stats", "lengths, tiles, and how full packs would be"),
}


def main(argv: list[str]) -> int:
    """Run `parsit data SUBVERB …` (without the first two words) and return the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] not in SUBVERBS:
        near = difflib.get_close_matches(argv[0], SUBVERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"data: unknown sub-verb {argv[0]!r}{hint} (`parsit data --help` lists them)")
    module, function, _ = SUBVERBS[argv[0]]
    return getattr(importlib.import_module(module), function)(argv[1:])


def usage() -> str:
    """The text of `parsit data --help`."""
    lines = ["usage: parsit data SUBVERB [options]", "", "Make, check, change and look at data.", "", "sub-verbs:"]
    lines += [f"  {name:<10}{summary}" for name, (_, _, summary) in SUBVERBS.items()]
    return "\n".join([*lines, "", "`parsit data SUBVERB --help` shows its options."])
