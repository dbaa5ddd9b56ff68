"""Parsit: train, evaluate and run vision-language models that read documents.

    import parsit

    reader = parsit.load("runs/tiny")
    print(reader.parse("report.pdf").to_markdown())
    print(reader.ask("invoice.png", "What is the total?"))

Importing this is light: torch and transformers come with the first name that needs them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parsit.model import ParsitConfig, ParsitForConditionalGeneration
    from parsit.parse import Reader
    from parsit.processing.image_processor import ParsitImageProcessor
    from parsit.processing.processor import ParsitProcessor

# Names that are imported when they are first asked for, through parsit.hf, which registers them with
# the Auto classes of transformers.
_LAZY = ("ParsitConfig", "ParsitForConditionalGeneration", "ParsitImageProcessor", "ParsitProcessor")

__all__ = ["ParsitConfig", "ParsitForConditionalGeneration", "ParsitImageProcessor", "ParsitProcessor", "load"]


def load(path: str | Path, device: str | None = None, batch_size: int = 8) -> Reader:
    """A reader with the model in a folder.

    Args:
        path: folder of a model, or of a run (its best checkpoint).
        device: `cpu`, `cuda`, …; None: the GPU where there is one.
        batch_size: pages or lines that go through the model together.

    Raises:
        InputError: no model there, or one that cannot be loaded.
    """
    from parsit.parse.engine import load_engine
    from parsit.parse.reader import Reader

    return Reader(load_engine(path, device, batch_size))


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("parsit.hf"), name)
    raise AttributeError(f"module 'parsit' has no attribute {name!r}")
