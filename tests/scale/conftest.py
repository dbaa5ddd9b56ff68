"""A random model and its engine, shared by the tests of piles."""

from __future__ import annotations

from pathlib import Path

import pytest
from pile_support import write_model

from parsit.scale.keys import ReadingSet, model_digest


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "mini", seed=3)


@pytest.fixture(scope="session")
def engine(model):
    from parsit.parse.engine import load_engine

    return load_engine(model, device="cpu", batch_size=4)


@pytest.fixture(scope="session")
def reading_set(model) -> ReadingSet:
    return ReadingSet("mini", model_digest(model), "Read.", "page", 6, 72.0)
