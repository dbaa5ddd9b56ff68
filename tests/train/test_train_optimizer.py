"""Groups and learning rates, on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from parsit import hf
from parsit.config import TrainConfig
from parsit.train.objective import Objective
from parsit.train.optimizer import build_optimizers, groups_of, learning_rate_factor
from parsit.train.parts import set_tunable


def factors(total, **flags):
    config = TrainConfig(**flags)
    return [learning_rate_factor(step, total, config) for step in range(total)]


def test_warm_up_rises_to_the_peak_and_cosine_falls_to_the_minimum():
    values = factors(10, warmup_steps=2, min_lr_ratio=0.1, lr_scheduler_type="cosine")
    assert values[:3] == [0.5, 1.0, 1.0]
    assert values[6] == pytest.approx(0.1 + 0.9 * 0.5)  # half-way from step 2 to step 10, which would be the next
    assert 0.1 < values[-1] < 0.15
    assert max(values) == 1.0


def test_linear_and_constant():
    assert factors(5, warmup_ratio=0.0, lr_scheduler_type="linear") == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert factors(4, warmup_ratio=0.5, lr_scheduler_type="constant") == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_the_decay_is_transformers_and_the_last_step_still_learns(kind, schedule):
    """Ours warms up from the first step on; theirs takes that one at a rate of zero."""
    total, warmup = 40, 7
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = schedule(optimizer, warmup, total).lr_lambdas[0]
    values = factors(total, warmup_steps=warmup, lr_scheduler_type=kind)
    assert values[warmup:] == pytest.approx([theirs(step) for step in range(warmup, total)])
    assert values[:warmup] == pytest.approx([theirs(step + 1) for step in range(warmup)])
    assert values[-1] > 0


def test_parts_have_their_own_rates_and_what_has_one_dimension_is_not_decayed(mini):
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    set_tunable(model, ["mm_vision_tower", "mm_mlp_adapter", "mm_language_model"])
    config = TrainConfig(learning_rate=1e-3, mm_projector_lr=2e-3, mm_vision_tower_lr=5e-4, weight_decay=0.1)
    groups = {group.name: group for group in groups_of(Objective(model, 0.0), config)}
    rates = {name.split(".")[0]: group.learning_rate for name, group in groups.items()}
    assert rates == {"vision_tower": 5e-4, "projector": 2e-3, "language_model": 1e-3}
    assert "model.image_newline" in groups["projector.no_decay"].parameters
    for name, group in groups.items():
        assert group.weight_decay == (0.0 if "no_decay" in name else 0.1)
        for parameter_name, parameter in group.parameters.items():
            assert (parameter.ndim == 1 or "position_embedding" in parameter_name) == ("no_decay" in name)
    named = [name for group in groups.values() for name in group.parameters]
    assert len(named) == len(set(named)) == len(list(model.named_parameters()))


def test_no_group_is_empty_when_one_part_alone_is_trained(mini):
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    set_tunable(model, ["mm_mlp_adapter"])
    groups = groups_of(Objective(model, 0.0), TrainConfig(optim="muon"))
    assert {group.name for group in groups} == {"projector", "projector.no_decay"}
    assert all(group.parameters for group in groups)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is trained"):
        groups_of(Objective(model, 0.0), TrainConfig())


def test_muon_gets_the_matrices_of_the_layers_and_adamw_the_rest(mini):
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    config = TrainConfig(optim="muon")
    groups = groups_of(Objective(model, 1.0), config)
    muon = {name for group in groups if group.optimizer == "muon" for name in group.parameters}
    assert "model.vision_tower.encoder.layers.0.mlp.fc1.weight" in muon
    assert "model.language_model.model.layers.1.self_attn.q_proj.weight" in muon
    assert not any("embed" in name or "head" in name or "projector" in name for name in muon)
    kinds = [type(optimizer) for optimizer in build_optimizers(groups, config, {})]
    assert kinds == [torch.optim.AdamW, torch.optim.Muon]
    plain = TrainConfig()
    assert [type(one) for one in build_optimizers(groups_of(Objective(model, 1.0), plain), plain, {})] == kinds[:1]
