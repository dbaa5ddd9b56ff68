"""`ModelEngine`: prompts with images in, generations out. Knows no document and no file format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from parsit import hf
from parsit.files.manifest import require_sound_model
from parsit.hub import model_folder
from parsit.model import ParsitForConditionalGeneration
from parsit.processing.collate import collate
from parsit.processing.processor import ParsitProcessor
from parsit.types import Generation, InputError, Sample, Turn, UsageError

# A text loops when its last tokens are one period, at most this long, this many times over.
MAX_PERIOD = 64
MIN_REPEATS = 4
MIN_LOOP_TOKENS = 32
_CHECK_EVERY = 8


class ModelEngine:
    """A model and its processor, ready to generate greedily.

    Args:
        model: the model, on its device.
        processor: its processor.
        batch_size: prompts that go through the model together.
    """

    def __init__(self, model: ParsitForConditionalGeneration, processor: ParsitProcessor, batch_size: int = 8) -> None:
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size

    @property
    def read_prompt(self) -> str:
        """The prompt with which the model was trained to read."""
        return self.processor.read_prompt

    @property
    def reading_unit(self) -> str:
        """What the model was trained to read at once: `page` or `line`."""
        return self.processor.reading_unit

    # Not inference_mode: in mid-training under FSDP2 the gathered weights are used again by the backward pass.
    @torch.no_grad()
    def generate(self, conversations: Sequence[tuple[Turn, ...]], *, max_new_tokens: int) -> list[Generation]:
        """One answer for each conversation, greedily.

        Args:
            conversations: each ends with the user's turn.
            max_new_tokens: the longest answer, in tokens; where the model's context ends it is `truncated` earlier.

        Raises:
            InputError: an image that cannot be read, or a prompt that fills the model's context.
        """
        generations: list[Generation] = []
        for start in range(0, len(conversations), self.batch_size):
            generations += self._generate_batch(conversations[start : start + self.batch_size], max_new_tokens)
        return generations

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

    def _generate_batch(self, conversations: Sequence[tuple[Turn, ...]], max_new_tokens: int) -> list[Generation]:
        features = [self.processor.encode(turns, add_generation_prompt=True) for turns in conversations]
        batch = collate(features, self.processor.chat_tokens.pad, padding_side="left").to(self.model.device)
        room = self._room(batch.input_ids.shape[1])
        loops = LoopCriteria(batch.input_ids.shape[1], len(features))
        ids = self.model.generate(
            **batch.model_inputs(with_labels=False),  # type: ignore[arg-type]
            max_new_tokens=min(max_new_tokens, room),
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([loops]),
        )
        answers = ids[:, batch.input_ids.shape[1] :].tolist()
        return [self._finish(answer, looping) for answer, looping in zip(answers, loops.looping, strict=True)]

    def _room(self, prompt_length: int) -> int:
        """How many tokens the model's context leaves behind a prompt. Raises `InputError` if that is none."""
        context = self.model.config.text_config.max_position_embeddings
        if prompt_length >= context:
            raise InputError(
                f"images and prompt are {prompt_length:,} tokens, the model's context has {context:,}: show fewer pages"
            )
        return context - prompt_length

    def _finish(self, answer: list[int], looping: bool) -> Generation:
        """Text and flags of one row of ids, which ends with the end of the turn or with padding, or runs on."""
        tokens = self.processor.chat_tokens
        ended = tokens.im_end in answer
        kept = answer[: answer.index(tokens.im_end)] if ended else [i for i in answer if i != tokens.pad]
        flags = () if ended else ("looping",) if looping else ("truncated",)
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True)
        return Generation(text=str(text), num_tokens=len(kept), flags=flags)


class LoopCriteria(StoppingCriteria):
    """Stops the rows of a batch that only repeat themselves.

    Args:
        prompt_length: positions of the prompt, which do not count.
        num_rows: rows of the batch.
    """

    def __init__(self, prompt_length: int, num_rows: int) -> None:
        self.prompt_length = prompt_length
        self.looping = [False] * num_rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **_: object) -> torch.Tensor:  # type: ignore[override]  (its types differ between versions)
        """`bool[B]`: which rows are to stop."""
        new = input_ids.shape[1] - self.prompt_length
        if new >= MIN_LOOP_TOKENS and new % _CHECK_EVERY == 0:
            for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
                self.looping[row] = self.looping[row] or repeats_itself(ids)
        return torch.tensor(self.looping, device=input_ids.device)


def repeats_itself(ids: Sequence[int]) -> bool:
    """Whether the end of `ids` is one period of up to `MAX_PERIOD` tokens, `MIN_REPEATS` times over."""
    for period in range(1, MAX_PERIOD + 1):
        length = max(MIN_REPEATS * period, MIN_LOOP_TOKENS)
        if length > len(ids):
            return False
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False


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


def load_engine(path: str | Path, device: str | None = None, batch_size: int = 8) -> ModelEngine:
    """The engine of a model's folder, of a run's folder (its best checkpoint), or of a model on the Hub.

    Args:
        path: the folder, or `ORG/NAME[@REVISION]`.
        device: `cpu`, `cuda`, …; None: the GPU where there is one.
        batch_size: prompts that go through the model together.

    Raises:
        InputError: no model there, one that cannot be loaded, or files that are not what their manifest says.
        UsageError: a device that is not here.
    """
    folder = require_sound_model(model_folder(path))
    processor = hf.load_processor(folder)
    target = _device(device)
    # bf16 halves the memory on a GPU; on a CPU fp32 is as fast, and repeats to the bit.
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    model = hf.load_model(folder).to(device=target, dtype=dtype)  # type: ignore[call-arg]  (a wrapper hides its types)
    return ModelEngine(model, processor, batch_size)
