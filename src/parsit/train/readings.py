"""Readings during training: some validation samples, read with the model as it is (`--sample_steps`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parsit.data.dataset import DataSet
from parsit.model import ParsitForConditionalGeneration
from parsit.parse.engine import ModelEngine
from parsit.processing.processor import ParsitProcessor
from parsit.scores import anls, corpus_cer
from parsit.types import Sample

# Samples that are read at once.
_TOGETHER = 8
# The longest reading in tokens: a few lines show how it goes, and whole pages would hold up the training.
MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Readings:
    """What a model read: `text` for a person, and the scores over all samples, CER by characters, ANLS by samples."""

    text: str
    cer: float
    anls: float


@dataclass(frozen=True, slots=True)
class ReadSamples:
    """Reads samples with the model as it is; `truths` are the answers of `samples`, which are cut before them."""

    processor: ParsitProcessor
    samples: Sequence[Sample]
    truths: Sequence[str]

    def __call__(self, model: ParsitForConditionalGeneration) -> Readings:
        """What the model makes of them now."""
        # A token is a character at least; what runs on costs time and says nothing more.
        limit = min(max((len(truth) for truth in self.truths), default=0) + 8, MAX_TOKENS)
        engine = ModelEngine(model, self.processor, batch_size=_TOGETHER)
        readings = engine.generate([sample.turns[:-1] for sample in self.samples], max_new_tokens=limit)
        texts = [reading.text for reading in readings]
        pairs = list(zip(self.truths, texts, strict=True))
        lines = [f"{s.id}: {truth!r} -> {text!r}" for s, (truth, text) in zip(self.samples, pairs, strict=True)]
        mean_anls = sum(anls(truth, text) for truth, text in pairs) / max(len(pairs), 1)
        return Readings("\n".join(lines), corpus_cer(self.truths, texts), mean_anls)


def sampler(processor: ParsitProcessor, validation: DataSet, count: int) -> ReadSamples:
    """Reads those of the first `count` validation samples that end with an answer.

    Readings end after `MAX_TOKENS`, and so do the answers that they are held against.
    """
    first = (validation.samples[number] for number in range(min(len(validation), count)))
    samples = [sample for sample in first if sample.turns[-1].role == "assistant"]
    return ReadSamples(processor, samples, [_beginning(sample.turns[-1].text, processor) for sample in samples])


def _beginning(text: str, processor: ParsitProcessor) -> str:
    """What a reading of `MAX_TOKENS` can hold of a text."""
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= MAX_TOKENS else str(processor.tokenizer.decode(ids[:MAX_TOKENS]))
