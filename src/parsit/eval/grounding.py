"""Does the model look at the page? Three baselines that a model blind to it cannot beat.

A language model alone can score well on documents that resemble each other. So its CER is set
beside that of the best constant answer and its own on a blank page, and the loss of the true answer
given the right page beside that given another one. Each difference comes with a paired bootstrap
interval, and the model looks only if all three intervals lie on the right side of zero.

The constant is fitted to the very references it is scored on, which favours the baseline: a model
that beats it beats every constant that could be known beforehand among those searched.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from parsit.eval.evaluation import Evaluation, Predict, Progress, evaluate, place_of, prompt_and_reference
from parsit.processing.images import image_size
from parsit.scores import Interval, difference_interval, normalize, ratio_interval
from parsit.types import FileSlice, ImageRef, InputError, Sample

ScoreNats = Callable[[Sequence[Sample]], list[tuple[float, int]]]
"""Samples in; for each the summed negative log-likelihood of its supervised tokens, in nats, and their number."""

# Characters that the greedy search tries at each position: the most frequent ones of the references.
_ALPHABET = 48


@dataclass(frozen=True, slots=True)
class BestConstant:
    """The constant answer with the fewest edits that was found, and how many answers were tried."""

    text: str
    edits: int
    tried: int


class _Search:
    """Counts edits of candidate answers against all references, within a budget of work.

    The budget is counted in work, not in seconds, so that the answer does not depend on the
    machine: a pair costs about one unit per reference character and 64 candidate characters, and
    a fixed part. One unit is some nanoseconds.
    """

    def __init__(self, references: Sequence[str], budget: float) -> None:
        self.counts = Counter(references)
        self.distinct = list(self.counts)
        self.weights = np.array([self.counts[text] for text in self.distinct])
        self.mean_length = sum(map(len, self.distinct)) / len(self.distinct)
        self.budget = budget
        self.tried = 0

    def best(self, candidates: Iterable[str]) -> BestConstant:
        """The best of `candidates`, the first among equals; those beyond the budget are not tried."""
        found = BestConstant("", sum(len(text) * n for text, n in self.counts.items()), 0)
        waiting = iter(candidates)
        while self.budget > 0 and (chunk := list(islice(waiting, 256))):
            edits = cdist(chunk, self.distinct, scorer=Levenshtein.distance, dtype=np.int64) @ self.weights
            place = int(edits.argmin())
            if edits[place] < found.edits:
                found = BestConstant(chunk[place], int(edits[place]), 0)
            self.tried += len(chunk)
            blocks = sum(1 + len(text) // 64 for text in chunk)
            self.budget -= (blocks * self.mean_length + 16 * len(chunk)) * len(self.distinct)
        return replace(found, tried=self.tried)


def _neighbours(text: str, alphabet: Sequence[str]) -> Iterator[str]:
    """Every text one deletion, substitution or insertion away, with characters from `alphabet`."""
    for i in range(len(text)):
        yield text[:i] + text[i + 1 :]
    for char in alphabet:
        for i in range(len(text)):
            yield text[:i] + char + text[i + 1 :]
        for i in range(len(text) + 1):
            yield text[:i] + char + text[i:]


def best_constant(references: Sequence[str], candidates: Sequence[str] = (), *, budget: float = 4e9) -> BestConstant:
    """The constant answer with the lowest corpus CER on `references` that a bounded search finds.

    Tried are the empty string, every distinct text of `candidates` (answers of the training set,
    the most frequent first) and then, greedily, every text one character away from the best so far,
    until none is better. References and candidates are normalised first. `budget` bounds the work, half
    of it for the candidates; the default is a second or two for crops and some ten for whole pages.

    Raises `ValueError` if there are no references.
    """
    if not references:
        raise ValueError("a best constant needs at least one reference")
    plain = [normalize(text) for text in references]
    search = _Search(plain, budget / 2)
    ranked = [text for text, _ in Counter(map(normalize, candidates)).most_common()]
    best = search.best(["", *ranked])
    search.budget += budget / 2
    alphabet = [char for char, _ in Counter("".join(plain)).most_common(_ALPHABET)]
    while search.budget > 0:
        step = search.best(_neighbours(best.text, alphabet))
        if step.edits >= best.edits:
            break
        best = step
    return replace(best, tried=search.tried)


@lru_cache(maxsize=256)
def _white_png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 255).save(buffer, "PNG")
    return buffer.getvalue()


def _blank(image: ImageRef) -> ImageRef:
    """A white image of the same size; one whose header cannot be read stays, and fails where it is read."""
    try:
        return ImageRef(_white_png(*image_size(image.source)))
    except InputError:
        return image


def _with_images(sample: Sample, images: Sequence[ImageRef]) -> Sample:
    """The sample with its images replaced one by one, in order."""
    waiting = iter(images)
    turns = tuple(
        replace(turn, parts=tuple(next(waiting) if isinstance(part, ImageRef) else part for part in turn.parts))
        for turn in sample.turns
    )
    return replace(sample, turns=turns)


def blank_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The same samples with every image replaced by a white one of the same size.

    An image whose header cannot be read is left as it is: it fails again when it is predicted, with
    its own reason, and so counts the same with and without the page.
    """
    return [_with_images(sample, [_blank(image) for image in sample.images]) for sample in samples]


def _identity(image: ImageRef, known: dict[Path | FileSlice, Hashable]) -> Hashable:
    """The same for two references to one page, wherever it lies; `known` holds what was read already.

    A file that cannot be read is known by its place: it is no page that a model could see.
    """
    source = image.source
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, Image.Image):
        return hashlib.sha256(repr((source.mode, source.size)).encode() + source.tobytes()).hexdigest()
    if source not in known:
        try:
            data = source.read() if isinstance(source, FileSlice) else source.read_bytes()
            known[source] = hashlib.sha256(data).hexdigest()
        except OSError:
            known[source] = source
    return known[source]


def _rotated(order: list[list[int]], count: int) -> dict[int, int]:
    """Index → index of another group, by rotating the groups laid end to end by the longest group's length.

    Raises `InputError` if one group holds more than half of all indices.
    """
    line = [index for group in order for index in group]
    longest = max(order, key=len)
    if 2 * len(longest) > len(line):
        raise InputError(
            f"{len(longest)} of the {len(line)} samples with {count} image(s) share the same one, so they cannot all "
            "be given another: evaluate on more pages"
        )
    return {index: line[(place + len(longest)) % len(line)] for place, index in enumerate(line)}


def shuffled_images(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Each sample with the images of another sample that has equally many and different ones.

    Within each number of images every sample's images are given away once. Samples without images
    are returned as they are. Raises `InputError` if that is not possible.
    """
    rng = np.random.default_rng(seed)
    known: dict[Path | FileSlice, Hashable] = {}
    by_count: dict[int, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in rng.permutation(len(samples)).tolist():
        images = samples[index].images
        if images:
            by_count[len(images)][tuple(_identity(image, known) for image in images)].append(index)
    result = list(samples)
    for count, groups in by_count.items():
        for index, other in _rotated(list(groups.values()), count).items():
            result[index] = _with_images(samples[index], samples[other].images)
    return result


@dataclass(frozen=True, slots=True)
class Grounding:
    """Whether a model looks at the page, in numbers.

    `model`, `blank` and `constant` are corpus CERs of normalised texts over the same `count`
    samples; the `nats_*` are nats per supervised token over the `nats_count` samples that could be
    read. A difference is below zero where the model (or the right page) is better. `looks` is true
    if all three intervals lie below zero; `reason` says so in words.
    """

    count: int
    failed: int
    model: Interval
    blank: Interval
    constant: Interval
    constant_text: str
    constants_tried: int
    model_minus_blank: Interval
    model_minus_constant: Interval
    nats_count: int
    nats_right: Interval
    nats_other: Interval
    right_minus_other: Interval
    looks: bool
    reason: str


def _verdict(confidence: float, differences: Sequence[tuple[str, str, Interval]]) -> tuple[bool, str]:
    """Whether all differences are below zero, and a sentence that names those which are not."""
    missing = [
        f"{what} ({unit} difference {interval.value:+.3f}, interval {interval.low:+.3f} to {interval.high:+.3f})"
        for what, unit, interval in differences
        if not interval.high < 0
    ]
    if not missing:
        names = ", ".join(what for what, _, _ in differences[:-1]) + f" and {differences[-1][0]}"
        return True, f"It is better than {names}; each {confidence:.0%} interval of the difference lies below zero."
    return False, f"It is not shown to be better than {' nor than '.join(missing)}."


def _sums(samples: Sequence[Sample], score_nats: ScoreNats) -> tuple[list[float], list[int]]:
    scored = score_nats(samples)
    assert len(scored) == len(samples), f"{len(samples)} samples gave {len(scored)} sums of nats"
    return [nats for nats, _ in scored], [tokens for _, tokens in scored]


def _require_images(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if not sample.images:
            raise InputError(
                f"{place_of(sample)} has no image, so it cannot show whether the model looks: leave it out"
            )


def _nats_right_and_other(
    samples: Sequence[Sample], score_nats: ScoreNats, seed: int
) -> tuple[list[float], list[float], list[int]]:
    """Nats of each sample given its own page and given another one, and its supervised tokens."""
    if len(samples) < 2:
        raise InputError(f"only {len(samples)} of the samples can be read: too few to swap their pages")
    right, tokens = _sums(samples, score_nats)
    other, other_tokens = _sums(shuffled_images(samples, seed), score_nats)
    assert tokens == other_tokens, "another page changed the number of supervised tokens"
    return right, other, tokens


def grounding_report(
    samples: Sequence[Sample],
    predict: Predict,
    score_nats: ScoreNats,
    constant_candidates: Sequence[str],
    *,
    batch_size: int,
    evaluation: Evaluation | None = None,
    on_progress: Progress | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Grounding:
    """Compare a model with a blank page, the best constant answer and another sample's page.

    `evaluation` is the model's own evaluation on the same samples where it is at hand; otherwise it
    is made. `constant_candidates` are answers known beforehand, as those of the training set.

    Raises `InputError` if a sample has no image or no answer, or if the images cannot be swapped.
    """
    _require_images(samples)
    options = {"resamples": resamples, "confidence": confidence, "seed": seed}
    run = evaluation or evaluate(samples, predict, batch_size=batch_size, **options)
    assert [record.id for record in run.records] == [sample.id for sample in samples], "evaluation of other samples"
    blank = evaluate(blank_samples(samples), predict, batch_size=batch_size, on_progress=on_progress, **options)
    references = [normalize(prompt_and_reference(sample)[1]) for sample in samples]
    constant = best_constant(references, constant_candidates)
    model_edits = [record.scores.char_edits for record in run.records]
    blank_edits = [record.scores.char_edits for record in blank.records]
    constant_edits = [
        min(Levenshtein.distance(text, constant.text) for text in (reference, *map(normalize, sample.other_answers)))
        for reference, sample in zip(references, samples, strict=True)
    ]
    chars = [record.scores.chars for record in run.records]

    readable = [sample for sample, record in zip(samples, run.records, strict=True) if record.error is None]
    right, other, tokens = _nats_right_and_other(readable, score_nats, seed)
    minus_blank = difference_interval(model_edits, blank_edits, chars, **options)
    minus_constant = difference_interval(model_edits, constant_edits, chars, **options)
    right_minus_other = difference_interval(right, other, tokens, **options)
    looks, reason = _verdict(
        confidence,
        [
            ("itself on a blank page", "CER", minus_blank),
            ("the best constant answer", "CER", minus_constant),
            ("itself given another page", "nats per token", right_minus_other),
        ],
    )
    return Grounding(
        count=len(samples),
        failed=run.summary.failed,
        model=ratio_interval(model_edits, chars, **options),
        blank=ratio_interval(blank_edits, chars, **options),
        constant=ratio_interval(constant_edits, chars, **options),
        constant_text=constant.text,
        constants_tried=constant.tried,
        model_minus_blank=minus_blank,
        model_minus_constant=minus_constant,
        nats_count=len(readable),
        nats_right=ratio_interval(right, tokens, **options),
        nats_other=ratio_interval(other, tokens, **options),
        right_minus_other=right_minus_other,
        looks=looks,
        reason=reason,
    )
