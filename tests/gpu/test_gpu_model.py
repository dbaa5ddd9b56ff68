"""The model on a GPU: losses, gradients, packed rows and generation are those of the CPU, or of the plain way."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from gpu_support import difference, exact_products, total_difference, worst_difference

from parsit import hf
from parsit.model import packed_attention
from parsit.model.head import SupervisedHead
from parsit.parse.engine import ModelEngine
from parsit.processing.collate import collate, collate_packed
from parsit.train.objective import StepCounts
from parsit.train.parts import checkpoint_activations


def gradients(model, batches, device, autocast=False):
    """The summed loss of some batches, and each parameter's gradient."""
    model.zero_grad()
    counts, total = StepCounts.of(batches), 0.0
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = model(**batch.to(device).model_inputs(), num_items_in_batch=counts.supervised).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, tolerance):
    """A loss and its gradients; of each gradient the norm of the difference counts."""
    worst, name = worst_difference(found[1], expected[1])
    print(f"loss {found[0] - expected[0]:+.2e}, worst gradient {worst:.2e} ({name})")
    assert abs(found[0] - expected[0]) < tolerance * abs(expected[0])
    assert worst < tolerance, name


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_the_cpu_s(new_model, features, device, packed):
    batches = [(collate_packed if packed else collate)(features[start : start + 4], 0) for start in (0, 4, 8)]
    results = []
    for where in (torch.device("cpu"), device):
        model = new_model().train().to(where)
        if packed:
            model.enable_packing()
        with exact_products():
            results.append(gradients(model, batches, where))
    assert_same(results[1], results[0], 1e-4)


@pytest.mark.parametrize("way", ["fp32", "bf16", "autocast"])
@pytest.mark.parametrize("kernel", ["variable length", "one call for each"])
def test_packed_rows_are_their_conversations(new_model, features, device, monkeypatch, way, kernel):
    """In half precision rounding differs: packed rows may be no farther from fp32 than single conversations are."""
    single = [collate([one], 0) for one in features]
    packed = [collate_packed(features[:5], 0), collate_packed(features[5:], 0)]
    with exact_products():
        exact = gradients(new_model().train().to(device), single, device)
        model = new_model().train().to(device, torch.bfloat16 if way == "bf16" else torch.float32)
        alone = gradients(model, single, device, way == "autocast")
        model.enable_packing()
        calls, varlen = [], packed_attention._varlen
        monkeypatch.setattr(packed_attention, "_varlen", lambda *args: calls.append(1) or varlen(*args))
        if kernel == "one call for each":
            monkeypatch.setattr(packed_attention, "_VARLEN", None)
        found = gradients(model, packed, device, way == "autocast")
    uses_kernel = device.type == "cuda" and way != "fp32" and kernel == "variable length"
    layers = model.config.text_config.num_hidden_layers
    assert len(calls) == (layers * len(packed) if uses_kernel else 0)
    if way == "fp32":
        assert_same(found, exact, 2e-5)
        return
    errors = [total_difference(gradient, exact[1]) for gradient in (found[1], alone[1])]
    print(f"from fp32: packed {errors[0]:.2e}, alone {errors[1]:.2e}")
    assert errors[0] < 1.5 * errors[1] + 1e-3
    assert abs(found[0] - exact[0]) < 0.01 * exact[0]


def test_conversations_of_a_packed_row_cannot_see_each_other(new_model, features, device):
    model = new_model().eval().to(device, torch.bfloat16)
    model.enable_packing()
    batch = collate_packed(features[:4], 0).to(device)
    with torch.no_grad():
        before = model(**batch.model_inputs(with_labels=False)).logits[0].clone()
        batch.input_ids[0, 1] = 77  # in the first conversation
        after = model(**batch.model_inputs(with_labels=False)).logits[0]
    first = int(batch.cu_seq_lens[1])
    assert not torch.equal(after[:first], before[:first])
    assert torch.equal(after[first:], before[first:])


@pytest.mark.parametrize("way", ["fp32", "bf16", "autocast"])
@pytest.mark.parametrize("kernel", ["variable length", "one call for each"])
def test_images_at_native_resolution_are_what_each_is_alone(mini_native, samples, device, monkeypatch, way, kernel):
    """The tower's row of all images, in transformers' order of operations but without its padding."""
    wide = mini_native.vision_config | {"hidden_size": 64, "intermediate_size": 128}
    architecture = replace(mini_native, vision_config=wide)
    processor = hf.new_processor(architecture)
    features = [processor.encode(sample.turns) for sample in samples if sample.turns[0].images]
    single = [collate([one], 0) for one in features]
    calls, varlen = [], packed_attention._varlen
    monkeypatch.setattr(packed_attention, "_varlen", lambda *args: calls.append(1) or varlen(*args))
    if kernel == "one call for each":
        monkeypatch.setattr(packed_attention, "_VARLEN", None)
    with exact_products():
        exact = gradients(hf.new_model(architecture, processor, 0).train(), single, torch.device("cpu"))
        model = hf.new_model(architecture, processor, 0).train()
        model = model.to(device, torch.bfloat16 if way == "bf16" else torch.float32)
        calls.clear()
        found = gradients(model, [collate(features, 0)], device, way == "autocast")
    uses_kernel = device.type == "cuda" and way != "fp32" and kernel == "variable length"
    assert len(calls) == (model.config.num_vision_layers if uses_kernel else 0)
    if way == "fp32":
        assert_same(found, exact, 1e-4)
        return
    assert abs(found[0] - exact[0]) < 0.01 * exact[0]
    assert total_difference(found[1], exact[1]) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_loss_is_a_plain_cross_entropy(device, dtype, monkeypatch):
    monkeypatch.setattr("parsit.model.head.CHUNK_BYTES", 4 * 1000 * 7)  # 7 positions
    torch.manual_seed(0)
    head = SupervisedHead(64, 1000, bias=False).to(device, dtype)
    hidden = torch.randn(40, 64, device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 1000, (40,), device=device)
    with exact_products():
        loss = head(hidden, targets=targets)
        found = torch.autograd.grad(loss, [hidden, head.weight])
        doubles = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
        plain = F.cross_entropy(doubles[0] @ doubles[1].T, targets, reduction="sum")
        expected = torch.autograd.grad(plain, doubles)
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    assert abs(loss.item() - plain.item()) < limit * plain.item()
    assert max(difference(one, other) for one, other in zip(found, expected, strict=True)) < limit


@pytest.mark.parametrize("packed", [False, True])
def test_activation_checkpointing_changes_nothing(new_model, features, device, packed):
    batches = [(collate_packed if packed else collate)(features[start : start + 6], 0) for start in (0, 6)]
    results = []
    for recomputed in (False, True):
        model = new_model().train().to(device)
        if packed:
            model.enable_packing()
        if recomputed:
            checkpoint_activations(model, None)
        results.append(gradients(model, batches, device, autocast=True))
    # The same kernels on the same numbers; what adds up in another order on a GPU is in the last bits.
    assert_same(results[1], results[0], 1e-2)


def test_generation_with_a_cache_is_generation_without(new_model, processor, samples, device):
    model = new_model().eval().to(device)
    prompts = [processor.encode(sample.turns[:-1], add_generation_prompt=True) for sample in samples[:6]]
    inputs = collate(prompts, 0, padding_side="left").to(device).model_inputs(with_labels=False)
    with exact_products():
        fast, slow = (
            model.generate(**inputs, max_new_tokens=24, do_sample=False, use_cache=use) for use in (True, False)
        )
    assert torch.equal(fast, slow)
    assert fast.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_reads_what_single_prompts_do(new_model, processor, samples, device, dtype):
    model = new_model().eval().to(device, dtype)
    prompts = [sample.turns[:-1] for sample in samples]
    with exact_products() if dtype == torch.float32 else nullcontext():
        single = ModelEngine(model, processor, batch_size=1).generate(prompts, max_new_tokens=16)
        batched = ModelEngine(model, processor, batch_size=5).generate(prompts, max_new_tokens=16)
    same = sum(one.text == other.text for one, other in zip(single, batched, strict=True))
    print(f"{same} of {len(prompts)} answers are the same")
    # Random weights: the best two tokens may be so near that half precision decides between them by the padding.
    assert same == len(prompts) if dtype == torch.float32 else same >= len(prompts) // 2


def test_bytes_become_the_same_numbers_everywhere(processor, features, device):
    batch = collate(features, processor.chat_tokens.pad)
    assert torch.equal(batch.to(device).pixel_values.cpu(), batch.pixel_values)
