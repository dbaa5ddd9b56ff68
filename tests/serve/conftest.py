"""A server on a miniature model, in a thread of the test's process: real sockets, real clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typst
import uvicorn

from parsit import hf
from parsit.parse.engine import ModelEngine
from parsit.serve.app import ServeSettings, build_app
from parsit.serve.batcher import Batcher
from parsit.serve.limits import ServeLimits
from serve_support import HANG_S, Served


@pytest.fixture(scope="session")
def model(mini) -> ModelEngine:
    processor = hf.new_processor(mini)
    return ModelEngine(hf.new_model(mini, processor, seed=2), processor, batch_size=4)


@pytest.fixture(scope="session")
def start(model, mini) -> Callable:
    """Starts a server of its own: `with start(max_queue=1) as served`."""

    @contextmanager
    def started(*, token=None, is_local=True, batch_size=4, image_hosts=(), tasks=(), **limits) -> Iterator[Served]:
        processor = hf.new_processor(mini) if tasks else model.processor
        processor.tasks = tasks
        engine = ModelEngine(model.model, processor, batch_size)
        batcher = Batcher(engine)
        settings = ServeSettings("mini", ServeLimits(**limits), token, image_hosts, is_local)
        app = build_app(batcher, settings)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=5))
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
            thread.start()
            deadline = time.monotonic() + HANG_S
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            try:
                yield Served(f"http://127.0.0.1:{port}", port, batcher, engine)
            finally:
                app.state.parsing.stop()
                batcher.stop()
                server.should_exit = True
                thread.join()

    return started


@pytest.fixture(scope="session")
def served(start) -> Iterator[Served]:
    """The server that tests share who do not fill it up."""
    with start(max_pages=5, max_body_bytes=3_000_000, max_image_pixels=1_000_000, max_images=3) as served:
        yield served


@pytest.fixture(scope="session")
def pdf(tmp_path_factory) -> Path:
    """Three pages: two lines, nothing, one line."""
    folder = tmp_path_factory.mktemp("pdf")
    (folder / "r.typ").write_text(
        "#set page(width: 144pt, height: 72pt, margin: 9pt)\none \\ two #pagebreak()#pagebreak() three"
    )
    typst.compile(folder / "r.typ", output=folder / "report.pdf")
    return folder / "report.pdf"
