"""`ModelEngine`: prompts with images in, generations out. Knows no document and no file format.

It is an `Engine` as `parsit.parse.reader` asks for; whatever answers in the same way can stand in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from parsit import hf
from parsit.files.manifest import require_sound_model
from parsit.hub import model_folder
from parsit.model import ParsitForConditionalGeneration
from parsit.model.number_format import cpu_has_bf16
from parsit.parse.grammar import Grammars
from parsit.parse.row_engine import RowEngine
from parsit.parse.rows import ModelRow, RowBatch
from parsit.processing.collate import collate
from parsit.processing.processor import ParsitProcessor
from parsit.types import Sample, Sampling, Turn, UsageError

# From this size on a CPU with bf16 units reads faster in bf16 (docs/serving.md); `tiny` does not.
BF16_PARAMETERS = 100_000_000


class ModelEngine(RowEngine):
    """A model and its processor, ready to generate.

    Args:
        model: the model, on its device.
        processor: its processor.
        batch_size: conversations that are answered at a time; where one ends the next begins.
    """

    def __init__(self, model: ParsitForConditionalGeneration, processor: ParsitProcessor, batch_size: int = 8) -> None:
        super().__init__(processor, batch_size)
        self.model = model.eval()
        self._grammars: Grammars | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model is known to be able to do; none: that is not known."""
        return self.processor.tasks

    def new_batch(self) -> RowBatch:
        """An empty batch, for whoever steps it himself."""
        return RowBatch(self.model, self.processor, self.batch_size)

    def _new_row(self, turns: tuple[Turn, ...], sampling: Sampling, how: dict[str, Any]) -> ModelRow:
        features = self.processor.encode(turns, add_generation_prompt=True)
        matcher = self._grammar().matcher(sampling.schema) if sampling.schema is not None else None
        return ModelRow(len(features.input_ids), **how, features=features, matcher=matcher)

    def close(self) -> None:
        """End the process that compiles schemas, where there is one."""
        if self._grammars is not None:
            self._grammars.close()

    def _grammar(self) -> Grammars:
        if self._grammars is None:
            size = self.model.config.text_config.vocab_size
            self._grammars = Grammars(self.processor.tokenizer, size, self.processor.chat_tokens.im_end)
        return self._grammars

    @torch.inference_mode()
    def nats(self, samples: Sequence[Sample]) -> list[tuple[float, int]]:
        """For each sample, the summed negative log-likelihood of its answers, and how many tokens those are.

        One sample at a time: a batch's loss is one number.

        Raises:
            InputError: an image that cannot be read.
        """
        scores = []
        for sample in samples:
            features = self.processor.encode(sample.turns)
            batch = collate([features], self.processor.chat_tokens.pad).to(self.model.device)
            loss = self.model(**batch.model_inputs(), num_items_in_batch=1).loss
            scores.append((float(loss), features.num_supervised))
        return scores


def device_named(name: str | None) -> torch.device:
    """The device of that name; by default the GPU where there is one.

    Raises:
        UsageError: no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason} (cpu always can)") from error
    return device


def load_engine(path: str | Path, device: str | None = None, batch_size: int = 8, dtype: str = "auto") -> ModelEngine:
    """The engine of a model's folder, of a run's folder (its best checkpoint), or of a model on the Hub.

    Args:
        path: the folder, or `ORG/NAME[@REVISION]`.
        device: `cpu`, `cuda`, …; None: the GPU where there is one.
        batch_size: prompts that go through the model together.
        dtype: `float32`, `bfloat16` or `auto`: bfloat16 on a GPU, and on a CPU that multiplies it for a large model.

    Raises:
        InputError: no model there, one that cannot be loaded, or files that are not what their manifest says.
        UsageError: a device that is not here.
    """
    folder = require_sound_model(model_folder(path))
    processor = hf.load_processor(folder)
    target = device_named(device)
    model = hf.load_model(folder)
    model = model.to(device=target, dtype=dtype_named(dtype, target, model.num_parameters()))  # type: ignore[call-arg]
    return ModelEngine(model, processor, batch_size)


def dtype_named(name: str, device: torch.device, num_parameters: int) -> torch.dtype:
    """The numbers of the model: as named, or what suits the device."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16  # half the memory
    return torch.bfloat16 if num_parameters >= BF16_PARAMETERS and cpu_has_bf16() else torch.float32
