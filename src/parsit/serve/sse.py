"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """A stream of events that is closed however it ends, also where the client has gone before the first one.

    Args:
        events: the events, as text.
        on_end: called once, at the end.
    """

    def __init__(self, events: AsyncIterable[str], on_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def event_of(value: Any, name: str | None = None) -> str:
    """One event with a value as JSON; `name` is its type, for those that have one."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n"
