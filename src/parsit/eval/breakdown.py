"""Where the errors are: by length of the answer, by class of character, by share of exact answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parsit.eval.diff import diff_spans
from parsit.eval.evaluation import Evaluation, Record
from parsit.scores import Interval, mean_interval, normalize, ratio_interval

# A bin holds answers of at least this many and fewer than the next bin's characters.
LENGTH_BINS = (0, 6, 11, 21, 41, 81, 161, 641)
CLASSES = ("letters", "digits", "punctuation", "spaces")


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Scores of the answers whose normalised reference has `shortest` to `longest` characters (None: no limit)."""

    shortest: int
    longest: int | None
    count: int
    cer: Interval
    exact: Interval


@dataclass(frozen=True, slots=True)
class CharacterClass:
    """How many of the references' characters of one class stand in the predictions at their place.

    `inserted` counts characters of the class that predictions have too many.
    """

    name: str
    count: int
    right: Interval
    inserted: int


def character_class(char: str) -> str:
    """One of `CLASSES`; whatever is no letter, digit or space (symbols too) is punctuation."""
    if char.isspace():
        return "spaces"
    if char.isalpha():
        return "letters"
    return "digits" if char.isdigit() else "punctuation"


def by_length(evaluation: Evaluation) -> tuple[LengthBin, ...]:
    """CER and exact share for each bin of answer lengths that holds an answer."""
    bins = []
    for low, high in zip(LENGTH_BINS, (*LENGTH_BINS[1:], None), strict=True):
        scores = [r.scores for r in evaluation.records if r.scores.chars >= low and (not high or r.scores.chars < high)]
        if scores:
            edits, chars = [s.char_edits for s in scores], [s.chars for s in scores]
            cer = ratio_interval(edits, chars, confidence=evaluation.confidence, seed=evaluation.seed)
            exact = mean_interval(
                [s.exact_match for s in scores], confidence=evaluation.confidence, seed=evaluation.seed
            )
            bins.append(LengthBin(low, high - 1 if high else None, len(scores), cer, exact))
    return tuple(bins)


def _counts(record: Record) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Characters of each class in one record: in the reference, right, inserted. A failure has none right."""
    if record.prediction is None:
        return Counter(map(character_class, normalize(record.reference))), Counter(), Counter()
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for span in diff_spans(record.reference, record.prediction):
        total.update(map(character_class, span.reference))
        if span.kind == "equal":
            right.update(map(character_class, span.reference))
        elif span.kind == "insert":
            inserted.update(map(character_class, span.prediction))
    return total, right, inserted


def by_class(evaluation: Evaluation) -> tuple[CharacterClass, ...]:
    """Share of the references' characters read right, for each class that occurs in them."""
    counts = [_counts(record) for record in evaluation.records]
    classes = []
    for name in CLASSES:
        totals = [total[name] for total, _, _ in counts]
        if sum(totals):
            rights = [right[name] for _, right, _ in counts]
            share = ratio_interval(rights, totals, confidence=evaluation.confidence, seed=evaluation.seed)
            classes.append(CharacterClass(name, sum(totals), share, sum(extra[name] for _, _, extra in counts)))
    return tuple(classes)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def findings(evaluation: Evaluation) -> tuple[str, ...]:
    """What the model can and cannot do, in sentences made of the numbers."""
    summary, count = evaluation.summary.normalized, evaluation.summary.count
    exact = sum(record.scores.exact_match for record in evaluation.records)
    usable = sum(record.scores.cer <= 0.1 for record in evaluation.records)
    sentences = [
        f"It reads {exact:.0f} of {count} answers ({_percent(summary.exact_match.value)}) without an error, and "
        f"{usable} ({_percent(usable / count)}) with at most one character in ten wrong.",
        f"Over all answers it makes {100 * summary.cer.value:.1f} edits per 100 characters: "
        f"{describe_cer(summary.cer.value)}.",
    ]
    classes = [c for c in by_class(evaluation) if c.name != "spaces"]
    if len(classes) > 1:
        ranked = sorted(classes, key=lambda c: c.right.value)
        sentences.append(
            f"It is best at {ranked[-1].name} ({_percent(ranked[-1].right.value)} right) and worst at "
            f"{ranked[0].name} ({_percent(ranked[0].right.value)})."
        )
    bins = by_length(evaluation)
    if len(bins) > 1:
        first, last = bins[0], bins[-1]
        sentences.append(
            f"Answers of {length_label(first)} have a CER of {first.cer.value:.2f}, "
            f"those of {length_label(last)} one of {last.cer.value:.2f}."
        )
    return (*sentences, *_endings(evaluation))


def _endings(evaluation: Evaluation) -> Sequence[str]:
    """Sentences about failures and flags, or one that says there were none."""
    summary = evaluation.summary
    parts = [f"{summary.failed} could not be read at all"] if summary.failed else []
    parts += [f"{count} {'was' if count == 1 else 'were'} {flag}" for flag, count in summary.flags.items()]
    what = ", ".join(parts) if parts else "none failed, was cut off or began to loop"
    return [f"Of the {summary.count} answers, {what}."]


def length_label(bin_: LengthBin) -> str:
    """The bin's range of lengths in words."""
    if bin_.longest is None:
        return f"{bin_.shortest} or more characters"
    return f"{bin_.shortest} to {bin_.longest} characters"


def describe_cer(value: float) -> str:
    """What a character error rate means for somebody who wants to use the text."""
    for limit, words in (
        (0.0, "every character is right"),
        (0.02, "nearly every character is right"),
        (0.1, "the text can be used after proof-reading"),
        (0.3, "most words can be made out, but many hold an error"),
        (0.6, "only fragments of the text are right"),
    ):
        if value <= limit:
            return words
    return "this is not a usable reading of the text"
