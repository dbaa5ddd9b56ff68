"""MFU, against numbers counted another way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from parsit import hf
from parsit.model.adapters import AdapterSettings, add_adapters
from parsit.model.flops import StepFlops, step_flops
from parsit.processing.collate import collate, collate_packed
from parsit.train.adapters import set_trainable
from parsit.train.objective import Objective, StepCounts
from parsit.train.rates import StepWork, mfu, peak_flops, peak_flops_of
from parsit.types import ImageRef, Turn

ALL = ["mm_vision_tower", "mm_mlp_adapter", "mm_language_model"]


@pytest.fixture(scope="module")
def features(processor, samples):
    return [processor.encode(sample.turns) for sample in (samples[0], samples[4], samples[12])]


def test_padded_and_packed_batches_of_the_same_samples_are_the_same_work(processor, features):
    layout = processor.image_processor.layout
    lengths = [len(item.input_ids) for item in features]
    padded, packed = StepWork.of([collate(features, 0)], layout), StepWork.of([collate_packed(features, 0)], layout)
    assert padded.tokens == sum(lengths)
    assert padded.tokens_squared == sum(length**2 for length in lengths)
    assert padded.tiles == sum(len(item.pixel_values) for item in features if item.pixel_values is not None)
    assert padded.tiles_squared == sum(
        layout.plan(width, height).num_tiles ** 2 for item in features for height, width in item.image_sizes.tolist()
    )
    assert padded.labels == sum(item.num_supervised for item in features)
    assert padded == packed
    apart = StepWork.of([collate([item], 0) for item in features], layout)
    assert apart == padded
    assert StepWork.of([collate(features[:1], 0)], layout) + StepWork.of([collate(features[1:], 0)], layout) == padded


def test_the_formula_by_hand():
    per = StepFlops(per_token=10, per_token_squared=2, per_label=5, per_tile=100)
    work = StepWork(tokens=7, tokens_squared=25, labels=3, tiles=2)
    assert work.flops(per) == 70 + 50 + 15 + 200
    assert replace(work, tiles_squared=4).flops(replace(per, per_tile_squared=3)) == 335 + 12
    assert mfu(work, per, seconds=0.5, peak=1000.0, devices=2) == pytest.approx(335 / 0.5 / 2000)
    assert mfu(work, per, seconds=0.5, peak=None) is None


WAYS = {
    "everything": (ALL, None, None),
    "the projector": (["mm_mlp_adapter"], None, None),
    "the language model": (["mm_language_model"], None, None),
    "the tower's last layer": (["mm_vision_tower"], range(1, 2), None),
    "adapters and projector": (["mm_mlp_adapter"], None, {}),
    "adapters in both": (["mm_mlp_adapter"], None, {"lora_targets_vision": "all-linear"}),
    "adapters alone": ([], None, {}),
}


@pytest.mark.parametrize(("parts", "layers", "adapters"), WAYS.values(), ids=WAYS)
def test_the_work_of_a_real_step_is_what_torch_counts(mini, processor, features, parts, layers, adapters):
    model = hf.new_model(mini, processor, 0).train()
    if adapters is not None:
        add_adapters(model, AdapterSettings(lora_r=4, lora_alpha=8, lora_dropout=0.0, **adapters), 0)
    set_trainable(model, parts, layers)
    batch = collate(features[:1], 0)  # torch counts padding as well
    work = StepWork.of([batch], model.layout)
    # The plain kernel, which torch can count; it computes the half of causal attention that is masked as well.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Objective(model, 0.0)(batch, StepCounts.of([batch])).total.backward()
    per = step_flops(model)
    masked = per.per_token_squared * work.tokens_squared
    # In the first layer queries, keys and values share an input, to which no gradient passes: a step is a bit less.
    assert work.flops(per) + masked == pytest.approx(counter.get_total_flops(), rel=0.05 if parts == [] else 0.02)


@pytest.mark.parametrize("parts", [ALL, ["mm_mlp_adapter"]])
def test_images_at_native_resolution_count_their_attention_too(mini_native, parts):
    # A table of positions as small as in a real tower beside its layers: what it costs is not counted.
    architecture = replace(mini_native, vision_config=mini_native.vision_config | {"num_patches": 4})
    processor = hf.new_processor(architecture)
    model = hf.new_model(architecture, processor, 0).train()
    set_trainable(model, parts, None)
    pictures = [ImageRef(Image.new("RGB", size)) for size in ((120, 100), (40, 24))]
    batch = collate([processor.encode((Turn("user", (*pictures, "Read.")), Turn("assistant", ("None.",))))], 0)
    work = StepWork.of([batch], model.layout)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Objective(model, 0.0)(batch, StepCounts.of([batch])).total.backward()
    per = step_flops(model)
    masked = per.per_token_squared * work.tokens_squared
    assert work.flops(per) + masked == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert per.per_tile_squared * work.tiles_squared > 0.05 * work.flops(per)  # more than what may be missing


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("AMD EPYC 9R14", None),
    ],
)
def test_peaks_by_the_drivers_name(name, tera):
    assert peak_flops(name) == (None if tera is None else tera * 1e12)


def test_a_cpu_has_no_peak():
    assert peak_flops_of(torch.device("cpu")) is None
