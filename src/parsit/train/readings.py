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
# The longest reading in tokens: a few lines show how it goes, and whole pages would hold up the training.
MAX_TOKENS = 256


def sampler(processor: ParsitProcessor, validation: DataSet) -> ReadSamples:
    """Reads the first validation samples that end with an answer; the character error rate of those readings.

    Readings end after `MAX_TOKENS`, and so do the answers that they are held against.
    """
    first = (validation.samples[number] for number in range(min(len(validation), SAMPLES_READ)))
    samples = [sample for sample in first if sample.turns[-1].role == "assistant"]
    truths = [_beginning(sample.turns[-1].text, processor) for sample in samples]
    # A token is a character at least; what runs on costs time and says nothing more.
    limit = min(max((len(truth) for truth in truths), default=0) + 8, MAX_TOKENS)

    def read(model: ParsitForConditionalGeneration) -> tuple[str, float]:
        engine = ModelEngine(model, processor, batch_size=SAMPLES_READ)
        readings = engine.generate([sample.turns[:-1] for sample in samples], max_new_tokens=limit)
        texts = [reading.text for reading in readings]
        lines = [
            f"{sample.id}: {truth!r} -> {text!r}" for sample, truth, text in zip(samples, truths, texts, strict=True)
        ]
        return "\n".join(lines), corpus_cer(truths, texts)

    return read


def _beginning(text: str, processor: ParsitProcessor) -> str:
    """What a reading of `MAX_TOKENS` can hold of a text."""
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= MAX_TOKENS else str(processor.tokenizer.decode(ids[:MAX_TOKENS]))
