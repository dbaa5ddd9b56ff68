"""The memory estimate: its activations against what autograd keeps of a real step, the rest against sums by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from parsit import hf
from parsit.config import TrainConfig
from parsit.model.adapters import AdapterSettings, add_adapters, leave_casts_to_autocast
from parsit.model.head import CHUNK_BYTES
from parsit.processing.collate import collate
from parsit.train.adamw_bf16 import halve
from parsit.train.adapters import set_trainable
from parsit.train.memory import BatchSize, Placement, estimate
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import checkpoint_activations, halvable, narrow_frozen, set_tunable
from parsit.types import InputError

ALL = ("mm_vision_tower", "mm_mlp_adapter", "mm_language_model")


@pytest.fixture(scope="module")
def batch(processor, samples):
    return collate([processor.encode(sample.turns) for sample in samples[:5]], 0)


def deeper(mini, layers, tower_layers):
    """Wider than the miniature, so that sums of squares and rotations weigh as little as in a real model."""
    text = mini.text_config | {"num_hidden_layers": layers, "hidden_size": 96, "intermediate_size": 288, "head_dim": 24}
    vision = mini.vision_config | {"num_hidden_layers": tower_layers, "hidden_size": 64, "intermediate_size": 256}
    return replace(mini, text_config=text, vision_config=vision)


def kept_and_estimated(architecture, processor, batch, parts, numbers, checkpointing):
    """Bytes that autograd keeps of a forward pass, besides weights and their copies; and the estimate's."""
    model = hf.new_model(architecture, processor, 0).train()
    set_tunable(model, parts)
    if checkpointing:
        checkpoint_activations(model, None)
    flags = TrainConfig(gradient_checkpointing=checkpointing, optim="adamw_bf16" if numbers == "halved" else "adamw")
    bf16 = numbers != "fp32"
    said = estimate(model, flags, Placement(), BatchSize.of(batch), bf16).activations
    if numbers == "halved":
        halve(halvable(model))
    return kept_by(model, batch, bf16), said


def kept_by(model, batch, bf16):
    """Bytes that autograd keeps of a forward pass, besides weights and their copies."""
    # Copies of weights are told by their shape, which no activation may have.
    assert batch.input_ids.numel() not in {size for p in model.parameters() for size in p.shape}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters()} | {
        tuple(p.T.shape) for p in model.parameters() if p.ndim == 2
    }
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        Objective(model, 0.0)(batch, StepCounts.of([batch]))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("numbers", ["fp32", "bf16", "halved"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("what", ["decoder", "tower"])
def test_what_a_layer_keeps_is_what_autograd_keeps(mini, processor, batch, numbers, checkpointing, what):
    depths = [(2, 3), (6, 3)] if what == "decoder" else [(2, 3), (2, 7)]
    (kept, said), (kept_deeper, said_deeper) = (
        kept_and_estimated(deeper(mini, *depth), processor, batch, ALL, numbers, checkpointing) for depth in depths
    )
    # transformers 4.x repeats keys and values for each query head, and keeps the copies.
    tolerance = 0.1 if int(transformers.__version__.split(".")[0]) >= 5 else 0.15
    assert said_deeper - said == pytest.approx(kept_deeper - kept, rel=tolerance)
    assert said > kept


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("dora", [False, True])
def test_what_adapters_keep_is_what_autograd_keeps(mini, processor, batch, bf16, dropout, dora):
    """A CPU's dropout keeps its mask in the numbers' type, a GPU's in a byte, which is what is estimated."""
    settings = AdapterSettings(lora_r=8, lora_alpha=16, lora_dropout=dropout, use_dora=dora)
    flags = TrainConfig(lora_enable=True, lora_dropout=dropout, use_dora=dora)
    results = []
    for depth in (2, 6):
        model = hf.new_model(deeper(mini, depth, 3), processor, 0).train()
        add_adapters(model, settings, 0)
        set_trainable(model, ["mm_mlp_adapter"])
        said = estimate(model, flags, Placement(), BatchSize.of(batch), bf16).activations
        if bf16:
            narrow_frozen(model, flags)
            leave_casts_to_autocast(model)
        results.append((kept_by(model, batch, bf16), said))
    (kept, said), (kept_deeper, said_deeper) = results
    assert said_deeper - said == pytest.approx(kept_deeper - kept, rel=0.25)


def test_a_frozen_tower_keeps_nothing(mini, processor, batch):
    kept, _ = kept_and_estimated(deeper(mini, 2, 3), processor, batch, ["mm_mlp_adapter"], "fp32", False)
    kept_deeper, _ = kept_and_estimated(deeper(mini, 2, 7), processor, batch, ["mm_mlp_adapter"], "fp32", False)
    assert kept == kept_deeper


@pytest.fixture(scope="module")
def model(mini, processor):
    return hf.new_model(mini, processor, 0)


SIZE = BatchSize(100, 4, 20)


def test_the_sums_by_hand(model):
    set_tunable(model, ALL)
    total = sum(parameter.numel() for parameter in model.parameters())
    alone = estimate(model, TrainConfig(), Placement(), SIZE, bf16=False)
    assert (alone.weights, alone.copies, alone.gradients, alone.optimizer) == (4 * total, 0, 4 * total, 8 * total)
    head = 4096 * 48
    assert alone.logits == 4 * 20 * 4096 + (4 + 4) * head
    assert estimate(model, TrainConfig(), Placement(), SIZE, bf16=True).logits == 6 * 20 * 4096 + (4 + 2 + 2) * head
    zero2 = estimate(model, TrainConfig(), Placement(4, zero=2), SIZE, bf16=True)
    assert (zero2.weights, zero2.copies) == (2 * total, total)
    assert (zero2.gradients, zero2.optimizer) == (2 * total / 4, 8 * total / 4)
    zero3 = estimate(model, TrainConfig(), Placement(4, zero=3), SIZE, bf16=True)
    assert zero3.weights == 2 * total / 4
    offloaded = Placement(1, zero=3, offload_optimizer=True, offload_weights=True)
    assert estimate(model, TrainConfig(), offloaded, SIZE, bf16=True).weights == 0
    assert estimate(model, TrainConfig(), offloaded, SIZE, bf16=True).optimizer == 0
    fsdp = estimate(model, TrainConfig(), Placement(8, fsdp=True), SIZE, bf16=False)
    assert fsdp.weights + fsdp.gradients + fsdp.optimizer == pytest.approx(16 * total / 8)
    several = TrainConfig(fsdp=True, gradient_accumulation_steps=2)
    once = estimate(model, several, Placement(8, fsdp=True), SIZE, bf16=False)
    each = estimate(model, replace(several, fsdp_sync_each_batch=True), Placement(8, fsdp=True), SIZE, bf16=False)
    assert (once.gradients, each.gradients) == (4 * total, fsdp.gradients)
    assert replace(once, gradients=0) == replace(each, gradients=0)
    assert estimate(model, TrainConfig(), Placement(2, tp=2), SIZE, bf16=False).weights < alone.weights


def test_a_chunk_of_scores_is_all_that_is_there(model):
    set_tunable(model, ["mm_mlp_adapter"])
    few, many, more = (
        estimate(model, TrainConfig(), Placement(), BatchSize(10**6, 4, labels), bf16=False).logits
        for labels in (100, 10**5, 10**6)
    )
    assert few == 4 * 100 * 4096
    assert many == more == CHUNK_BYTES


def test_halved_weights_by_hand(model):
    """10 bytes for each of them: 2 in the model, 2 beside it, 2 of gradient, 4 of moments; LayerNorms stay whole."""
    set_tunable(model, ALL)
    config = TrainConfig(optim="adamw_bf16")
    halved = estimate(model, config, Placement(), SIZE, bf16=True)
    norms = sum(p.numel() for m in model.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters())
    count = sum(parameter.numel() for parameter in model.parameters()) - norms
    assert halved.weights + halved.gradients + halved.optimizer == 10 * count + 12 * norms
    assert halved.copies == 0
    sharded = estimate(model, config, Placement(2, fsdp=True), SIZE, bf16=True)
    assert sharded.weights + sharded.gradients + sharded.optimizer == 12 * (count + norms) / 2


def test_a_frozen_base_under_adapters_takes_two_bytes(model):
    set_tunable(model, ["mm_mlp_adapter"])
    wide = estimate(model, TrainConfig(), Placement(), SIZE, bf16=True)
    narrow = estimate(model, TrainConfig(lora_enable=True), Placement(), SIZE, bf16=True)
    assert 0.5 < narrow.weights / wide.weights < 0.6
    assert narrow.activations < wide.activations


def test_the_projector_alone_needs_gradients_for_itself_alone(model):
    set_tunable(model, ["mm_mlp_adapter"])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    estimated = estimate(model, TrainConfig(), Placement(), SIZE, bf16=False)
    assert (estimated.gradients, estimated.optimizer) == (4 * trained, 8 * trained)


def test_checkpointing_of_some_layers_lies_between(model):
    set_tunable(model, ALL)
    bytes_of = [
        estimate(model, TrainConfig(**flags), Placement(), SIZE, bf16=False).activations
        for flags in (
            {"gradient_checkpointing": True},
            {"gradient_checkpointing": True, "gradient_checkpointing_layers": "0-0"},
        )
    ]
    assert bytes_of[0] < bytes_of[1]


def test_the_placement_is_read_from_the_flags(tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}))
    assert Placement.of(TrainConfig(deepspeed=str(file)), 4) == Placement(4, zero=3, offload_optimizer=True)
    assert str(Placement.of(TrainConfig(deepspeed=str(file)), 4)) == "ZeRO-3, 4 ranks, optimizer on the CPU"
    assert str(Placement.of(TrainConfig(fsdp=True), 2)) == "FSDP, 2 ranks"
    assert str(Placement.of(TrainConfig(), 1)) == "one process"
    with pytest.raises(InputError, match=r"--deepspeed nowhere\.json: no such file"):
        Placement.of(TrainConfig(deepspeed="nowhere.json"), 1)


@pytest.mark.parametrize(("numbers", "checkpointing"), [("fp32", False), ("bf16", False), ("fp32", True)])
def test_a_tower_of_native_resolution_keeps_what_is_estimated(mini_native, samples, numbers, checkpointing):
    processor = hf.new_processor(mini_native)
    batch = collate([processor.encode(sample.turns) for sample in samples[:5]], 0)
    assert BatchSize.of(batch).tiles == batch.pixels.shape[0]
    (kept, said), (kept_deeper, said_deeper) = (
        kept_and_estimated(deeper(mini_native, 2, depth), processor, batch, ALL, numbers, checkpointing)
        for depth in (3, 7)
    )
    assert said_deeper - said == pytest.approx(kept_deeper - kept, rel=0.12)
    assert said > kept
