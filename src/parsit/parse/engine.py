"""`ModelEngine`: prompts with images in, generations out. Knows no document and no file format.

It is an `Engine` as `parsit.parse.reader` asks for; whatever answers in the same way can stand in its place.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from parsit import hf
from parsit.files.manifest import require_sound_model
from parsit.hub import model_folder
from parsit.model import ParsitForConditionalGeneration
from parsit.model.number_format import cpu_has_bf16
from parsit.parse.answer_text import AnswerText
from parsit.parse.grammar import Grammars
from parsit.parse.reader import OnDelta
from parsit.parse.rows import Row, RowBatch
from parsit.processing.collate import collate
from parsit.processing.processor import ParsitProcessor
from parsit.types import GREEDY, Delta, Generation, InputError, Sample, Sampling, Turn, UsageError

# From this size on a CPU with bf16 units reads faster in bf16 (docs/serving.md); `tiny` does not.
BF16_PARAMETERS = 100_000_000
# Byte-level tokenizers (Radford et al. 2019) write each byte as a character that can be seen: the visible ones of
# Latin-1 as themselves, the others in their order from U+0100 on.
_VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _VISIBLE]
_BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}


class ModelEngine:
    """A model and its processor, ready to generate.

    Args:
        model: the model, on its device.
        processor: its processor.
        batch_size: conversations that are answered at a time; where one ends the next begins.
    """

    def __init__(self, model: ParsitForConditionalGeneration, processor: ParsitProcessor, batch_size: int = 8) -> None:
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self._grammars: Grammars | None = None
        self._encoding = threading.Lock()  # fast tokenizers do not let two threads in

    @property
    def read_prompt(self) -> str:
        """The prompt with which the model was trained to read."""
        return self.processor.read_prompt

    @property
    def reading_unit(self) -> str:
        """What the model was trained to read at once: `page` or `line`."""
        return self.processor.reading_unit

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model is known to be able to do; none: that is not known."""
        return self.processor.tasks

    def new_batch(self) -> RowBatch:
        """An empty batch, for whoever steps it himself."""
        return RowBatch(self.model, self.processor, self.batch_size)

    def new_row(
        self,
        turns: tuple[Turn, ...],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: Callable[[Delta], None] | None = None,
        deadline: float = math.inf,
    ) -> Row:
        """A conversation that is ready to be put into a batch; any thread may make one.

        Args:
            turns: ends with the user's turn.
            max_new_tokens: the longest answer, in tokens.
            sampling: how tokens are chosen.
            on_delta: called with every token.
            deadline: `time.monotonic()` at which the answer is stopped.

        Raises:
            InputError: an image that cannot be read, half a character in a text, or a schema that cannot be followed.
        """
        for turn in turns:
            _check_characters(turn.text)
        with self._encoding:
            features = self.processor.encode(turns, add_generation_prompt=True)
            matcher = self._grammar().matcher(sampling.schema) if sampling.schema is not None else None
        text = AnswerText(self.processor.tokenizer, sampling.stop)
        return Row(features, max_new_tokens, sampling, text, matcher, on_delta, deadline)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for: part of a character, for some."""
        word = str(self.processor.tokenizer.convert_ids_to_tokens(token) or "")
        known = _BYTE_OF
        return bytes(known[c] for c in word) if all(c in known for c in word) else word.encode()

    def close(self) -> None:
        """End the process that compiles schemas, where there is one."""
        if self._grammars is not None:
            self._grammars.close()

    def _grammar(self) -> Grammars:
        if self._grammars is None:
            size = self.model.config.text_config.vocab_size
            self._grammars = Grammars(self.processor.tokenizer, size, self.processor.chat_tokens.im_end)
        return self._grammars

    # Not inference_mode: in mid-training under FSDP2 the gathered weights are used again by the backward pass.
    @torch.no_grad()
    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
    ) -> list[Generation]:
        """One answer for each conversation.

        Args:
            conversations: each ends with the user's turn.
            max_new_tokens: the longest answer, in tokens; where the model's context ends it is `truncated` earlier.
            sampling: how tokens are chosen; greedily by default.
            on_delta: called with every token.

        Raises:
            InputError: an image that cannot be read, a prompt that fills the model's context, or a schema that cannot
                be followed.
        """
        batch = self.new_batch()
        rows: list[Row] = []
        while len(rows) < len(conversations) or not all(row.result for row in rows):
            while len(rows) < len(conversations) and len(batch.waiting) + len(batch.active) < self.batch_size:
                place = len(rows)
                listen = None if on_delta is None else _at(place, on_delta)
                row = self.new_row(
                    conversations[place], max_new_tokens=max_new_tokens, sampling=sampling, on_delta=listen
                )
                batch.add(row)
                rows.append(row)
            batch.step()
        return [row.result for row in rows if row.result]

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


def _check_characters(text: str) -> None:
    """Refuse what UTF-8 cannot say: half of a pair in JSON, or bytes of a command line that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text has half a character at {error.start} (a lone surrogate)") from error


def _at(place: int, on_delta: OnDelta) -> Callable[[Delta], None]:
    return lambda delta: on_delta(place, delta)


def _device(name: str | None) -> torch.device:
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
    target = _device(device)
    model = hf.load_model(folder)
    model = model.to(device=target, dtype=_dtype(dtype, target, model.num_parameters()))  # type: ignore[call-arg]
    return ModelEngine(model, processor, batch_size)


def _dtype(name: str, device: torch.device, num_parameters: int) -> torch.dtype:
    """The numbers of the model: as named, or what suits the device."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16  # half the memory
    return torch.bfloat16 if num_parameters >= BF16_PARAMETERS and cpu_has_bf16() else torch.float32
