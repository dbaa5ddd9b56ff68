"""What is trained with adapters, and what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parsit import hf
from parsit.model.adapters import AdapterSettings, adapter_parameters, add_adapters
from parsit.processing.collate import collate
from parsit.train.adapters import set_trainable
from parsit.train.parts import set_tunable

ALL_PARTS = ("mm_vision_tower", "mm_mlp_adapter", "mm_language_model")


@pytest.fixture
def new(mini, processor):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    wide = replace(mini, text_config=mini.text_config | sizes)
    return lambda: hf.new_model(wide, processor, 0)


def roots(model):
    """The parts that hold something trainable, adapters apart."""
    return {
        name.split(".")[0] + (" adapters" if ".lora_" in name else "")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize(
    ("language", "vision", "parts", "trained"),
    [
        ("all-linear", "", ALL_PARTS, {"language_model adapters", "vision_tower", "mm_projector", "image_newline"}),
        ("q_proj", "fc1", ALL_PARTS, {"language_model adapters", "vision_tower adapters", "mm_projector",
                                      "image_newline"}),
        ("q_proj", "", ("mm_language_model",), {"language_model adapters"}),
        ("q_proj", "fc1", ("mm_mlp_adapter",), {"language_model adapters", "vision_tower adapters", "mm_projector",
                                                "image_newline"}),
        ("q_proj", "fc1", (), {"language_model adapters", "vision_tower adapters"}),
    ],
)  # fmt: skip
def test_adapters_and_unadapted_parts_are_trained(new, bits, language, vision, parts, trained):
    model = new()
    settings = AdapterSettings(lora_r=2, lora_targets_language=language, lora_targets_vision=vision, bits=bits)
    plain = {report.name: report.parameters for report in set_tunable(new(), ())}
    add_adapters(model, settings, seed=0)
    reports = {report.name: report for report in set_trainable(model, parts)}
    assert roots(model) == trained
    told = {name.replace("projector", "mm_projector") for name, report in reports.items() if report.trainable}
    assert told == trained
    for name, count in plain.items():  # the base has as many weights as it had, also where they take 4 bits
        assert reports[name].parameters == count
    adapters = [report for name, report in reports.items() if name.endswith("adapters")]
    assert sum(report.parameters for report in adapters) == sum(p.numel() for p in adapter_parameters(model).values())
    assert sum(report.tensors for report in adapters) == len(adapter_parameters(model))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(report.trainable for report in reports.values()) == trainable


def test_without_adapters_it_is_set_tunable(new):
    model = new()
    assert set_trainable(model, ("mm_mlp_adapter",)) == set_tunable(new(), ("mm_mlp_adapter",))
    assert roots(model) == {"mm_projector", "image_newline"}


@pytest.mark.parametrize("bits", [16, 4])
def test_what_is_trained_moves_and_nothing_else(new, processor, samples, bits):
    model = new().train()
    add_adapters(model, AdapterSettings(lora_r=2, lora_dropout=0.0, bits=bits), seed=0)
    set_trainable(model, ("mm_mlp_adapter",))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.0)
    batch = collate([processor.encode(sample.turns) for sample in samples[:4]], processor.chat_tokens.pad)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(**batch.model_inputs()).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained.keys()
