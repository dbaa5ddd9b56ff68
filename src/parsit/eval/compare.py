"""Two results of `parsit eval --out` on the same samples: what got better and what worse, and whether by chance.

Samples are paired, and drawn together: the interval of a difference (percentile bootstrap over samples) says what two
intervals beside each other do not. A difference is one where its interval does not hold 0.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsit.eval.diff import Edit, diff_spans
from parsit.eval.html import PAGE_SCORES, SCORES, render
from parsit.eval.image_places import ImagePlace, check_places, image_at
from parsit.eval.pictures import Picture, picture
from parsit.files import write_whole
from parsit.scores import Interval, difference_interval
from parsit.types import InputError

# Scores that are sums over sums: edits or words of each sample, and what they are divided by.
_SUMS = {
    "cer": ("scores", "char_edits", "chars"),
    "wer": ("scores", "word_edits", "words"),
}
_MEANS = {
    "cer_mean": ("scores", "cer"),
    "wer_mean": ("scores", "wer"),
    "normalized_edit_distance": ("scores", "normalized_edit_distance"),
    "exact_match": ("scores", "exact_match"),
    "anls": ("scores", "anls"),
    "teds": ("page_scores", "teds"),
    "teds_structure": ("page_scores", "teds_structure"),
    "reading_order": ("page_scores", "reading_order"),
    "anls_star": ("page_scores", "anls_star"),
}
SHOWN = 20
# What bounds the page: the first images of a sample, and the pixels of each.
PICTURES, PICTURE_WIDTH, PICTURE_HEIGHT = 2, 560, 800


@dataclass(frozen=True, slots=True)
class Result:
    """One folder's records (lines of predictions.jsonl) by the sample's id and how often it came before."""

    name: str
    records: dict[tuple[str, int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of both, over `count` samples; `change` is second - first, `verdict` better, worse or no difference."""

    name: str
    first: float
    second: float
    change: Interval
    count: int
    verdict: str


@dataclass(frozen=True, slots=True)
class PairedCase:
    """One sample in both results, with what each made of it and by how much the CER changed (below 0: better).

    `images`: where its images lie, by each result that says so.
    """

    identifier: str
    place: str
    reference: str
    errors: tuple[str | None, str | None]
    cers: tuple[float, float]
    spans: tuple[tuple[Edit, ...], tuple[Edit, ...]]
    images: tuple[tuple[ImagePlace, ...], ...] = ()

    @property
    def change(self) -> float:
        """The second's CER - the first's."""
        return self.cers[1] - self.cers[0]


@dataclass(frozen=True, slots=True)
class ShownCase:
    """A sample on the page: its first pictures, and how many images it has beside them."""

    case: PairedCase
    pictures: tuple[Picture, ...]
    more_pictures: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two results differ in; `cases` are all samples, the most improved first."""

    first: str
    second: str
    differences: tuple[Difference, ...]
    cases: tuple[PairedCase, ...]

    @property
    def better(self) -> tuple[PairedCase, ...]:
        """Samples whose CER fell, the most first."""
        return tuple(case for case in self.cases if case.change < 0)

    @property
    def worse(self) -> tuple[PairedCase, ...]:
        """Samples whose CER rose, the most first."""
        return tuple(case for case in reversed(self.cases) if case.change > 0)

    def lines(self) -> list[str]:
        """The comparison as text: a line for each score, and how many samples got better and worse."""
        found = [f"A {self.first}", f"B {self.second}", f"{'':32}{'A':>9}{'B':>9}{'B - A':>10}  95 % interval"]
        for one in self.differences:
            change = f"{one.change.value:+10.4f}  {one.change.low:+.4f} to {one.change.high:+.4f}"
            found.append(f"{one.name:32}{one.first:9.4f}{one.second:9.4f}{change}  {one.verdict}")
        better, worse = len(self.better), len(self.worse)
        return [*found, f"by CER, of {len(self.cases)} samples {better} got better, {worse} worse, "
                f"{len(self.cases) - better - worse} stayed"]  # fmt: skip


def read_result(folder: Path) -> Result:
    """Raises `InputError` if the folder has no predictions.jsonl that this version of `parsit eval` wrote."""
    path = folder / "predictions.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): name a folder that `parsit eval --out` wrote") from error
    seen: Counter[str] = Counter()
    records = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = _record(path, number, line)
            records[record["id"], seen[record["id"]]] = record
            seen[record["id"]] += 1
    if not records:
        raise InputError(f"{path} holds no predictions")
    return Result(str(folder), records)


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{number}: not a line of JSON ({error.msg})") from error
    needed = {"id", "reference", "prediction", "error", "scores", "page_scores"}
    lacking = sorted(needed - set(record)) if isinstance(record, dict) else sorted(needed)
    if lacking:
        raise InputError(f"{path}:{number}: has no {lacking[0]!r}: evaluate again with this version of Parsit")
    if "images" in record:  # older results do not say where their images are
        try:
            check_places(record["images"])
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}: evaluate again with this version of Parsit") from error
    return record


def compare_results(first: Result, second: Result) -> Comparison:
    """Pair the samples of both. Raises `InputError` if one has a sample that the other lacks, or another true text."""
    for one, other in ((first, second), (second, first)):
        alone = [key for key in one.records if key not in other.records]
        if alone:
            raise InputError(
                f"{other.name} lacks {len(alone)} of the {len(one.records)} samples of {one.name}, such as "
                f"{alone[0][0]!r}: evaluate both on the same data"
            )
    pairs = [(record, second.records[key]) for key, record in first.records.items()]
    for one, other in pairs:
        if one["reference"] != other["reference"]:
            raise InputError(f"sample {one['id']!r} has another true text in {second.name} than in {first.name}: "
                             "evaluate both on the same data")  # fmt: skip
    cases = sorted((_case(one, other) for one, other in pairs), key=lambda case: case.change)
    return Comparison(first.name, second.name, tuple(_differences(pairs)), tuple(cases))


def _differences(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Iterable[Difference]:
    for field, name, better in (*SCORES, *PAGE_SCORES):
        if field in _SUMS:
            place, top, bottom = _SUMS[field]
            weights = [one[place][bottom] for one, _ in pairs]
            values = [(one[place][top], other[place][top]) for one, other in pairs]
        elif field in _MEANS:
            place, key = _MEANS[field]
            values = [(one[place][key], other[place][key]) for one, other in pairs]
            values = [(a, b) for a, b in values if a is not None and b is not None]
            weights = [1.0] * len(values)
        else:
            continue  # shares whose divisor differs between the two: no paired difference of sums
        if values:
            yield _difference(name, better, values, weights)


def _difference(name: str, better: str, values: Sequence[tuple[float, float]], weights: Sequence[float]) -> Difference:
    firsts, seconds = [a for a, _ in values], [b for _, b in values]
    change = difference_interval(seconds, firsts, weights)
    total = sum(weights) or 1.0
    verdict = "no difference"
    if change.low > 0 or change.high < 0:
        verdict = "better" if (change.value < 0) == (better == "lower") else "worse"
    return Difference(name, sum(firsts) / total, sum(seconds) / total, change, len(values), verdict)


def _case(one: dict[str, Any], other: dict[str, Any]) -> PairedCase:
    first, second = (diff_spans(record["reference"], record["prediction"] or "") for record in (one, other))
    return PairedCase(
        identifier=one["id"],
        place=one.get("place", ""),
        reference=one["reference"],
        errors=(one["error"], other["error"]),
        cers=(one["scores"]["cer"], other["scores"]["cer"]),
        spans=(first, second),
        images=tuple(tuple(record["images"]) for record in (one, other) if "images" in record),
    )


def shown_case(case: PairedCase) -> ShownCase:
    """A sample ready to be shown: its pictures drawn from where the results say that its images lie."""
    count = max(map(len, case.images), default=0)
    by_image = [[places[number] for places in case.images if number < len(places)] for number in range(count)]
    pictures = tuple(_picture(places, case.reference) for places in by_image[:PICTURES])
    return ShownCase(case, pictures, max(0, count - PICTURES))


def _picture(places: Sequence[ImagePlace], true_text: str) -> Picture:
    """The first that can be drawn of the places that two results give for one image, or why the first cannot."""
    drawn = []
    for place in (place for number, place in enumerate(places) if place not in places[:number]):
        try:
            drawn.append(picture(image_at(place, true_text), PICTURE_WIDTH, PICTURE_HEIGHT))
        except InputError as error:
            drawn.append(Picture(error=f"the image cannot be shown: {error}"))
        if not drawn[-1].error:
            return drawn[-1]
    return drawn[0]


def write_comparison(path: Path, comparison: Comparison, shown: int = SHOWN) -> Path:
    """Write the page with the `shown` samples that changed most in each direction; returns its path.

    A picture that cannot be drawn any more is a line that says why. Raises `ParsitError` if it cannot be written.
    """
    parts = (("Got better", comparison.better), ("Got worse", comparison.worse))
    context = {
        "title": "Two results compared",
        "comparison": comparison,
        "parts": [(title, len(cases), list(map(shown_case, cases[:shown]))) for title, cases in parts],
        "pictures_known": any(case.images for case in comparison.cases),
        "limits": {"pictures": PICTURES, "width": PICTURE_WIDTH, "height": PICTURE_HEIGHT},
    }
    return write_whole(path, render("compare.html.jinja", context))
