"""What the GPU's tests share: the device, a miniature whose heads its kernels take, conversations and batches.

`pytest -m gpu` needs a GPU. `PARSIT_REHEARSAL=1` runs the same tests on a CPU, so that nothing but the device is new
where there is one: what only a GPU has (its kernels, its memory) is then not asked for.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from parsit import hf
from parsit.data.dataset import DataSet, in_memory
from parsit.types import ImageRef, Sample, Turn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # whose steps are measured here too

ANSWERS = ("12", "Total: 4,217.90", "yes", "a longer answer than that of the others, in many words", "7", "the end")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if os.environ.get("PARSIT_REHEARSAL") != "1":
        pytest.fail("no GPU is visible; PARSIT_REHEARSAL=1 runs these tests on a CPU")
    return torch.device("cpu")


@pytest.fixture(scope="session")
def architecture(mini):
    """Flash kernels take heads of a multiple of 8 numbers, 4-bit weights rows of a multiple of 64."""
    text = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    vision = {"hidden_size": 64, "intermediate_size": 128}
    return replace(mini, text_config=mini.text_config | text, vision_config=mini.vision_config | vision)


@pytest.fixture(scope="session")
def processor(architecture):
    return hf.new_processor(architecture)


def page(number: int) -> Image.Image:
    image = Image.new("RGB", (40 + 30 * (number % 3), 24 + 20 * (number % 2)), "white")
    ImageDraw.Draw(image).text((2, 6), str(number * 37), fill="black")
    return image


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """No image, one, two; lengths that differ."""
    made = []
    for number in range(12):
        images = [ImageRef(page(number + i)) for i in range(number % 3)]
        answer = ANSWERS[number % len(ANSWERS)]
        turns = (Turn("user", (*images, f"What is number {number}?")), Turn("assistant", (answer,)))
        made.append(Sample(str(number), turns, f"page {number}"))
    return made


@pytest.fixture(scope="session")
def features(processor, samples):
    return [processor.encode(sample.turns) for sample in samples]


@pytest.fixture(scope="session")
def data(processor, samples) -> DataSet:
    return in_memory(samples, processor, 512)


@pytest.fixture
def new_model(architecture, processor):
    """A model with random weights, on the CPU; the same for the same seed."""
    return lambda seed=0: hf.new_model(architecture, processor, seed)
