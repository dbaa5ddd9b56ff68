"""Readings during training are scored against what they could hold."""

from __future__ import annotations

import pytest
import torch

from parsit import hf
from parsit.data.dataset import in_memory
from parsit.model.modeling import ParsitOutput
from parsit.train.readings import MAX_TOKENS, sampler
from parsit.types import Sample, Turn

LONG = " ".join(f"word {number}" for number in range(400))


class Perfect:
    """Gives the tokens of a text one after another, as a model that reads without a fault."""

    def __init__(self, model, ids):
        self.model, self.ids = model, iter(ids)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def eval(self):
        return self

    def forward(self, **_):
        logits = torch.zeros(1, 1, self.model.config.text_config.vocab_size)
        logits[0, 0, next(self.ids)] = 1
        return ParsitOutput(logits=logits)


@pytest.mark.parametrize("text", [LONG, "short"])
def test_a_perfect_reading_of_a_page_has_no_errors(mini, processor, text):
    sample = Sample("1", (Turn("user", ("Say it.",)), Turn("assistant", (text,))), "d.jsonl:1")
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (len(ids) > 2 * MAX_TOKENS) == (text == LONG)
    model = Perfect(hf.new_model(mini, processor, 0), [*ids, processor.chat_tokens.im_end])
    readings = sampler(processor, in_memory([sample], processor, 4096), 8)(model)
    assert (readings.cer, readings.anls) == (0, 1)
    assert text[:100] in readings.text
    wrong = Perfect(model.model, [5] * 600)
    readings = sampler(processor, in_memory([sample], processor, 4096), 8)(wrong)
    assert readings.cer > 0.5 > readings.anls
