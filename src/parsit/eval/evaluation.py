"""`evaluate`: every sample gets a prediction or a reason why not, and every sample counts.

A sample that fails has the worst score and stays in the denominator. When a batch fails, its
samples are predicted again one by one, so that a broken file costs itself and not its neighbours;
the price is one more attempt at the healthy ones. Only `ParsitError`s are such failures: any other
exception is a bug and stops the evaluation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parsit.eval.image_places import ImagePlace, image_places
from parsit.files import write_whole
from parsit.scores import (
    Interval,
    PageScores,
    SampleScores,
    failed_scores,
    mean_interval,
    normalize,
    ratio_interval,
    require_apted,
    score_best,
    score_page,
    tables,
)
from parsit.types import Generation, InputError, ParsitError, Sample, Turn

Predict = Callable[[Sequence[tuple[Turn, ...]]], list[Generation]]
"""Prompts (the turns before the answer) of one batch in, one `Generation` for each out, in order."""

Progress = Callable[[int, int], None]
"""Called with the number of samples done and of all samples."""

CONVENTIONS = {
    "cer": "sum of character edits / sum of reference characters",
    "cer_mean": "mean over samples of edits / reference characters",
    "wer": "sum of word edits / sum of reference words",
    "wer_mean": "mean over samples of word edits / reference words",
    "normalized_edit_distance": "mean over samples of edits / length of the longer string",
    "exact_match": "share of samples that equal their reference",
    "anls": "mean over samples of 1 - normalized edit distance, lower-cased, 0 from a distance of 0.5 on",
    "invented": "sum of the answers' words that are not on the page / sum of their words",
    "teds": "mean over samples with a table: 1 - tree edits / elements; a table too many or too few is 0",
    "teds_structure": "the same without the cells' contents",
    "reading_order": "mean over samples with two blocks or more: edits of the blocks' order / the longer order",
    "field_f1": "over all JSON references: 2 * right fields / (fields of the references + fields of the answers)",
    "anls_star": "mean over samples whose reference is JSON",
    "several_answers": "each score is the best over the accepted answers; rates take the one with the lowest CER",
    "normalized": "both texts in Unicode NFC, each run of whitespace one space, none at the ends",
    "raw": "both texts as they are",
    "empty_reference": "error 0 for an empty prediction, else 1",
    "failed": "counts as a sample with every character and word wrong: error 1, exact match and ANLS 0",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One sample's outcome. `prediction` is None and `error` holds the reason where it failed.

    `scores` are of the normalised texts, `raw_scores` of the texts as they are, each the best over the reference and
    `other_answers`; `page_scores` are those of the answer with the fewest words that it does not have. `images` says
    where its images lie (`parsit.eval.image_places`).
    """

    id: str
    place: str
    prompt: str
    reference: str
    prediction: str | None
    num_tokens: int
    flags: tuple[str, ...]
    error: str | None
    scores: SampleScores
    raw_scores: SampleScores
    page_scores: PageScores
    other_answers: tuple[str, ...] = ()
    images: tuple[ImagePlace, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """Each score over all samples with its bootstrap interval; `CONVENTIONS` says what each one is."""

    cer: Interval
    cer_mean: Interval
    wer: Interval
    wer_mean: Interval
    normalized_edit_distance: Interval
    exact_match: Interval
    anls: Interval


@dataclass(frozen=True, slots=True)
class PageSummary:
    """Scores of tables, order, fields and invented text, each None where it applies to no sample; see `PageScores`."""

    invented: Interval
    teds: Interval | None
    teds_structure: Interval | None
    reading_order: Interval | None
    field_f1: Interval | None
    anls_star: Interval | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores over all samples: `count` is all of them, `failed` those among them without a prediction."""

    count: int
    failed: int
    flags: dict[str, int]
    normalized: ScoreSummary
    raw: ScoreSummary
    page: PageSummary


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found: one record a sample, in the samples' order, and their summary."""

    records: tuple[Record, ...]
    summary: Summary
    confidence: float
    resamples: int
    seed: int

    def to_json(self, about: Mapping[str, object] | None = None) -> str:
        """The summary as JSON, with the conventions behind each score; `about` is added as it is."""
        content = {
            "about": dict(about or {}),
            "summary": asdict(self.summary),
            "interval": {
                "method": "percentile bootstrap over samples",
                "confidence": self.confidence,
                "resamples": self.resamples,
                "seed": self.seed,
            },
            "conventions": CONVENTIONS,
        }
        return json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    def write_results(self, directory: Path, about: Mapping[str, object] | None = None) -> tuple[Path, Path]:
        """Write results.json (`to_json`) and predictions.jsonl (one record a line) and return their paths.

        predictions.jsonl comes first, so that a results.json always has its predictions beside it.
        Raises `ParsitError` if a file cannot be written.
        """
        lines = [json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) + "\n" for record in self.records]
        predictions = write_whole(directory / "predictions.jsonl", "".join(lines))
        return write_whole(directory / "results.json", self.to_json(about)), predictions


def place_of(sample: Sample) -> str:
    """Where a sample came from, for messages."""
    return f"{sample.place}: sample {sample.id!r}" if sample.place else f"sample {sample.id!r}"


def prompt_and_reference(sample: Sample) -> tuple[tuple[Turn, ...], str]:
    """The turns before the last answer, and the text of that answer.

    Raises `InputError` if the sample does not end with an assistant turn that answers something.
    """
    if not sample.turns or sample.turns[-1].role != "assistant":
        last = f"ends with a {sample.turns[-1].role} turn" if sample.turns else "has no turns"
        raise InputError(f"{place_of(sample)} {last}: add the assistant turn that holds the true answer")
    if len(sample.turns) == 1:
        raise InputError(f"{place_of(sample)} has an answer but no question: add the user turn before it")
    return sample.turns[:-1], sample.turns[-1].text


def _predict_batch(predict: Predict, prompts: Sequence[tuple[Turn, ...]]) -> list[Generation | ParsitError]:
    try:
        generations = predict(prompts)
    except ParsitError as error:
        if len(prompts) == 1:
            return [error]
        return [outcome for prompt in prompts for outcome in _predict_batch(predict, [prompt])]
    assert len(generations) == len(prompts), f"{len(prompts)} prompts gave {len(generations)} predictions"
    return list(generations)


def _record(sample: Sample, outcome: Generation | ParsitError) -> Record:
    prompt, reference = prompt_and_reference(sample)
    failed = isinstance(outcome, ParsitError)
    accepted = [reference, *sample.other_answers]
    plain = [normalize(text) for text in accepted]
    return Record(
        id=sample.id,
        place=sample.place,
        prompt="\n".join(turn.text for turn in prompt),
        reference=reference,
        prediction=None if failed else outcome.text,
        num_tokens=0 if failed else outcome.num_tokens,
        flags=() if failed else outcome.flags,
        error=str(outcome) if failed else None,
        other_answers=sample.other_answers,
        scores=failed_scores(plain[0]) if failed else score_best(plain, normalize(outcome.text)),
        raw_scores=failed_scores(reference) if failed else score_best(accepted, outcome.text),
        page_scores=_page_scores(accepted, "" if failed else outcome.text),
        images=image_places(sample),
    )


def _page_scores(accepted: Sequence[str], prediction: str) -> PageScores:
    return min((score_page(answer, prediction) for answer in accepted), key=lambda scores: scores.invented_share)


def _summarize_scores(scores: Sequence[SampleScores], resamples: int, confidence: float, seed: int) -> ScoreSummary:
    def ratio(top: str, bottom: str) -> Interval:
        tops, bottoms = [getattr(s, top) for s in scores], [getattr(s, bottom) for s in scores]
        return ratio_interval(tops, bottoms, resamples=resamples, confidence=confidence, seed=seed)

    def mean(name: str) -> Interval:
        values = [getattr(s, name) for s in scores]
        return mean_interval(values, resamples=resamples, confidence=confidence, seed=seed)

    return ScoreSummary(
        cer=ratio("char_edits", "chars"),
        cer_mean=mean("cer"),
        wer=ratio("word_edits", "words"),
        wer_mean=mean("wer"),
        normalized_edit_distance=mean("normalized_edit_distance"),
        exact_match=mean("exact_match"),
        anls=mean("anls"),
    )


def _summarize_pages(scores: Sequence[PageScores], resamples: int, confidence: float, seed: int) -> PageSummary:
    how = {"resamples": resamples, "confidence": confidence, "seed": seed}

    def mean(name: str) -> Interval | None:
        values = [value for value in (getattr(one, name) for one in scores) if value is not None]
        return mean_interval(values, **how) if values else None

    fields = [one.fields for one in scores if one.fields is not None]
    twice_right, both = [2 * one.right for one in fields], [one.reference + one.prediction for one in fields]
    return PageSummary(
        invented=ratio_interval([one.invented_words for one in scores], [one.words for one in scores], **how),
        teds=mean("teds"),
        teds_structure=mean("teds_structure"),
        reading_order=mean("reading_order"),
        field_f1=ratio_interval(twice_right, both, **how) if fields else None,
        anls_star=mean("anls_star"),
    )


def evaluate(
    samples: Sequence[Sample],
    predict: Predict,
    *,
    batch_size: int,
    on_progress: Progress | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Predict every sample's last answer and score it.

    `predict` gets at most `batch_size` prompts at a time. `resamples`, `confidence` and `seed` are
    of the bootstrap intervals.

    Raises `InputError`, before anything is predicted, if there are no samples or one of them does
    not end with an assistant turn, and `UsageError` if true texts hold tables and the package `apted` is missing.
    """
    assert batch_size >= 1, batch_size
    if not samples:
        raise InputError("there is no sample to evaluate: the data set is empty")
    prompts = [prompt_and_reference(sample)[0] for sample in samples]
    if any(tables(prompt_and_reference(sample)[1]) for sample in samples):
        require_apted()
    records: list[Record] = []
    for start in range(0, len(samples), batch_size):
        outcomes = _predict_batch(predict, prompts[start : start + batch_size])
        records += map(_record, samples[start : start + batch_size], outcomes)
        if on_progress:
            on_progress(len(records), len(samples))
    summary = Summary(
        count=len(records),
        failed=sum(record.error is not None for record in records),
        flags=dict(sorted(Counter(flag for record in records for flag in record.flags).items())),
        normalized=_summarize_scores([record.scores for record in records], resamples, confidence, seed),
        raw=_summarize_scores([record.raw_scores for record in records], resamples, confidence, seed),
        page=_summarize_pages([record.page_scores for record in records], resamples, confidence, seed),
    )
    return Evaluation(tuple(records), summary, confidence, resamples, seed)
