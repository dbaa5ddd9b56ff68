"""What every kind of document draws from: one random source, one house style, one split of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from parsit.synth.fonts import FAMILIES, MONOSPACED
from parsit.synth.sentences import ITEMS, LETTER_SENTENCES, STATEMENTS, TITLES, sentence
from parsit.synth.split import Texts
from parsit.synth.tree import Paper, Paragraph, Style
from parsit.synth.values import Values

ACCENTS = ("#000000", "#000000", "#000000", "#1f3a6e", "#7a1f1f", "#1f5f3a", "#444444", "#5a2d82")


@dataclass(frozen=True, slots=True)
class Draw:
    """The sources of one page's content."""

    rng: Random
    values: Values
    texts: Texts

    @classmethod
    def start(cls, rng: Random, texts: Texts) -> Draw:
        """Draw the house style of a new page."""
        return cls(rng, Values.draw(rng), texts)

    def coin(self, probability: float = 0.5) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def sentence(self, templates: Sequence[str] = STATEMENTS) -> str:
        """A sentence that belongs to this page's split."""
        return self.texts.draw(lambda: sentence(self.rng, self.values, tuple(templates)))

    def title(self) -> str:
        """A title that belongs to this page's split."""
        return self.sentence(TITLES)

    def item(self) -> str:
        """A list item that belongs to this page's split."""
        return self.sentence(ITEMS)

    def paragraph(self, low: int, high: int, letter: bool = False) -> Paragraph:
        """A paragraph of `low` to `high` sentences."""
        templates = STATEMENTS + LETTER_SENTENCES if letter else STATEMENTS
        return Paragraph(tuple(self.sentence(templates) for _ in range(self.rng.randint(low, high))))

    def reference(self, pattern: str | None = None) -> str:
        """A number that names this page and belongs to its split.

        It stands in the page's Markdown and in its JSON, so neither can occur in two splits.
        """
        return self.texts.draw(lambda: self.values.code(pattern))

    def style(self, monospaced: float = 0.1, columns: int = 1) -> Style:
        """A page style: paper by region, font, size, margins, spacing, colour."""
        rng = self.rng
        paper: Paper = "letter" if self.values.locale.region == "en-US" else "a4"
        fonts = [family for family in FAMILIES if family not in MONOSPACED]
        mono = rng.random() < monospaced
        return Style(
            paper=paper,
            font=rng.choice(MONOSPACED if mono else fonts),
            size_pt=round(rng.uniform(8.0, 9.5) if mono else rng.uniform(8.5, 12.5), 2),
            margin_mm=round(rng.uniform(14, 27), 1),
            leading_em=round(rng.uniform(0.55, 0.95), 2),
            columns=columns,
            justify=rng.random() < 0.4,
            accent=rng.choice(ACCENTS),
        )
