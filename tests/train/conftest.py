"""A small data set and a function that trains on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from parsit import hf
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.train import find_newest, train
from parsit.train.prepare import Prepared, set_free
from parsit.train.readings import sampler
from parsit.train.world import World
from parsit.types import GlyphBox, ImageRef, Sample, Turn


@pytest.fixture(scope="session")
def processor(mini):
    return hf.new_processor(mini)


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> list[Sample]:
    """Twelve small pictures of numbers with their glyph boxes, and two samples of text alone."""
    folder = tmp_path_factory.mktemp("samples")
    made = []
    for number in range(12):
        text = str(number * 37)
        image = Image.new("RGB", (40 + 8 * (number % 3), 24), "white")
        ImageDraw.Draw(image).text((2, 6), text, fill="black")
        image.save(folder / f"{number}.png")
        glyphs = tuple(GlyphBox(c, 2 + 6 * i, 6, 8 + 6 * i, 17) for i, c in enumerate(text))
        turns = (Turn("user", (ImageRef(folder / f"{number}.png", glyphs), "Read.")), Turn("assistant", (text,)))
        made.append(Sample(str(number), turns, f"d.jsonl:{number + 1}"))
    for number in (12, 13):
        made.append(
            Sample(str(number), (Turn("user", ("Say one.",)), Turn("assistant", ("one",))), f"d.jsonl:{number + 1}")
        )
    return made


@pytest.fixture
def run(mini, processor, samples):
    """Train the miniature model into a folder, from its newest checkpoint or `resume` on; keyword arguments: flags."""

    def start(
        output_dir: Path, data: list[Sample] = samples, seed: int = 0, model=None, on_step=None, read_samples=None,
        **flags,
    ):  # fmt: skip
        config = TrainConfig(
            output_dir=str(output_dir),
            **{"bf16": "false", "per_device_train_batch_size": 4, "learning_rate": 3e-3, "max_steps": 6, "seed": seed}
            | {"dataloader_num_workers": 0, "glyph_loss_weight": 0.5, "save_steps": 3, "eval_steps": 0} | flags,
        )  # fmt: skip
        output_dir.mkdir(exist_ok=True, parents=True)
        checkpoint = Path(flags["resume"]) if "resume" in flags else find_newest(output_dir, warn=print)
        if model is None:
            model = hf.load_model(checkpoint) if checkpoint else hf.new_model(mini, processor, seed)
        data_set = in_memory(data, processor, 512)
        parts = set_free(model, config)
        prepared = Prepared(config, World(), model, processor, data_set, data_set, parts, checkpoint,
                            read_samples=read_samples)  # fmt: skip
        return train(prepared, on_step) if on_step else train(prepared)

    return start


@pytest.fixture
def reading(processor, samples):
    """Reads the first two samples in mid-run."""
    return sampler(processor, in_memory(samples, processor, 512), 2)
