"""Adapters on a Parsit model: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024), and LoRA on 4-bit weights, through PEFT.

PEFT's layers are injected into the towers, one PEFT configuration each; the model keeps its class, and there is no
`PeftModel` around it. So `forward`, `generate`, `parts` and every strategy see the model they know. Projector,
`image_newline`, `lm_head` and embeddings never get adapters: they are small, or shared, and are trained fully or not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn

from parsit.config import unknown
from parsit.model.modeling import ParsitForConditionalGeneration
from parsit.model.quantize import (
    dequantize,
    dequantized_weight,
    language_linears,
    plain_linear,
    quantize,
    quantized_names,
    replace_module,
    require_bitsandbytes,
)
from parsit.types import InputError, UsageError

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

# PEFT's name for an adapter that was given none; it is part of the parameters' names.
ADAPTER = "default"
ALL_LINEAR = "all-linear"
TOWERS = ("language_model", "vision_tower")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Which adapters a model gets, with LLaVA's names and defaults.

    Args:
        lora_r: rank of each adapter.
        lora_alpha: an adapter's output is scaled by lora_alpha / lora_r.
        lora_dropout: share of an adapter's inputs set to zero in training.
        use_dora: train each output's magnitude apart from its direction.
        lora_targets_language: layers of the language model that get one: all-linear, or names such as q_proj,v_proj;
            empty: none.
        lora_targets_vision: the same for the vision tower.
        bits: 16: the base's weights stay as they are; 4: those of the language model are quantised (QLoRA).
        double_quant: with 4 bits, quantise the scales too.
        quant_type: with 4 bits, nf4 or fp4.

    Raises:
        UsageError: a value that is out of range or contradicts another.
    """

    lora_r: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    use_dora: bool = False
    lora_targets_language: str = ALL_LINEAR
    lora_targets_vision: str = ""
    bits: int = 16
    double_quant: bool = True
    quant_type: str = "nf4"

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("lora_r", self.lora_r >= 1, "at least 1"),
            ("lora_alpha", self.lora_alpha >= 1, "at least 1"),
            ("lora_dropout", 0 <= self.lora_dropout < 1, "at least 0 and below 1"),
            ("bits", self.bits in (4, 16), "16, or 4 for QLoRA"),
            ("quant_type", self.quant_type in ("nf4", "fp4"), "nf4 or fp4"),
        ):
            if not holds:
                raise UsageError(f"--{name} is {getattr(self, name)}: it must be {wanted}")
        if not any(self.targets(tower) for tower in TOWERS):
            raise UsageError(
                "adapters without targets: name layers in --lora_targets_language or --lora_targets_vision"
            )
        if self.bits == 4 and not self.targets("language_model"):
            raise UsageError(
                "--bits 4 quantises the language model, which then learns through adapters alone: "
                "name layers in --lora_targets_language"
            )

    def targets(self, tower: str) -> list[str]:
        """The layers asked for in one of `TOWERS`; empty: it gets no adapters."""
        spec = self.lora_targets_language if tower == "language_model" else self.lora_targets_vision
        return [name.strip() for name in spec.split(",") if name.strip()]


def add_adapters(model: ParsitForConditionalGeneration, settings: AdapterSettings, seed: int) -> None:
    """Quantise what is to be quantised, and add fresh adapters; everything but the adapters is frozen.

    A fresh adapter changes nothing: the model computes what it computed before (with 4 bits: what its quantised
    weights give).

    Args:
        model: a model without adapters.
        settings: which ones.
        seed: for what is drawn; the global random numbers stay where they are.

    Raises:
        UsageError: a target that the tower does not have.
        InputError: PEFT or bitsandbytes is not installed.
    """
    targets = {tower: _resolve(model, settings, tower) for tower in TOWERS}
    if settings.bits == 4:
        quantize(model, language_linears(model), settings.double_quant, settings.quant_type)
    for tower in TOWERS:
        if targets[tower]:
            inject(model, tower, lora_config(settings, targets[tower]), seed)
    model.requires_grad_(False)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)


def lora_config(settings: AdapterSettings, targets: list[str]) -> LoraConfig:
    """PEFT's configuration of one tower's adapters.

    Raises:
        InputError: PEFT is not installed.
    """
    return require_peft().LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.use_dora,
        target_modules=targets,
    )


def require_peft() -> ModuleType:
    """PEFT, imported quietly and without the network.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes"):
        require_bitsandbytes()  # before PEFT imports it, see there
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise InputError(f"adapters need peft ({error}): pip install peft") from error


def inject(model: ParsitForConditionalGeneration, tower: str, config: LoraConfig, seed: int) -> None:
    """Put PEFT's layers into one of `TOWERS`; their weights are fp32 whatever the base's are."""
    part = model.get_submodule(tower)
    # PEFT asks the model for this, to choose its own 4-bit layer.
    part.is_loaded_in_4bit = bool(quantized_names(part))  # type: ignore[assignment]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        require_peft().inject_adapter_in_model(config, part, ADAPTER)
    del part.is_loaded_in_4bit
    part.train(part.training)  # PEFT's layers come in training mode, with their dropout on
    for parameter in adapter_parameters(part).values():
        parameter.data = parameter.data.float()


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Hand inputs to the adapters as they come, for a model that runs under autocast.

    PEFT casts each input to the adapters' fp32, and autocast casts it back for the product: two passes over memory that
    change nothing. DoRA's layers are left alone, as they also compute norms in the input's type.
    """
    for _, layer in _lora_layers(model):
        if not layer.use_dora[ADAPTER]:
            layer.cast_input_dtype_enabled = False


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is an adapter's."""
    return ".lora_" in name


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if is_adapter(name)}


def adapted_towers(model: ParsitForConditionalGeneration) -> list[str]:
    """Those of `TOWERS` that have adapters."""
    return [tower for tower in TOWERS if adapter_parameters(model.get_submodule(tower))]


@torch.no_grad()
def merge_adapters(model: ParsitForConditionalGeneration) -> ParsitForConditionalGeneration:
    """Add the adapters to the weights, in place, and return the model: an ordinary one, with ordinary names.

    4-bit weights become what they are when they are multiplied, so that the merged model computes what was trained.
    Sums are taken in fp32 and stored in the base's type.

    Raises:
        InputError: an adapter whose merged weight is not finite, by name.
    """
    for name, layer in list(_lora_layers(model)):
        base = layer.get_base_layer()
        assert isinstance(base, nn.Linear)
        weight = dequantized_weight(base)
        merged = _merged_weight(layer, weight)
        if not torch.isfinite(merged).all():
            raise InputError(f"{name}: the adapter is broken, the merged weight is not finite")
        replace_module(model, name, plain_linear(base, merged.to(weight.dtype)))
    dequantize(model)  # layers that had no adapter
    for tower in TOWERS:
        model.get_submodule(tower).__dict__.pop("peft_config", None)
    return model


def _merged_weight(layer: LoraLayer, weight: torch.Tensor) -> torch.Tensor:
    """W + s·BA; with DoRA its rows scaled to the learnt magnitudes (arXiv 2402.09353, equation 5). In fp32."""
    lora_a, lora_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    assert isinstance(lora_a, torch.Tensor)
    assert isinstance(lora_b, torch.Tensor)
    merged = weight.float() + layer.scaling[ADAPTER] * (lora_b.float() @ lora_a.float())
    if ADAPTER in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight
        assert isinstance(magnitude, torch.Tensor)
        merged *= (magnitude.float() / merged.norm(dim=1)).unsqueeze(1)
    return merged


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    if not adapter_parameters(model):
        return
    lora_layer: type[LoraLayer] = require_peft().tuners.lora.LoraLayer
    for name, module in model.named_modules():
        if isinstance(module, lora_layer):
            yield name, module


def _resolve(model: ParsitForConditionalGeneration, settings: AdapterSettings, tower: str) -> list[str]:
    """The last components of the names of the layers that get adapters."""
    asked = settings.targets(tower)
    part = model.get_decoder() if tower == "language_model" else model.vision_tower
    known = sorted({n.rpartition(".")[2] for n, module in part.named_modules() if isinstance(module, nn.Linear)})
    if asked == [ALL_LINEAR]:
        return known
    for name in asked:
        if name not in known:
            flag = "lora_targets_language" if tower == "language_model" else "lora_targets_vision"
            raise UsageError(f"--{flag}: {unknown('layer', name, [*known, ALL_LINEAR])}")
    return asked
