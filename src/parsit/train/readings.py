"""Readings during training: a few validation samples, read with the model as it is (`--sample_steps`)."""

from __future__ import annotations

from collections.abc import Callable

from parsit.data.dataset import DataSet
from parsit.model import ParsitForConditionalGeneration
from parsit.parse.engine import ModelEngine
from parsit.processing.processor import ParsitProcessor
from parsit.scores import corpus_cer

# Reads samples with the model as it is: what it read, as text for a person, and the character error rate.
ReadSamples = Callable[[ParsitForConditionalGeneration], tuple[str, float]]

SAMPLES_READ = 8


def sampler(processor: ParsitProcessor, validation: DataSet) -> ReadSamples:
    """Reads the first validation samples that end with an answer; the character error rate of those readings."""
    first = (validation.samples[number] for number in range(min(len(validation), SAMPLES_READ)))
    samples = [sample for sample in first if sample.turns[-1].role == "assistant"]
    longest = max((len(s.turns[-1].text) for s in samples), default=0)

    def read(model: ParsitForConditionalGeneration) -> tuple[str, float]:
        engine = ModelEngine(model, processor, batch_size=SAMPLES_READ)
        # A token is a character at least; what runs on costs time and says nothing more.
        readings = engine.generate([sample.turns[:-1] for sample in samples], max_new_tokens=min(longest + 8, 256))
        truths = [sample.turns[-1].text for sample in samples]
        texts = [reading.text for reading in readings]
        lines = [
            f"{sample.id}: {truth!r} -> {text!r}" for sample, truth, text in zip(samples, truths, texts, strict=True)
        ]
        return "\n".join(lines), corpus_cer(truths, texts)

    return read
