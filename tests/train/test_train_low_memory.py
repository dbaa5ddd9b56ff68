"""What takes less memory changes nothing that is not said: frozen matrices in bfloat16, `--optim adamw_bf16`."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from parsit import hf
from parsit.config import TrainConfig
from parsit.model.adapters import AdapterSettings, add_adapters
from parsit.processing.collate import collate
from parsit.train.adapters import set_trainable
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import narrow_frozen, narrowable, set_tunable

BF16 = {"bf16": "true", "optim": "adamw_bf16"}


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def tensors(checkpoint):
    return load_file(checkpoint / "model.safetensors")


@pytest.fixture(scope="module")
def batch(processor, samples):
    return collate([processor.encode(sample.turns) for sample in samples[:4]], 0)


def in_bfloat16(model):
    """The language model's weights are such as come in bfloat16 from the Hub."""
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model


@pytest.mark.parametrize("lora", [False, True])
def test_narrowed_matrices_compute_the_same_to_the_bit(mini, processor, batch, lora):
    """Embeddings and norms are left out: what is narrow there makes the sums along the layers narrow."""
    results = []
    for config in (None, TrainConfig(lora_enable=lora)):
        model = in_bfloat16(hf.new_model(mini, processor, 0))
        if lora:
            add_adapters(model, AdapterSettings(lora_r=4, lora_dropout=0.0, lora_targets_vision="all-linear"), 0)
        set_trainable(model, ["mm_mlp_adapter"])
        if config is not None:
            chosen = {p for p in narrowable(model, config) if p.ndim > 1}
            for module in model.modules():
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and module.weight in chosen:
                    module.weight.data = module.weight.data.bfloat16()
            model.get_input_embeddings().weight.data = model.get_input_embeddings().weight.data.float()
        with torch.autocast("cpu", torch.bfloat16):
            loss = Objective(model.train(), 0.0)(batch, StepCounts.of([batch])).total
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss, gradients, sum(p.numel() * p.element_size() for p in model.parameters())))
    (loss, gradients, size), (narrow_loss, narrow_gradients, narrow_size) = results
    assert torch.equal(loss, narrow_loss)
    assert gradients.keys() == narrow_gradients.keys()
    assert all(torch.equal(gradients[name], narrow_gradients[name]) for name in gradients)
    assert narrow_size < 0.95 * size


def test_what_bfloat16_cannot_hold_stays_as_it_is_unless_it_is_never_saved(mini, processor):
    model = hf.new_model(mini, processor, 0)
    set_tunable(model, ["mm_mlp_adapter"])
    with torch.no_grad():
        exact = model.get_decoder().layers[0].mlp.up_proj.weight
        exact.copy_(exact.bfloat16())
    narrow_frozen(model, TrainConfig())
    narrow = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert "language_model.model.layers.0.mlp.up_proj.weight" in narrow
    assert all("norm" in name or ".bias" in name or "up_proj" in name for name in narrow), "ones and zeros fit"
    before = len(narrow)
    narrow_frozen(model, TrainConfig(lora_enable=True, use_dora=True))
    assert sum(p.dtype == torch.bfloat16 for p in model.parameters()) == before
    narrow_frozen(model, TrainConfig(lora_enable=True))
    wide = [name for name, p in model.named_parameters() if p.dtype == torch.float32]
    assert all(name.startswith(("mm_projector", "image_newline")) or "layer_norm" in name for name in wide)


def test_a_checkpoint_holds_the_frozen_weights_as_they_were(run, mini, processor, tmp_path):
    model = in_bfloat16(hf.new_model(mini, processor, 0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = run(tmp_path, model=model, bf16="true", mm_tunable_parts="mm_mlp_adapter", glyph_loss_weight=0.0)
    assert model.get_decoder().layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    saved = tensors(result.checkpoint)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    moved = [name for name, value in saved.items() if not torch.equal(value, before[name])]
    assert moved
    assert all(name.startswith(("mm_projector", "image_newline")) for name in moved)


@pytest.mark.slow
def test_split_weights_learn_as_whole_ones_do(run, tmp_path):
    run(tmp_path / "adamw", bf16="true", max_steps=40, save_steps=100)
    run(tmp_path / "split", **BF16, max_steps=40, save_steps=100)
    adamw, split = losses(tmp_path / "adamw"), losses(tmp_path / "split")
    assert adamw != split
    assert sum(split[-4:]) < 0.5 * sum(split[:4])
    assert sum(split[-4:]) == pytest.approx(sum(adamw[-4:]), rel=0.1)


def test_split_weights_are_saved_whole_and_resume_to_the_bit(run, tmp_path):
    whole = run(tmp_path / "whole", **BF16)
    saved = tensors(whole.checkpoint)
    assert {value.dtype for value in saved.values()} == {torch.float32}
    lower = [name for name, value in saved.items() if not torch.equal(value, value.bfloat16().float())]
    assert len(lower) > 0.9 * len(saved)  # beyond what the model itself held
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = run(tmp_path / "cut", **BF16)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    again = tensors(resumed.checkpoint)
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    for name in ("optimizer", "objective"):
        states = [load_file(r.checkpoint / "train_state" / f"{name}.safetensors") for r in (whole, resumed)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
