"""Runs the server until Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from parsit.serve.app import ServeSettings, build_app
from parsit.serve.batcher import Batcher

_LEAVING_S = 5  # for connections to end, once their answers have


def serve(engine: Batcher, settings: ServeSettings, bound: socket.socket, on_ready: Callable[[], None]) -> None:
    """Answer requests until the process is told to stop; then end all answers and return.

    Args:
        engine: what answers.
        settings: how the server is set up.
        bound: where it listens.
        on_ready: called when it does.
    """
    app = build_app(engine, settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_LEAVING_S,
        timeout_keep_alive=10,
        server_header=False,
        lifespan="off",
    )
    try:
        _Server(config, app, engine, on_ready).run(sockets=[bound])
    finally:
        app.state.parsing.stop()
        engine.stop()


class _Server(uvicorn.Server):
    """uvicorn's, which ends answers before it waits for their connections."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, engine: Batcher, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._engine, self._on_ready = app, engine, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.parsing.stop()
        self._engine.stop()
        super().handle_exit(sig, frame)
