"""Training on a GPU, with the run's own parts: optimizers, compiled layers, adapters, resuming, the memory estimate."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from gpu_support import exact_products, total_difference

from parsit import hf
from parsit.config import TrainConfig
from parsit.model.adapters import AdapterSettings, add_adapters
from parsit.processing.collate import collate, collate_packed
from parsit.train import find_newest, train
from parsit.train.adapters import set_trainable
from parsit.train.compiled import compile_layers
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import checkpoint_activations
from parsit.train.prepare import Prepared, set_free
from parsit.train.strategies.base import Strategy
from parsit.train.world import World

ADAPTERS = {
    "lora": AdapterSettings(lora_r=4, lora_alpha=8, lora_dropout=0.0),
    "dora": AdapterSettings(lora_r=4, lora_alpha=8, lora_dropout=0.0, use_dora=True),
    "qlora": AdapterSettings(lora_r=4, lora_alpha=8, lora_dropout=0.0, bits=4),
}


def flags(**more) -> TrainConfig:
    return TrainConfig(**{"output_dir": "unused", "bf16": "true", "learning_rate": 1e-3} | more)


def steps(model, batches, device, config, count):
    """The losses of some optimizer steps, each over all batches; what is trained afterwards, in fp32."""
    if config.packing:
        model.enable_packing()
    strategy = Strategy(Objective(model.train(), 0.0), config, World(device=device))
    counts, losses = StepCounts.of(batches), []
    for _ in range(count):
        shares = [strategy.backward(batch, counts, last=batch is batches[-1]) for batch in batches]
        losses.append(sum(float(share.language) for share in shares))
        strategy.update(1.0, lambda norm: None)
    weights = {f"model.{n}": p.requires_grad for n, p in model.named_parameters()}
    return losses, {name: value for name, value in strategy.state_dict().items() if weights.get(name)}


@pytest.mark.parametrize("packing", [False, True])
def test_adamw_in_ten_bytes_learns_what_adamw_does(new_model, features, device, packing):
    put = collate_packed if packing else collate
    batches = [put(features[:6], 0), put(features[6:], 0)]
    start, count = new_model(), 50 if device.type == "cuda" else 15
    results = {}
    for optim in ("adamw", "adamw_bf16"):
        results[optim] = steps(new_model().to(device), batches, device, flags(optim=optim, packing=packing), count)
    (losses, weights), (narrow_losses, narrow_weights) = results["adamw"], results["adamw_bf16"]
    away = total_difference(weights, {f"model.{n}": p for n, p in start.named_parameters() if f"model.{n}" in weights})
    apart = total_difference(narrow_weights, weights)
    print(
        f"losses {losses[0]:.3f} to {losses[-1]:.3f} and {narrow_losses[-1]:.3f}; moved {away:.2e}, apart {apart:.2e}"
    )
    assert losses[-1] < (0.5 if count == 50 else 0.9) * losses[0]
    assert narrow_losses[-1] == pytest.approx(losses[-1], rel=0.02)
    assert apart < 0.2 * away


@pytest.mark.parametrize("way", ["padded", "packed", "checkpointed", "packed and checkpointed"])
def test_compiled_layers_learn_what_plain_ones_do(new_model, features, device, way):
    if device.type != "cuda" and way != "packed and checkpointed":
        pytest.skip("tests/train/test_train_compiled.py has it for CPUs, whose compiler takes a minute")
    packing = "packed" in way
    put = collate_packed if packing else collate
    batches = [put(features[:3], 0), put(features[3:8], 0), put(features[8:], 0)]
    results = []
    for compiled in (False, True):
        model = new_model().to(device)
        if "checkpointed" in way:
            checkpoint_activations(model, None)
        if compiled:
            torch._dynamo.reset()
            compile_layers(model)
        results.append(steps(model, batches, device, flags(packing=packing), 4))
    (losses, weights), (compiled_losses, compiled_weights) = results
    print(f"losses {losses} and {compiled_losses}, weights apart {total_difference(compiled_weights, weights):.2e}")
    assert compiled_losses == pytest.approx(losses, rel=5e-3)
    assert total_difference(compiled_weights, weights) < 1e-2


def test_the_compiled_optimizer_takes_the_plain_one_s_steps(new_model, features, device):
    batches = [collate(features, 0)]
    plain, compiled = (
        steps(new_model().to(device), batches, device, flags(optim="adamw_bf16", torch_compile=compiled), 3)
        for compiled in (False, True)
    )
    assert compiled[0] == pytest.approx(plain[0], rel=5e-3)
    assert total_difference(compiled[1], plain[1]) < 1e-3


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_learn_on_the_gpu_as_on_the_cpu(architecture, processor, features, device, kind, packing):
    pytest.importorskip("peft")
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    # Rows of 64, and targets that are the same for all kinds.
    put = collate_packed if packing else collate
    batches = [put(features[:6], 0), put(features[6:], 0)]
    results = []
    for where in (torch.device("cpu"), device):
        model = hf.new_model(architecture, processor, 0)
        add_adapters(model, ADAPTERS[kind], 0)
        set_trainable(model, ("mm_mlp_adapter",))
        config = flags(bf16="false", lora_enable=True, use_dora=kind == "dora", packing=packing)
        with exact_products():
            results.append(steps(model, batches, where, config, 8))
    (expected, _), (found, weights) = results
    print(f"{kind}: {expected[0]:.4f} to {expected[-1]:.4f} on the CPU, {found[-1]:.4f} here")
    assert any(".lora_" in name for name in weights)
    assert expected[-1] < expected[0]
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_learn_in_bfloat16(architecture, processor, features, device, kind):
    pytest.importorskip("peft")
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    results = []
    for bf16 in ("false", "true"):
        model = hf.new_model(architecture, processor, 0)
        add_adapters(model, ADAPTERS[kind], 0)
        if bf16 == "true" and kind == "qlora":
            from parsit.model.quantize import set_compute_dtype

            set_compute_dtype(model, torch.bfloat16)
        set_trainable(model, ("mm_mlp_adapter",))
        config = flags(bf16=bf16, lora_enable=True, use_dora=kind == "dora")
        results.append(steps(model, [collate(features, 0)], device, config, 8)[0])
    assert results[1] == pytest.approx(results[0], rel=0.03)


@pytest.mark.parametrize("flagged", [{}, {"packing": True, "optim": "adamw_bf16"}])
def test_a_resumed_run_is_an_uninterrupted_one(architecture, processor, data, device, tmp_path, flagged):
    """To the bit, where torch is told to use deterministic kernels; without them sums may come in another order."""
    fixed = {"per_device_train_batch_size": 4, "dataloader_num_workers": 0, "save_steps": 3, "eval_steps": 0}
    if flagged.get("packing"):
        fixed |= {"per_device_train_batch_size": 1, "model_max_length": 256}

    def run(name: str, last: int) -> list[float]:
        output_dir = tmp_path / name
        output_dir.mkdir(exist_ok=True)
        config = flags(**fixed | flagged | {"output_dir": str(output_dir), "max_steps": 6, "bf16": "true"})
        checkpoint = find_newest(output_dir, warn=print)
        model = hf.load_model(checkpoint) if checkpoint else hf.new_model(architecture, processor, 0)
        longer = replace(config, max_steps=6)
        parts = set_free(model, longer)
        train(Prepared(longer, World(device=device), model, processor, data, None, parts, checkpoint))
        lines = (output_dir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole = run("whole", 6)
        part = tmp_path / "part"
        part.mkdir()
        # What a run that was stopped after step 3 leaves.
        (tmp_path / "whole" / "checkpoint-3").rename(part / "checkpoint-3")
        (part / "metrics.jsonl").write_text("".join((tmp_path / "whole" / "metrics.jsonl").open().readlines()[:3]))
        resumed = run("part", 6)
    finally:
        torch.use_deterministic_algorithms(False)
    print(f"largest difference {max(abs(a - b) for a, b in zip(whole, resumed, strict=True)):.2e}")
    assert resumed == whole


@pytest.mark.parametrize("number", [0, 1, 4, 5])
def test_the_memory_estimate_is_what_a_step_takes(device, number):
    """Layers of a real width, few of them; within 15 %. `make gpu` has a table of more cases."""
    if device.type != "cuda":
        pytest.skip("a CPU does not count what a step takes; benchmarks/memory_estimate.py does")
    from gpu_memory import CASES, run_case

    row = run_case(CASES[number], rehearse=False)
    print(f"{CASES[number].name}: estimate {row['estimate_gb']:.2f} GB, peak {row['peak_gb']:.2f} GB")
    assert row["estimate_gb"] == pytest.approx(row["peak_gb"], rel=0.15)
