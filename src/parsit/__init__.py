"""Parsit: train, evaluate and run vision-language models that read documents.

    import parsit

    print(parsit.load().parse("report.pdf").to_markdown())  # with the model that comes in the package

    reader = parsit.load("runs/invoices")
    print(reader.ask("invoice.png", "What is the total?"))

    config = parsit.TrainConfig.from_preset("tiny/scratch", data="train.jsonl", output_dir="runs/mine")
    result = parsit.fit(config)
    print(parsit.evaluate(result.checkpoint, "test.jsonl").summary.normalized.cer)

Importing this is light: torch and transformers come with the first name that needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parsit.config import TrainConfig
    from parsit.eval import Evaluation
    from parsit.model import ParsitConfig, ParsitForConditionalGeneration
    from parsit.parse.reader import Reader
    from parsit.processing.image_processor import ParsitImageProcessor
    from parsit.processing.processor import ParsitProcessor
    from parsit.train.fit import fit
    from parsit.train.loop import TrainResult
    from parsit.types import Document, InputError, Page, ParsitError, UsageError

    __version__: str

# Where the names come from when they are first asked for. The model's come through parsit.hf, which registers them with
# the Auto classes of transformers.
_LAZY = {
    "Document": "parsit.types",
    "Evaluation": "parsit.eval",
    "InputError": "parsit.types",
    "Page": "parsit.types",
    "ParsitConfig": "parsit.hf",
    "ParsitError": "parsit.types",
    "ParsitForConditionalGeneration": "parsit.hf",
    "ParsitImageProcessor": "parsit.hf",
    "ParsitProcessor": "parsit.hf",
    "Reader": "parsit.parse.reader",
    "TrainConfig": "parsit.config",
    "TrainResult": "parsit.train.loop",
    "UsageError": "parsit.types",
    "fit": "parsit.train.fit",
}

__all__ = [
    "Document",
    "Evaluation",
    "InputError",
    "Page",
    "ParsitConfig",
    "ParsitError",
    "ParsitForConditionalGeneration",
    "ParsitImageProcessor",
    "ParsitProcessor",
    "Reader",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "__version__",
    "evaluate",
    "fit",
    "load",
]


def load(path: str | Path | None = None, device: str | None = None, batch_size: int = 8) -> Reader:
    """A reader with the model in a folder, or on the Hub.

    Args:
        path: folder of a model, or of a run (its best checkpoint); or `ORG/NAME[@REVISION]` on the Hub. None: the model
            that comes in the package, or the one that `PARSIT_MODEL` names; a line on stderr says which.
        device: `cpu`, `cuda`, …; None: the GPU where there is one.
        batch_size: pages or lines that go through the model together.

    Raises:
        InputError: no model there, or one that cannot be loaded or fetched.
        UsageError: none is named, and there is no default.
    """
    from parsit.hub import named_or_default

    name = named_or_default(path)
    from parsit.parse.engine import load_engine
    from parsit.parse.reader import Reader

    return Reader(load_engine(name, device, batch_size))


def evaluate(
    model: Reader | str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    image_folder: str | Path | None = None,
    max_new_tokens: int = 1024,
) -> Evaluation:
    """Score a model's answers on data, as `parsit eval` does.

    Args:
        model: a reader, or what `load` takes.
        data: data files of any known format; each sample ends with the true answer.
        image_folder: where the records' image paths start; None: each file's own folder.
        max_new_tokens: longest answer, in tokens.

    Returns:
        A record for each sample, and a summary: CER, WER, exact match, ANLS with their intervals. A sample that fails
        counts with every character wrong.

    Raises:
        InputError: no model there, or data that cannot be read.
    """
    from parsit.data.files import read_files
    from parsit.eval import evaluate as score

    samples = read_files([data] if isinstance(data, str | Path) else data, image_folder)
    engine = (load(model) if isinstance(model, str | Path) else model).engine
    return score(
        samples,
        lambda prompts: engine.generate(prompts, max_new_tokens=max_new_tokens),
        batch_size=engine.batch_size,
    )


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("parsit")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'parsit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
