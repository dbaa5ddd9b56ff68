"""Answers in the form of a JSON schema, by xgrammar: before each token, what may not come is ruled out.

No white space is allowed where JSON does not need it: small models would write it for ever. Special tokens are ruled
out too, except the end of the turn; xgrammar would take their names for text inside a string. Schemas are compiled in a
process of their own (`grammar_worker`), since they may come from anywhere and some never end; that costs some seconds
for the first one, and what has been compiled is kept.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from parsit.types import InputError, UsageError

WORKER_SCRIPT = Path(__file__).with_name("grammar_worker.py")
MAX_SCHEMA_CHARACTERS = 64_000
MAX_DEPTH = 64
COMPILE_S, START_S = 10.0, 120.0
MAX_MEMORY_BYTES = 8 << 30
_KEPT = 32  # grammars


class GrammarMatcher:
    """What an answer may go on with; see `Grammars.matcher`."""

    def __init__(self, matcher: Any, bitmask: torch.Tensor, banned: torch.Tensor) -> None:
        self._matcher, self._bitmask, self._banned = matcher, bitmask, banned

    def allow(self, logits_V: torch.Tensor) -> None:
        """Set the logits of tokens that may not come next to minus infinity."""
        import xgrammar

        logits_V[self._banned] = -torch.inf
        self._matcher.fill_next_token_bitmask(self._bitmask)
        xgrammar.apply_token_bitmask_inplace(logits_V, self._bitmask[0])

    def accept(self, token: int) -> None:
        """Go on behind a token that was allowed."""
        accepted = self._matcher.accept_token(token)
        assert accepted, f"token {token} was chosen and is not in the grammar"


class Grammars:
    """Compiles schemas for one tokenizer. Any thread may ask.

    Args:
        tokenizer: the model's.
        vocab_size: rows of its embeddings, more than the tokenizer has tokens.
        end: the token that ends an answer.

    Raises:
        UsageError: xgrammar is not installed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end: int) -> None:
        try:
            import xgrammar
        except ImportError as error:
            raise UsageError("answers under a schema need xgrammar: pip install 'parsit[serve]'") from error
        self._tokenizer = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocab_size, stop_token_ids=[end]
        )
        self._worker = _Worker(self._tokenizer.serialize_json())
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._vocab_size = vocab_size
        special = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
        self._banned = torch.tensor([number for number in special if number != end], dtype=torch.long)

    def matcher(self, schema: str) -> GrammarMatcher:
        """What holds one answer to a schema.

        Raises:
            InputError: the text is no JSON schema that can be followed, or it takes too long to compile.
        """
        import xgrammar

        compiled = self._grammar_of(schema)
        bitmask = xgrammar.allocate_token_bitmask(1, self._vocab_size)
        return GrammarMatcher(xgrammar.GrammarMatcher(compiled), bitmask, self._banned)

    def ebnf(self, schema: str) -> str:
        """A schema's grammar as text, for engines that compile it themselves: the same answers are possible by it.

        Raises:
            InputError: as `matcher`.
        """
        return str(self._grammar_of(schema).grammar)

    def close(self) -> None:
        """End the process that compiles; the next schema would start another one."""
        self._worker.close()

    def _grammar_of(self, schema: str) -> Any:
        check_schema(schema)
        with self._lock:
            compiled = self._compiled.get(schema) or self._compile(schema)
            self._compiled[schema] = compiled
            self._compiled.move_to_end(schema)
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def _compile(self, schema: str) -> Any:
        import xgrammar

        answer = self._worker.ask(schema)
        if "error" in answer:
            raise InputError(f"the JSON schema cannot be followed: {answer['error'][:300]}")
        return xgrammar.CompiledGrammar.deserialize_json(answer["grammar"], self._tokenizer)


def check_schema(schema: str) -> None:
    """Refuse what is no schema, before anything is started for it.

    Raises:
        InputError: no JSON, no object, too large, too deep, or it refers to something elsewhere.
    """
    if len(schema) > MAX_SCHEMA_CHARACTERS:
        raise InputError(f"the JSON schema has {len(schema):,} characters; the limit is {MAX_SCHEMA_CHARACTERS:,}")
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError('the JSON schema must be an object, such as {"type": "object", "properties": {…}}')
    _check_part(value, 0)


def _check_part(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InputError(f"the JSON schema is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InputError(f"the JSON schema refers to {reference[:80]!r}: only parts of itself, #/…, are looked up")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_part(part, depth + 1)


class _Worker:
    """The process of `grammar_worker`, started when it is needed and again after it has ended."""

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[str] | None = None

    def ask(self, schema: str) -> dict[str, str]:
        """The worker's answer to a schema. Raises `InputError` where it takes too long or dies of it."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._started()
        try:
            return _exchange(self._process, schema, COMPILE_S)
        except EOFError as error:
            self.close()
            raise InputError(f"the JSON schema cannot be compiled within {COMPILE_S:g} s: make it simpler") from error

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # -P: the script's folder holds modules of Parsit that must not hide others of their name.
            [sys.executable, "-P", str(WORKER_SCRIPT), str(MAX_MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        weakref.finalize(self, _end, process)
        try:
            _exchange(process, self._tokenizer, START_S)
        except EOFError as error:
            _end(process)
            raise InputError("the process that compiles JSON schemas does not start: is xgrammar whole?") from error
        return process


def _exchange(process: subprocess.Popen[str], text: str, timeout_s: float) -> dict[str, str]:
    """One line to the worker and its answer. Raises `EOFError` where the worker ends or is ended for its slowness."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        process.stdin.write(json.dumps(text) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except (OSError, ValueError) as error:
        raise EOFError("no answer") from error
    finally:
        timer.cancel()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
