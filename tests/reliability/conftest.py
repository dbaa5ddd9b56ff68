"""A miniature model, data for it, and a run that has made a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from dist_support import make_data, make_start

from parsit.config import TrainConfig


@pytest.fixture(scope="session")
def start(tmp_path_factory, mini) -> Path:
    """A folder with data and the model that runs begin with."""
    folder = tmp_path_factory.mktemp("start")
    make_data(folder)
    make_start(folder, mini)
    return folder


@pytest.fixture(scope="session")
def config(start):
    """The configuration of a run in a folder; keyword arguments are flags."""

    def of(output_dir: Path, **flags) -> TrainConfig:
        base = {"bf16": "false", "dataloader_num_workers": 0, "eval_steps": 0, "output_dir": str(output_dir)}
        base |= {"data": [str(start / "d.jsonl")], "model_name_or_path": str(start / "start"), "max_steps": 9}
        base |= {"per_device_train_batch_size": 4, "learning_rate": 3e-3, "save_steps": 3, "logging_steps": 100}
        return TrainConfig(**base | flags)

    return of
