"""What is mended in a page's text before a benchmark scores it: stated, and scored apart from the raw text.

Only form is mended: a code fence around the whole page, a loop at its end, spaces at the ends of lines, more empty
lines than one. No word that was read is changed, and none is added.
"""

from __future__ import annotations

import re

# A text loops at its end where one piece, at most this long, comes this many times, over this many characters or more.
MAX_PERIOD = 400
MIN_REPEATS = 4
MIN_LOOP_CHARS = 40
_FENCE = re.compile(r"```[A-Za-z]*\n(.*?)\n?(?:```)?\s*", re.DOTALL)


def postprocess(text: str) -> str:
    """The text of a page as it is handed in to a benchmark."""
    fenced = _FENCE.fullmatch(text.strip())
    if fenced and "```" not in fenced.group(1):
        text = fenced.group(1)
    text = cut_loop(text)
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def cut_loop(text: str) -> str:
    """The text with a piece that repeats up to its end kept once; see `MIN_REPEATS`.

    Of several periods the shortest counts. A row of dots or dashes of less than `MIN_LOOP_CHARS` is no loop.
    """
    end = text.rstrip()
    for period in range(1, min(MAX_PERIOD, len(end) // MIN_REPEATS) + 1):
        piece, start = end[-period:], len(end) - period
        while start >= period and end[start - period : start] == piece:
            start -= period
        if len(end) - start >= max(MIN_REPEATS * period, MIN_LOOP_CHARS):
            return end[: start + period]
    return text
