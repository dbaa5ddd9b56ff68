"""`Guard`: what every request passes before the app sees it: who asks, from where, and how much is sent.

A server on this machine's own address needs no token, as no other machine reaches it; a web page in the user's browser
does, so `Host` must be this machine (else a name that a stranger points at 127.0.0.1 would do) and `Origin`, where
there is one, must be the server itself. There are no CORS headers at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from typing import NoReturn
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parsit.serve.errors import ServeError, response_of
from parsit.serve.limits import ServeLimits

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN_PATHS = frozenset({"/", "/health", "/page.css", "/page.js"})


class _BodyError(Exception):
    """The body is not read any further."""


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        limits: of a request's body.
        token: what `Authorization: Bearer` must have; None: nothing is asked for.
        is_local: the server is bound to a loopback address.
    """

    def __init__(self, app: ASGIApp, limits: ServeLimits, token: str | None, is_local: bool) -> None:
        self.app, self.limits, self.token, self.is_local = app, limits, token, is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with what is wrong."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        error = self._refusal(scope, headers)
        if error:
            await response_of(error)(scope, receive, send)
            return
        body = _Body(receive, self.limits)

        async def watched_send(message: Message) -> None:
            if body.error is None:  # else the app would answer that it cannot read the body
                await send(message)

        with contextlib.suppress(_BodyError):
            await self.app(scope, body.receive, watched_send)
        if body.error is not None:
            await response_of(body.error)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> ServeError | None:
        host = headers.get("host", "")
        if self.is_local and _name_of(host) not in LOOPBACK:
            return ServeError(403, f"this server is called localhost, not {host[:80]!r}")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return ServeError(403, "requests from other sites' pages are not answered")
        if self.token is not None and scope["path"] not in _OPEN_PATHS:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return ServeError(401, "a token is needed: Authorization: Bearer …", code="invalid_api_key")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return ServeError(400, "Content-Length is no number")
        return _too_large(self.limits) if int(length) > self.limits.max_body_bytes else None


class _Body:
    """A request's body, which is read no further where it is too large or stops coming; `error` says so then."""

    def __init__(self, receive: Receive, limits: ServeLimits) -> None:
        self._receive, self._limits = receive, limits
        self._total, self._is_whole = 0, False
        self.error: ServeError | None = None

    async def receive(self) -> Message:
        """The next piece; what comes behind the last one is that the client goes."""
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.body_seconds)
        except TimeoutError:
            self._give_up(ServeError(408, f"the request stopped coming for {self._limits.body_seconds:g} s"))
        self._total += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._total > self._limits.max_body_bytes:
            self._give_up(_too_large(self._limits))
        return message

    def _give_up(self, error: ServeError) -> NoReturn:
        self.error = error
        raise _BodyError(str(error))


def _too_large(limits: ServeLimits) -> ServeError:
    return ServeError(413, f"a request may have {limits.max_body_bytes:,} bytes")


def _name_of(host: str) -> str:
    """The name in a `Host` header, without the port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
