"""The kinds of documents and how one is drawn for a page number."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from random import Random

from parsit.synth.draw import Draw
from parsit.synth.kinds import form, invoice, letter, manual, receipt, report, table
from parsit.synth.split import Texts
from parsit.synth.tree import PageTree
from parsit.types import UsageError

KINDS: dict[str, Callable[[Draw], PageTree]] = {
    "letter": letter.make,
    "invoice": invoice.make,
    "report": report.make,
    "table": table.make,
    "form": form.make,
    "receipt": receipt.make,
    "manual": manual.make,
}
# Without `manual`, which came later: a seed gives the pages that it gave, and what was measured on them stays true.
DEFAULT_KINDS = ("letter", "invoice", "report", "table", "form", "receipt")


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse an unknown or missing kind.

    Raises:
        UsageError: `kinds` is empty, names a kind twice or one that does not exist.
    """
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--kinds: unknown kind {kind!r}{hint} (known: {', '.join(KINDS)})")
    if not kinds or len(set(kinds)) < len(kinds):
        raise UsageError("--kinds needs one or more different kinds, separated by commas")


def make_document(kind: str, rng: Random, texts: Texts) -> PageTree:
    """One document of a kind, with texts of one split; everything random comes from `rng`."""
    return KINDS[kind](Draw.start(rng, texts))
