"""`/v1/chat/completions`: one answer, whole or as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from parsit.hub import require_asking, require_reading
from parsit.serve.batcher import ServingEngine, StoppedError, Ticket
from parsit.serve.conversation import ConversationReader
from parsit.serve.errors import ServeError, body_of
from parsit.serve.limits import ServeLimits
from parsit.serve.metrics import Metrics
from parsit.serve.protocol import ChatRequest
from parsit.serve.sse import EventStream, event_of
from parsit.types import Delta, Generation, ParsitError, Sampling, TokenScore

_LOOK_EVERY_S = 0.25  # whether the client is still there
Event = Delta | Generation | Exception


class ChatService:
    """Answers chat requests.

    Args:
        engine: what answers.
        model_name: what the model is called.
        limits: what a request may take.
        reader: turns messages into turns.
        metrics: what is counted.
    """

    def __init__(
        self,
        engine: ServingEngine,
        model_name: str,
        limits: ServeLimits,
        reader: ConversationReader,
        metrics: Metrics,
    ) -> None:
        self.engine, self.model_name, self.limits = engine, model_name, limits
        self.reader, self.metrics = reader, metrics
        self._in_flight = 0
        # Decoding images and encoding prompts; two, so that one large image does not hold up everybody.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="parsit-prompts")

    async def answer(self, asked: ChatRequest, request: Request) -> Response:
        """The response to a request.

        Raises:
            ServeError: it cannot be answered, or not now.
            ParsitError: something in it cannot be read.
        """
        if asked.not_here:
            raise ServeError(400, f"{asked.not_here} is not supported here", param=asked.not_here)
        if asked.model not in ("", self.model_name):
            raise ServeError(
                404,
                f"there is no model {asked.model[:80]!r}; this server has {self.model_name!r}",
                param="model",
                code="model_not_found",
            )
        if self._in_flight >= self.engine.batch_size + self.limits.max_queue:
            raise ServeError(429, "too many answers are waiting: come again", retry_after=self._wait_s())
        exchange = _Exchange(self, asked)
        self._in_flight += 1
        try:
            await exchange.begin()
            if asked.stream:
                return EventStream(exchange.chunks(), lambda: self._close(exchange))
            return JSONResponse(await exchange.whole(request))
        finally:
            if not (asked.stream and exchange.has_begun):
                self._close(exchange)

    def _close(self, exchange: _Exchange) -> None:
        self._in_flight -= 1
        exchange.close()

    def _wait_s(self) -> int:
        """A guess at when there will be room."""
        return max(1, round(self._in_flight / max(self.engine.batch_size, 1)))


class _Exchange:
    """One request and its answer on the way."""

    def __init__(self, service: ChatService, asked: ChatRequest) -> None:
        self.service, self.asked = service, asked
        self.id, self.created, self.started = f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), time.monotonic()
        self.has_begun = False
        self._ticket: Ticket | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._scores: list[TokenScore] = []

    async def begin(self) -> None:
        """Read the messages and put the request in line."""
        loop = asyncio.get_running_loop()
        sampling = self._sampling()

        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        def submit() -> Ticket:
            engine = self.service.engine
            turns = self.service.reader.turns(self.asked.messages)
            require_reading(engine.tasks, "\n".join(turn.text for turn in turns), engine.read_prompt)
            return engine.submit(
                turns,
                max_new_tokens=self._max_tokens(),
                sampling=sampling,
                on_delta=tell,
                on_done=tell,
                deadline=self.started + self.service.limits.max_seconds,
            )

        try:
            self._ticket = await loop.run_in_executor(self.service._pool, submit)
        except StoppedError as error:
            raise ServeError(503, "the server ends") from error
        self.has_begun = True

    def close(self) -> None:
        """Let go of the answer, whether it is done or not."""
        if self._ticket:
            self._ticket.cancel()

    async def whole(self, request: Request) -> dict[str, Any]:
        """The answer as one object; given up when the client is gone."""
        while True:
            try:
                event = await asyncio.wait_for(self._next(), _LOOK_EVERY_S)
            except TimeoutError:
                if await request.is_disconnected():
                    raise ServeError(499, "the client has gone") from None
                continue
            if isinstance(event, Generation):
                choice = {"index": 0, "message": {"role": "assistant", "content": event.text, "refusal": None}}
                choice |= {"logprobs": self._logprobs(self._scores), **self._ending(event)}
                return self._object("chat.completion", [choice]) | {"usage": _usage(event)}

    async def chunks(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        wants_usage = bool(self.asked.stream_options and self.asked.stream_options.include_usage)
        empty = {"usage": None} if wants_usage else {}
        kind = "chat.completion.chunk"
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield event_of(self._object(kind, [first]) | empty)
        try:
            while True:
                event = await self._next()
                if isinstance(event, Generation):
                    break
                if event.text or self.asked.logprobs:
                    known = [event.token] if event.token.id >= 0 else []
                    choice = {"index": 0, "delta": {"content": event.text}, "finish_reason": None}
                    yield event_of(self._object(kind, [choice | {"logprobs": self._logprobs(known)}]) | empty)
        except ServeError as error:
            yield event_of(body_of(error))
            return
        last = {"index": 0, "delta": {}, "logprobs": None, **self._ending(event)}
        yield event_of(self._object(kind, [last]) | empty)
        if wants_usage:
            yield event_of(self._object(kind, []) | {"usage": _usage(event)})
        yield "data: [DONE]\n\n"

    async def _next(self) -> Delta | Generation:
        """What comes next. Raises `ServeError` where that is a failure."""
        event = await self._events.get()
        if isinstance(event, StoppedError):
            raise ServeError(503, "the server ends")
        if isinstance(event, Exception):
            raise ServeError(500, str(event) if isinstance(event, ParsitError) else "the model failed; see the log")
        metrics = self.service.metrics
        if isinstance(event, Generation):
            metrics.seconds.observe(time.monotonic() - self.started)
            metrics.tokens.labels("prompt").inc(event.num_prompt_tokens)
            metrics.tokens.labels("answer").inc(event.num_tokens)
            metrics.ends.labels(event.flags[0] if event.flags else "whole").inc()
        elif event.token.id >= 0:
            if not self._scores:
                metrics.first_token.observe(time.monotonic() - self.started)
            self._scores.append(event.token)
        return event

    def _max_tokens(self) -> int:
        asked = self.asked.max_completion_tokens or self.asked.max_tokens or self.service.limits.max_tokens
        return min(asked, self.service.limits.max_tokens)

    def _sampling(self) -> Sampling:
        stop = self.asked.stop_texts
        if len(stop) > 8 or any(not text or len(text) > 200 for text in stop):
            raise ServeError(400, "stop: at most 8 texts of 1 to 200 characters", param="stop")
        try:
            schema = self.asked.response_format.schema_text
        except (ValueError, RecursionError) as error:
            raise ServeError(400, str(error), param="response_format") from error
        if schema is not None:
            require_asking(self.service.engine.tasks, "response_format")
        return Sampling(
            temperature=self.asked.temperature,
            top_p=self.asked.top_p,
            seed=self.asked.seed,
            stop=stop,
            schema=schema,
            top_logprobs=self.asked.top_logprobs if self.asked.logprobs else 0,
        )

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.model_name,
            "choices": choices,
        }

    def _ending(self, answer: Generation) -> dict[str, Any]:
        """How the answer ended: OpenAI's word for it, and ours."""
        confidence = answer.confidence
        known = {"mean": confidence.mean, "lowest": confidence.lowest} if confidence else None
        return {
            "finish_reason": "length" if answer.flags else "stop",
            "parsit": {"flags": list(answer.flags), "confidence": known},
        }

    def _logprobs(self, scores: list[TokenScore]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        named = self._named
        return {
            "content": [
                named(score.id, score.logprob) | {"top_logprobs": [named(*one) for one in score.top]}
                for score in scores
            ],
            "refusal": None,
        }

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.service.engine.token_bytes(token)
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}


def _usage(answer: Generation) -> dict[str, int]:
    prompt, written = answer.num_prompt_tokens, answer.num_tokens
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
