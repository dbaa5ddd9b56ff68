"""`VllmEngine`: the rows of a batch are answered by vLLM, in a process of its own.

vLLM gets ids and pictures, never text, so that what a page or a user says cannot become structure, and its processor
makes tiles and tokens by Parsit's. It says which token comes next and how likely it was; where an answer ends, stops or
loops is decided here, for all engines alike.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsit import hf
from parsit.files.manifest import require_sound_model
from parsit.hub import model_folder
from parsit.model import ParsitConfig
from parsit.model.adapter_files import is_adapter_folder
from parsit.parse.engine import device_named, dtype_named
from parsit.parse.grammar import Grammars
from parsit.parse.row_engine import RowEngine
from parsit.parse.row_queue import Row, RowQueue
from parsit.processing.chat import encode_chat
from parsit.processing.images import load_image
from parsit.processing.processor import ParsitProcessor
from parsit.types import InputError, Sampling, TokenScore, Turn, UsageError

# What the interface was tested with; it changes from one version to the next (docs/serving.md).
VERSION = "0.32"
# Set before vLLM is imported, unless it is set already. It would report what it is used for, and write its log where
# results go; on a CPU it would take nine tenths of the memory, or refuse where they are not free: these are gigabytes
# for keys and values.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_CPU_KVCACHE_SPACE": "4",
}
# No token that is not wanted has any chance with this; vLLM takes at least -100.
_NEVER = -100.0
_MAX_TOP_LOGPROBS = 20


@dataclass(eq=False, slots=True)
class VllmRow(Row):
    """A row with what vLLM is asked.

    Args:
        prompt: ids with one placeholder for each image, and the images.
        grammar: what the answer has to follow, where it is one to a schema.
    """

    prompt: Mapping[str, Any] | None = None
    grammar: str | None = None
    request: str = ""

    def release(self) -> None:
        """Let go of the images."""
        self.prompt = None


class VllmBatch(RowQueue[VllmRow]):
    """Rows that vLLM answers.

    Args:
        engine: vLLM's `LLMEngine`.
        end: the token that ends a turn.
        special: tokens that no answer under a schema may hold.
        max_rows: rows that are written at a time.
        context: the most tokens of a prompt and its answer.
    """

    _numbers = itertools.count()

    def __init__(self, engine: Any, end: int, special: Sequence[int], max_rows: int, context: int) -> None:
        super().__init__(max_rows, context)
        self._engine, self._end, self._special = engine, end, special

    def step(self) -> list[VllmRow]:
        """What vLLM has to say next; gives the rows that are done."""
        written = self.active
        stopped = self.stop_rows()
        self._abort([row for row in written if row.result])
        for row in self.admit():
            row.request = str(next(self._numbers))
            self._engine.add_request(row.request, row.prompt, self._parameters(row))
            self.active.append(row)
        if not self.active:
            return stopped
        rows = {row.request: row for row in self.active}
        for output in self._engine.step():
            if output.request_id in rows:
                self._advance(rows[output.request_id], output)
        return stopped + self.take_done()

    def discard(self) -> None:
        """Let go of the rows that are being written; vLLM forgets them."""
        with suppress(Exception):  # a vLLM that is dead has nothing to forget; the next step says that it is
            self._abort(self.active)
        super().discard()

    def _advance(self, row: VllmRow, output: Any) -> None:
        answer = output.outputs[0]
        for token, scores in zip(answer.token_ids, answer.logprobs, strict=True):
            others = sorted(((i, score.logprob) for i, score in scores.items()), key=lambda pair: -pair[1])
            top = tuple(others[: row.sampling.top_logprobs])
            row.advance(TokenScore(token, scores[token].logprob, top), self._end)
            if row.result:
                break
        if output.finished and not row.result:
            row.finish(("truncated",))
        elif row.result and not output.finished:
            self._abort([row])

    def _abort(self, rows: Sequence[VllmRow]) -> None:
        if rows:
            self._engine.abort_request([row.request for row in rows])

    def _parameters(self, row: VllmRow) -> Any:
        from vllm.sampling_params import (  # type: ignore[import-not-found]
            RequestOutputKind,
            StructuredOutputsParams,
        )

        from vllm import SamplingParams  # type: ignore[import-not-found]

        sampling = row.sampling
        under_schema: dict[str, Any] = {}
        if row.grammar is not None:
            under_schema = {
                "structured_outputs": StructuredOutputsParams(grammar=row.grammar),
                "logit_bias": dict.fromkeys(self._special, _NEVER),
            }
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=row.max_new_tokens,
            logprobs=min(sampling.top_logprobs, _MAX_TOP_LOGPROBS),
            stop_token_ids=[self._end],
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **under_schema,
        )


class VllmEngine(RowEngine):
    """vLLM and a model's processor, ready to generate.

    Args:
        engine: vLLM's `LLMEngine`.
        processor: the model's processor.
        batch_size: conversations that are answered at a time.
        context: the most tokens of a prompt and its answer.
        vocab_size: rows of the model's embeddings.
    """

    def __init__(self, engine: Any, processor: ParsitProcessor, batch_size: int, context: int, vocab_size: int) -> None:
        super().__init__(processor, batch_size)
        self._engine, self._context, self._vocab_size = engine, context, vocab_size
        self._grammars: Grammars | None = None
        end = processor.chat_tokens.im_end
        added = processor.tokenizer.added_tokens_decoder.items()
        self._special = [number for number, token in added if token.special and number != end]

    def new_batch(self) -> VllmBatch:
        """An empty batch, for whoever steps it himself."""
        return VllmBatch(self._engine, self.processor.chat_tokens.im_end, self._special, self.batch_size, self._context)

    def close(self) -> None:
        """End vLLM's process, and the one that compiles schemas."""
        if self._grammars is not None:
            self._grammars.close()
        self._engine.engine_core.shutdown()

    def _new_row(self, turns: tuple[Turn, ...], sampling: Sampling, how: dict[str, Any]) -> VllmRow:
        processor = self.processor
        grammar = self._grammar().ebnf(sampling.schema) if sampling.schema is not None else None
        images = [load_image(image.source) for turn in turns for image in turn.images]
        ids = encode_chat(turns, [1] * len(images), processor.tokenizer, processor.chat_tokens, True).input_ids
        layout = processor.image_processor.layout
        num_tokens = len(ids) + sum(layout.num_image_tokens(*image.size) - 1 for image in images)
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if images:
            prompt["multi_modal_data"] = {"image": images}
        return VllmRow(num_tokens, **how, prompt=prompt, grammar=grammar)

    def _grammar(self) -> Grammars:
        """Schemas are compiled as for our own engine: one that never ends is ended, and the same answers are possible.

        vLLM by itself leaves out the spaces behind `:` and `,`, with which most models learn JSON.
        """
        if self._grammars is None:
            self._grammars = Grammars(self.processor.tokenizer, self._vocab_size, self.processor.chat_tokens.im_end)
        return self._grammars


def load_vllm_engine(path: str | Path, batch_size: int = 8, dtype: str = "auto", **options: Any) -> VllmEngine:
    """The engine of a model's folder, of a run's folder (its best checkpoint), or of a model on the Hub, run by vLLM.

    Args:
        path: the folder, or `ORG/NAME[@REVISION]`.
        batch_size: prompts that go through the model together.
        dtype: as for `load_engine`.
        options: vLLM's own, such as `tensor_parallel_size`; they win over the ones that are set here.

    Raises:
        InputError: no model there, one that vLLM cannot run, or files that are not what their manifest says.
        UsageError: vLLM is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM  # type: ignore[import-not-found]
    except ImportError as error:
        raise UsageError("--engine vllm needs vLLM: pip install 'parsit[vllm]' (docs/serving.md)") from error
    folder = require_sound_model(model_folder(path))
    if is_adapter_folder(folder):
        raise InputError(f"{path}: holds adapters, which vLLM is not given: merge them first with `parsit export`")
    processor = hf.load_processor(folder)
    config = ParsitConfig.from_pretrained(folder)
    numbers = dtype_named(dtype, device_named(None), hf.meta_model(config).num_parameters())
    context = config.text_config.max_position_embeddings
    chosen: dict[str, Any] = {
        "dtype": str(numbers).removeprefix("torch."),  # vLLM would narrow fp32
        "max_model_len": context,
        "max_num_seqs": batch_size,
        "max_logprobs": _MAX_TOP_LOGPROBS,
        "generation_config": "vllm",  # the model's own would change how tokens are chosen
        # As vLLM's recipes for document models: pages are seen once.
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 0,
        "structured_outputs_config": {"backend": "xgrammar"},
        "disable_log_stats": True,
    }
    try:
        llm = LLM(model=str(folder), **(chosen | options))
    except Exception as error:  # vLLM's own errors have no class in common
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: vLLM cannot run the model: {reason or type(error).__name__}") from error
    return VllmEngine(llm.llm_engine, processor, batch_size, context, config.text_config.vocab_size)
