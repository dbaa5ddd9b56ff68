"""Characters to words and pieces of lines, by drawing order and place.

A word ends where the file has a space, where PDFium makes one up, and where there is a space's paper that neither knows
of: a printer may leave it by the distance of characters (`Tc`), which PDFium takes for spread letters. Letters that are
spread stand equally far apart; a space is wider than what is between the other letters of its word. A space
of the file's that takes no paper, as the next letter was moved back over it, ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median_low

from parsit.synth.from_pdf.pdf import Chars, Flags

# In heights of a line (the font's ascent to descent, about 1.15 em):
WORD_GAP = 0.35  # more paper parts words, even where the file has no space
NO_GAP = (-0.1, 0.03)  # a space without paper parts nothing: its next letter was moved back over it, or kerned
SPACE_GAP = 0.18  # and so does this much more than between its other letters: TeX's narrowest space is 0.19
BACK = 0.6  # a step back to the left further than this begins a new word
SHIFT = 0.7  # sub- and superscripts stay nearer to the baseline than this
NEAR_GAP = 0.8  # words on one line are nearer than this; the gutter of two narrow columns may have 0.87
RUN_GAP = 1.5  # or than this, when they were drawn one after the other
SAME_LINE = 0.4  # of the lower one's height: how much two words on a line share
BODY, FOOT = 0.6, 0.15  # what a line takes up above and below its baseline; less than two lines' distance


@dataclass(frozen=True, slots=True)
class TextRun:
    """A word, or words side by side: text, place in pixels, baseline and height of the font.

    `first` is the width of its first word; `number` and `last` are its first and last word's numbers in drawing order;
    `jumps` says how often the next word on the line is not the next one that was drawn.
    """

    text: str
    x0: float
    x1: float
    base: float
    height: float
    first: float
    number: int
    last: int
    jumps: int = 0

    @property
    def y0(self) -> float:
        """Where its body begins."""
        return self.base - BODY * self.height

    @property
    def y1(self) -> float:
        """Where its body ends."""
        return self.base + FOOT * self.height


def words_of(chars: Chars, chosen: Flags, size: tuple[int, int]) -> list[TextRun]:
    """The words of the chosen characters in drawing order; `size` is the picture's, in pixels."""
    return [word for word, _ in words_and_chars(chars, chosen, size)]


def words_and_chars(chars: Chars, chosen: Flags, size: tuple[int, int]) -> list[tuple[TextRun, list[int]]]:
    """As `words_of`, each word with the numbers of its characters."""
    letters = _letters(chars, chosen, size)
    words: list[tuple[TextRun, list[int]]] = []
    spaces = {index for index, text in enumerate(chars.text) if text == " " and not chars.generated[index]}
    for indexes in _parted(_drawn_together(letters, spaces), letters):
        word = _spelt(letters, indexes)
        words.append((replace(word, number=len(words), last=len(words)), indexes))
    return words


def _letters(chars: Chars, chosen: Flags, size: tuple[int, int]) -> dict[int, TextRun]:
    """The chosen characters by their numbers, each as a word of its own."""
    width, height = size
    boxes = (chars.loose * [width, height, width, height]).tolist()
    bases = (chars.origin[:, 1] * height).tolist()
    characters = enumerate(zip(chars.text, boxes, bases, chosen.tolist(), strict=True))
    return {
        index: TextRun(text, x0, x1, base, max(y1 - y0, 1e-3), x1 - x0, 0, 0)
        for index, (text, (x0, y0, x1, y1), base, is_chosen) in characters
        if is_chosen
    }


def _spelt(letters: dict[int, TextRun], indexes: Sequence[int]) -> TextRun:
    """Characters as one word."""
    word = letters[indexes[0]]
    for index in indexes[1:]:
        word = _joined(word, letters[index], "")
    return word


def _drawn_together(letters: dict[int, TextRun], spaces: set[int]) -> list[list[int]]:
    """The numbers of characters that follow each other on a line without a space or `WORD_GAP` between them."""
    groups: list[list[int]] = []
    word: TextRun | None = None
    for index, letter in letters.items():
        last = groups[-1][-1] if groups else index
        is_next = last == index - 1
        if last == index - 2 and index - 1 in spaces:
            is_next = NO_GAP[0] < _gap(letters[last], letter) < NO_GAP[1]
        if word and is_next and _goes_on(word, letter):
            word = _joined(word, letter, "")
            groups[-1].append(index)
        else:
            word = letter
            groups.append([index])
    return groups


def _parted(groups: list[list[int]], letters: dict[int, TextRun]) -> Iterator[list[int]]:
    """The groups, parted where a gap is `SPACE_GAP` wider than is usual around it."""
    gaps = [[_gap(letters[one], letters[next_one]) for one, next_one in pairwise(group)] for group in groups]
    for number, group in enumerate(groups):
        start = 0
        for place, gap in enumerate(gaps[number], 1):
            if gap > SPACE_GAP and gap > SPACE_GAP + _usual(gaps, number, place - 1):
                yield group[start:place]
                start = place
        yield group[start:]


def _gap(one: TextRun, after: TextRun) -> float:
    """The paper between two characters, in heights of a line."""
    return (after.x0 - one.x1) / max(one.height, after.height)


def _usual(gaps: list[list[float]], number: int, place: int) -> float:
    """What is between the other letters of a word; of two letters, which have one gap, it is a spread neighbour's."""
    if others := gaps[number][:place] + gaps[number][place + 1 :]:
        return median_low(others)
    beside = gaps[number - 1 : number] + gaps[number + 1 : number + 2]
    return max((median_low(word) for word in beside if word), default=0.0)


def pieces_of(words: list[TextRun]) -> list[TextRun]:
    """Words side by side on one line, as one piece each: a line of a column, or a cell of a table."""
    pieces: list[TextRun] = []
    for word in sorted(words, key=lambda word: (word.x0, word.number)):
        best = -1
        for index, piece in enumerate(pieces):
            limit = RUN_GAP if word.number == piece.last + 1 else NEAR_GAP
            height = min(piece.height, word.height)
            if not -BACK * height < word.x0 - piece.x1 < limit * max(piece.height, word.height):
                continue
            shared = min(piece.y1, word.y1) - max(piece.y0, word.y0)
            if shared < SAME_LINE * min(piece.y1 - piece.y0, word.y1 - word.y0):
                continue
            if best < 0 or abs(piece.base - word.base) < abs(pieces[best].base - word.base):
                best = index
        if best < 0:
            pieces.append(word)
        else:
            pieces[best] = _joined(pieces[best], word, " ")
    return pieces


def _goes_on(word: TextRun, char: TextRun) -> bool:
    height = max(word.height, char.height)
    return abs(char.base - word.base) < SHIFT * height and -BACK * height < char.x0 - word.x1 < WORD_GAP * height


def _joined(piece: TextRun, after: TextRun, between: str) -> TextRun:
    """Two pieces as one; the higher font gives height and baseline, so that a superscript does not move a line."""
    higher = after if after.height > 1.1 * piece.height else piece
    x1 = max(piece.x1, after.x1)
    first = piece.first if between or " " in piece.text else x1 - piece.x0
    text = f"{piece.text}{between}{after.text}"
    last = after.last if between else piece.last
    jumps = piece.jumps + after.jumps + (after.number != piece.last + 1 if between else 0)
    return TextRun(text, min(piece.x0, after.x0), x1, higher.base, higher.height, first, piece.number, last, jumps)
