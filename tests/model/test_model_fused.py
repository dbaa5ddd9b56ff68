"""Norms in few operations against transformers' own: numbers, gradients, types, and which modules they stand in for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from parsit import hf
from parsit.model.fused import NarrowingLayerNorm, RMSNorm, fuse_norms

THEIRS = {"input_layernorm": LlamaRMSNorm, "post_attention_layernorm": Qwen2RMSNorm, "q_norm": Qwen3RMSNorm}
# A rounding of bfloat16.
BF16 = 2**-7


class Layer(nn.Module):
    """The norms of a layer, with weights that are not all one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, kind in THEIRS.items():
            norm = kind(size, eps=1e-3)
            nn.init.normal_(norm.weight)
            setattr(self, name, norm)
        self.layer_norm1, self.post_layernorm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.gemma = GemmaRMSNorm(size)


def computed(norm, hidden, gradient, autocast=False):
    """Result and gradients of one norm."""
    hidden = hidden.clone().requires_grad_()
    norm.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = norm(hidden)
    result.backward(gradient.to(result.dtype))
    return result.detach(), hidden.grad, norm.weight.grad


@pytest.fixture
def layers():
    """Transformers' norms, and ours with the same weights."""
    torch.manual_seed(0)
    theirs, ours = Layer(48), Layer(48)
    ours.load_state_dict(theirs.state_dict())
    fuse_norms(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return theirs, ours


@pytest.fixture
def rows():
    """Hidden states and a gradient, `float[2, 5, 48]`; one position is nearly zero, where epsilon counts."""
    hidden, gradient = torch.randn(2, 2, 5, 48, generator=torch.Generator().manual_seed(1))
    hidden[0, 0] *= 1e-3
    return hidden * 3, gradient


@pytest.mark.parametrize("name", [*THEIRS, "layer_norm1"])
def test_in_fp32_a_norm_and_its_gradients_are_those_of_transformers(layers, rows, name):
    theirs, ours = (computed(getattr(layer, name), *rows) for layer in layers)
    assert torch.equal(ours[0], theirs[0])
    for expected, found in zip(theirs, ours, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", THEIRS)
def test_in_bfloat16_gradients_differ_by_a_rounding(layers, rows, name):
    hidden, gradient = (tensor.bfloat16() for tensor in rows)
    theirs, ours = (computed(getattr(layer.bfloat16(), name), hidden, gradient) for layer in layers)
    wide = copy.deepcopy(layers[0]).float()
    exact = computed(getattr(wide, name), hidden.float(), gradient.float())
    assert torch.equal(ours[0], theirs[0])
    for expected, found, true in zip(theirs, ours, exact, strict=True):
        assert found.dtype == expected.dtype == torch.bfloat16
        largest = true.abs().max()
        assert (found - expected).abs().max() <= 2 * BF16 * largest
        assert (found - true).abs().max() <= BF16 * largest


@pytest.mark.parametrize("name", [*THEIRS, "layer_norm1"])
def test_under_autocast_what_matrices_read_is_narrowed_once_and_the_rest_is_not(layers, rows, name):
    (expected, *their_gradients), (found, *our_gradients) = (
        computed(getattr(layer, name), *rows, autocast=True) for layer in layers
    )
    assert found.dtype == (torch.float32 if name == "q_norm" else torch.bfloat16)
    assert torch.equal(found, expected.to(found.dtype)), "what autocast would make of it for each matrix"
    for expected_gradient, gradient in zip(their_gradients, our_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - expected_gradient).abs().max() <= BF16 * expected_gradient.abs().max()


@pytest.mark.slow
def test_a_compiler_is_given_what_it_can_fuse_and_computes_the_same(layers, rows):
    norm = layers[1].input_layernorm
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    for expected, found in zip(computed(norm, *rows), _through(compiled, norm, *rows), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)


def _through(compiled, norm, hidden, gradient):
    hidden = hidden.clone().requires_grad_()
    norm.weight.grad = None
    result = compiled(hidden)
    result.backward(gradient)
    return result.detach(), hidden.grad, norm.weight.grad


def test_what_is_frozen_gets_no_gradient(layers, rows):
    norm = layers[1].input_layernorm
    norm.weight.requires_grad_(False)
    _, of_hidden, of_weight = computed(norm, *rows)
    assert of_hidden is not None
    assert of_weight is None
    norm.weight.requires_grad_(True)
    norm(rows[0]).backward(rows[1])
    assert norm.weight.grad is not None


def test_norms_of_other_families_and_other_places_stay_as_they_are(layers):
    ours = layers[1]
    assert type(ours.gemma) is GemmaRMSNorm
    assert type(ours.post_layernorm) is nn.LayerNorm
    assert type(ours.layer_norm1) is NarrowingLayerNorm


class Passes(TorchDispatchMode):
    """Counts operations whose result is as large as the row."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.count += isinstance(made, torch.Tensor) and made.numel() == self.size and "detach" not in str(func)
        return made


def test_they_take_fewer_passes_over_the_row(layers, rows):
    counts = []
    for norms in layers:
        with Passes(rows[0].numel()) as passes:
            computed(norms.input_layernorm, *rows)
        counts.append(passes.count)
    assert counts[1] < counts[0]


def test_the_model_has_them(mini):
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    layer = model.get_decoder().layers[0]
    norms = [layer.input_layernorm, layer.post_attention_layernorm, layer.self_attn.q_norm, model.get_decoder().norm]
    assert all(type(norm) is RMSNorm for norm in norms)
    assert [norm.before_matrices for norm in norms] == [True, True, False, False]
    assert type(model.vision_tower.encoder.layers[0].layer_norm1) is NarrowingLayerNorm
    assert "language_model.model.layers.0.input_layernorm.weight" in model.state_dict()
