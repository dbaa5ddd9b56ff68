"""`HttpEngine`: the model is elsewhere, behind OpenAI's chat interface: `parsit serve`, vLLM's server, or another.

Images go as PNG, so that the model there sees the pixels that it would see here; what is asked for by name (temperature
0, a seed, log-probabilities) is what Parsit's own engines do. What only the model's folder knows, how it was trained to
read, `parsit serve` tells; of other servers it has to be said.
"""

from __future__ import annotations

import base64
import io
import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from typing import Any

from parsit.parse.reader import OnDelta
from parsit.parse.row_queue import repeats_itself
from parsit.processing.images import load_image
from parsit.types import (
    GREEDY,
    Confidence,
    Delta,
    Generation,
    ImageRef,
    InputError,
    ParsitError,
    Sampling,
    TokenScore,
    Turn,
    UsageError,
)

_ANSWER_S, _LOOK_S = 900.0, 30.0
_CHAT = "/v1/chat/completions"
_TRIES, _MOST_WAIT_S = 5, 30.0  # where a server has no room for the moment


class HttpEngine:
    """A model at an address.

    Args:
        address: `http://HOST:PORT`, with or without `/v1`.
        model: what the server calls the model; None: the only one that it has.
        token: what the server wants to be shown, if it does.
        batch_size: answers that are asked for at a time.

    Raises:
        InputError: nobody answers there in this way, or there is no such model.
    """

    def __init__(self, address: str, model: str | None = None, token: str | None = None, batch_size: int = 8) -> None:
        self.address = address.rstrip("/").removesuffix("/v1")
        self.batch_size = batch_size
        self._token = token
        self.model, self._about = self._find(model)

    @property
    def read_prompt(self) -> str:
        """What to say, after the image, to have it read. Raises `UsageError` where the server does not tell."""
        return self._told("read_prompt", "--prompt")

    @property
    def reading_unit(self) -> str:
        """`page` or `line`. Raises `UsageError` where the server does not tell."""
        return self._told("reading_unit", "--split")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Nothing is known here: the server refuses what its model cannot do."""
        return ()

    def generate(
        self,
        conversations: Sequence[tuple[Turn, ...]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_delta: OnDelta | None = None,
    ) -> list[Generation]:
        """One answer for each conversation, as `parsit.parse.reader.Engine` says; `batch_size` are asked at a time.

        Raises:
            InputError: an image that cannot be read, or what the server refuses.
            ParsitError: the server fails, or stays silent.
        """
        telling = threading.Lock()  # whoever listens hears one at a time, as from the other engines

        def ask(place: int) -> Generation:
            body = self._request(conversations[place], max_new_tokens, sampling)

            def tell(delta: Delta) -> None:
                with telling:
                    if on_delta is not None:
                        on_delta(place, delta)

            try:
                answer = self._json(_CHAT, body) if on_delta is None else self._streamed(body, tell)
                return _generation(answer)
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise ParsitError(f"{self.address}: the answer is not as OpenAI's are ({error!r})") from error
            except (OSError, ValueError, HTTPException) as error:
                raise ParsitError(f"{self.address}: the answer broke off ({error!r})") from error

        with ThreadPoolExecutor(self.batch_size) as pool:
            return list(pool.map(ask, range(len(conversations))))

    def close(self) -> None:
        """Nothing is held here."""

    def _request(self, turns: tuple[Turn, ...], max_new_tokens: int, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [_message(turn) for turn in turns],
            "max_tokens": max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "logprobs": True,
            "top_logprobs": sampling.top_logprobs,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.schema is not None:
            schema = {"name": "answer", "schema": json.loads(sampling.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _streamed(self, body: dict[str, Any], tell: Callable[[Delta], None]) -> dict[str, Any]:
        """The answer as it would be in one piece, told piece by piece."""
        parts: list[str] = []
        scores: list[Any] = []
        whole: dict[str, Any] = {"choices": [{}], "usage": None}
        asked = body | {"stream": True, "stream_options": {"include_usage": True}}
        with closing(self._open(_CHAT, asked)) as answer:
            for chunk in _events(answer):
                if "error" in chunk:
                    raise ParsitError(f"{self.address}: {_message_of(chunk)}")
                whole["usage"] = chunk.get("usage") or whole["usage"]
                for choice in chunk.get("choices", ()):
                    text = choice.get("delta", {}).get("content") or ""
                    new = (choice.get("logprobs") or {}).get("content") or []
                    parts.append(text)
                    scores += new
                    if text:
                        tell(Delta(text, TokenScore(-1, new[-1]["logprob"] if new else 0.0)))
                    if choice.get("finish_reason"):
                        whole["choices"] = [choice]
        if not whole["choices"][0]:
            raise ParsitError(f"{self.address}: the answer broke off (it has no end)")
        end = whole["choices"][0] | {"message": {"content": "".join(parts)}, "logprobs": {"content": scores}}
        return whole | {"choices": [end]}

    def _find(self, wanted: str | None) -> tuple[str, Mapping[str, Any]]:
        """The name of the model at the server, and what it says of it."""
        found = self._json("/v1/models").get("data")
        models = {str(one["id"]): one for one in found or () if isinstance(one, dict) and "id" in one}
        if not models:
            raise InputError(f"{self.address}: no OpenAI interface there: /v1/models names no model")
        if wanted is None and len(models) > 1:
            raise UsageError(f"{self.address} has several models: say --model {' or '.join(models)}")
        name = next(iter(models)) if wanted is None else wanted
        if name not in models:
            raise InputError(f"{self.address}: there is no model {name!r}; it has {', '.join(models)}")
        return name, models[name]

    def _told(self, name: str, flag: str) -> str:
        about = self._about.get("parsit")
        if not isinstance(about, dict) or name not in about:
            raise UsageError(f"{self.address} does not say how its model was trained to read: give {flag}")
        return str(about[name])

    def _json(self, path: str, body: Any = None) -> dict[str, Any]:
        with closing(self._open(path, body)) as answer:
            try:
                value = json.loads(answer.read())
            except (ValueError, OSError, HTTPException) as error:
                raise ParsitError(f"{self.address}{path}: the answer is not JSON") from error
        if not isinstance(value, dict):
            raise ParsitError(f"{self.address}{path}: the answer is not a JSON object")
        return value

    def _open(self, path: str, body: Any = None) -> Any:
        """The server's answer, once it has room."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, _TRIES + 1):
            request = urllib.request.Request(self.address + path, data, headers)
            try:
                return urllib.request.urlopen(request, timeout=_LOOK_S if body is None else _ANSWER_S)
            except urllib.error.HTTPError as error:
                with error:
                    said, wait = error.read(10_000), error.headers.get("Retry-After", "1")
                if error.code == 429 and attempt < _TRIES:
                    time.sleep(min(float(wait) if wait.isdigit() else 1.0, _MOST_WAIT_S))
                    continue
                kind = InputError if 400 <= error.code < 500 else ParsitError
                raise kind(f"{self.address} answers {error.code}: {_message_of(said)}") from error
            except (OSError, ValueError, HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                raise InputError(f"{self.address} cannot be reached: {reason}") from error
        raise AssertionError("the last try returns or raises")


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as OpenAI writes it."""
    if all(isinstance(part, str) for part in turn.parts):
        return {"role": turn.role, "content": turn.text}
    parts = [_image(part) if isinstance(part, ImageRef) else {"type": "text", "text": part} for part in turn.parts]
    return {"role": turn.role, "content": parts}


def _image(image: ImageRef) -> dict[str, Any]:
    buffer = io.BytesIO()
    load_image(image.source).save(buffer, format="PNG", compress_level=1)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    """The objects of a stream of server-sent events."""
    for line in answer:
        data = line.decode("utf-8", "replace").strip()
        if data.startswith("data:") and data != "data: [DONE]":
            yield json.loads(data.removeprefix("data:"))


def _generation(answer: Mapping[str, Any]) -> Generation:
    """An answer of the server as one of Parsit's."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    scores = (choice.get("logprobs") or {}).get("content") or []
    flags: tuple[str, ...] = tuple((choice.get("parsit") or {}).get("flags", ()))
    if not flags and choice.get("finish_reason") == "length":
        loops = repeats_itself([score["token"] for score in scores])
        flags = ("looping",) if loops else ("truncated",)
    told = (choice.get("parsit") or {}).get("confidence")
    confidence = Confidence(told["mean"], told["lowest"]) if told else _confidence(scores)
    text, written = choice["message"].get("content") or "", usage.get("completion_tokens", len(scores))
    return Generation(text, written, flags, confidence, usage.get("prompt_tokens", 0))


def _confidence(scores: Sequence[Mapping[str, Any]]) -> Confidence | None:
    probabilities = [math.exp(score["logprob"]) for score in scores]
    return Confidence(sum(probabilities) / len(probabilities), min(probabilities)) if probabilities else None


def _message_of(said: bytes | Mapping[str, Any]) -> str:
    """What a server says is wrong, in one line."""
    try:
        value = json.loads(said) if isinstance(said, bytes) else said
        error = value.get("error", value)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return " ".join(text.split())[:300]
