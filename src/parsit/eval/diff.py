"""What differs between a reference and a prediction, character by character, as the score counts it.

The texts are laid out so that every character stands for one of the normalised text (a run of
whitespace is one space, or one line break if it holds one). The marks are therefore exactly the
edits behind the normalised CER, and the lines of the page can still be seen.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, cast

from rapidfuzz.distance import Levenshtein

Kind = Literal["equal", "insert", "delete", "replace"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of both texts: `insert` is only in the prediction, `delete` only in the reference."""

    kind: Kind
    reference: str
    prediction: str


def lay_out(text: str) -> str:
    """`normalize(text)` with each space that stands for a line break shown as one."""
    runs = re.split(r"(\s+)", unicodedata.normalize("NFC", text))
    # str.split and \s disagree on no character of Unicode's White_Space; see test_eval_diff.
    shown = ("\n" if "\n" in run else " " if index % 2 else run for index, run in enumerate(runs))
    return "".join(shown).strip()


def diff_spans(reference: str, prediction: str) -> tuple[Edit, ...]:
    """The shortest edit script between the normalised texts, as spans that concatenate to `lay_out` of each."""
    left, right = lay_out(reference), lay_out(prediction)
    script = Levenshtein.opcodes(left.replace("\n", " "), right.replace("\n", " "))
    return tuple(
        Edit(cast(Kind, op.tag), left[op.src_start : op.src_end], right[op.dest_start : op.dest_end]) for op in script
    )


def visible(text: str) -> str:
    """`text` with control, format and unassigned characters written out, as `⟨U+0007⟩`; tab and line break stay.

    A page must not be turned around or cut off by a character that a model wrote.
    """
    return "".join(
        f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char)[0] == "C" and char not in "\n\t" else char for char in text
    )
