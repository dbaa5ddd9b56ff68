"""QLoRA's frozen base: linear layers with 4-bit weights, through bitsandbytes (Dettmers et al. 2023, arXiv 2305.14314).

The language model's linear layers are quantised, `lm_head`, embeddings, projector and vision tower never. Weights are
quantised from fp32 in blocks of 64, so that the codes do not depend on the type in which the base was loaded: export
quantises the base again and gets the weights that the adapters were trained against.

Two things that bitsandbytes 0.50 does on CPUs are kept out. Its kernel gives wrong weights where a row is no multiple
of a block (it counts blocks row by row, quantisation through the whole matrix): such layers are refused, on every
device, since what a GPU trained is merged on a CPU. And its AVX512-BF16 path is switched off: it repacks weights in
place at the first forward pass in eval mode, and computes in bf16 whatever the input's type is.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Collection
from types import ModuleType

import torch
from torch import nn

from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.types import InputError

BLOCK = 64


def require_bitsandbytes() -> ModuleType:
    """bitsandbytes, imported quietly and without the network.

    Raises:
        InputError: it is not installed.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # On some CPUs its import fetches a kernel from the Hub and runs it, where the package `kernels` is installed. It is
    # for the path that is switched off here, and nothing from outside runs (design D9).
    present = {name: module for name, module in sys.modules.items() if name == "kernels"}
    sys.modules["kernels"] = None  # type: ignore[assignment]  (what makes an import fail)
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise InputError(f"4-bit weights need bitsandbytes ({error}): pip install bitsandbytes") from error
    finally:
        del sys.modules["kernels"]
        sys.modules.update(present)


def language_linears(model: ParsitForConditionalGeneration) -> list[str]:
    """Names of the linear layers inside the language model, `lm_head` excluded, before adapters are added."""
    decoder = model.get_decoder()
    [prefix] = [name for name, module in model.named_modules() if module is decoder]
    return [f"{prefix}.{name}" for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]


def quantize(model: nn.Module, targets: Collection[str], double_quant: bool = True, quant_type: str = "nf4") -> None:
    """Give linear layers 4-bit weights, in place. They are frozen from then on.

    Args:
        model: the model, on the device on which the weights are quantised.
        targets: names of `nn.Linear` modules in it, such as `language_linears` gives.
        double_quant: quantise the blocks' scales too (0.4 bits a parameter less).
        quant_type: `nf4` or `fp4`.

    Raises:
        InputError: bitsandbytes is not installed, or a layer's rows are no multiple of a block; nothing was changed.
        ValueError: a target that is no linear layer.
    """
    bnb = require_bitsandbytes()
    linears = {name: model.get_submodule(name) for name in targets}
    for name, linear in linears.items():
        if type(linear) is not nn.Linear:
            raise ValueError(f"{name} is a {type(linear).__name__}: only nn.Linear can be quantised")
        if linear.in_features % BLOCK:
            raise InputError(f"{name} has {linear.in_features} inputs, 4-bit weights need a multiple of {BLOCK}: "
                             "train this model with --bits 16")  # fmt: skip
    for name, linear in linears.items():
        assert isinstance(linear, nn.Linear)
        bias = linear.bias is not None
        layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=bias, device="meta")
        weight = bnb.nn.Params4bit(
            linear.weight.detach().float(),
            requires_grad=False,
            compress_statistics=double_quant,
            quant_type=quant_type,
            module=layer,
        )
        layer.weight = weight.to(linear.weight.device)  # bitsandbytes quantises here
        layer.weight.quant_state.dtype = linear.weight.dtype
        layer.bias = linear.bias
        layer.support_avx512bf16_for_cpu = False
        layer.train(linear.training)
        replace_module(model, name, layer)


def dequantize(model: nn.Module) -> None:
    """Turn 4-bit layers, also those inside adapters, into plain ones with the weights that they computed with."""
    for name in quantized_names(model):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        replace_module(model, name, plain_linear(layer, dequantized_weight(layer)))


def plain_linear(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """An `nn.Linear` in the place of `layer`, with its bias and a weight of its own."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = layer.bias
    return plain.train(layer.training)


def dequantized_weight(layer: nn.Linear) -> torch.Tensor:
    """The weight that a layer computes with, in the type that the base was loaded in: `float[out, in]`."""
    if not is_quantized(layer):
        return layer.weight.detach()
    bnb = require_bitsandbytes()
    return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # type: ignore[attr-defined]


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is a layer with 4-bit weights (adapters around it do not count)."""
    return type(module).__name__ == "Linear4bit" and type(getattr(module, "weight", None)).__name__ == "Params4bit"


def quantized_names(model: nn.Module) -> list[str]:
    """Names of the layers with 4-bit weights."""
    return [name for name, module in model.named_modules() if is_quantized(module)]


def quantization(model: nn.Module) -> dict[str, str | bool] | None:
    """`double_quant` and `quant_type` of the model's 4-bit layers; None where it has none."""
    for name in quantized_names(model):
        weight = model.get_submodule(name).weight
        return {"double_quant": weight.compress_statistics, "quant_type": weight.quant_type}  # type: ignore[union-attr]
    return None


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the 4-bit layers multiply in `dtype`; without this they take the type of their first input.

    Autocast does not reach into bitsandbytes' kernels, so a run in bf16 says so here.
    """
    for name in quantized_names(model):
        layer = model.get_submodule(name)
        layer.compute_dtype, layer.compute_type_is_set = dtype, True  # type: ignore[assignment]


def num_parameters(parameter: torch.Tensor) -> int:
    """How many weights a parameter holds: a 4-bit one stores two in each byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where the one called `name` was."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
