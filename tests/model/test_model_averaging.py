"""The mean of models is that of their weights, and of models of one shape alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parsit import hf
from parsit.model.averaging import mean_of
from parsit.types import InputError


def test_a_mean_is_that_of_each_weight(mini):
    processor = hf.new_processor(mini)
    models = [hf.new_model(mini, processor, seed) for seed in range(3)]
    states = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in models]
    mean = mean_of(zip("abc", models, strict=True)).state_dict()
    for name, weight in mean.items():
        expected = sum(state[name].double() for state in states) / 3
        assert (weight - expected).abs().max() < 1e-6, name
    assert not torch.equal(mean["image_newline"], states[0]["image_newline"])


def test_models_of_other_shapes_have_no_mean(mini):
    processor = hf.new_processor(mini)
    other = replace(mini, text_config={**mini.text_config, "intermediate_size": 64})
    models = [hf.new_model(mini, processor, 0), hf.new_model(other, processor, 0)]
    with pytest.raises(InputError, match="b: has other weights than the checkpoints before it"):
        mean_of(zip("ab", models, strict=True))
