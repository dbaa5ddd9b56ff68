"""The app: routes, and what they are wired to."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from parsit.parse.selection import parse_selection
from parsit.serve.batcher import Batcher
from parsit.serve.chat import ChatService
from parsit.serve.conversation import ConversationReader
from parsit.serve.errors import ServeError, answer_errors
from parsit.serve.files import FileStore, StoredFile, clean_name
from parsit.serve.guard import Guard
from parsit.serve.limits import ServeLimits
from parsit.serve.metrics import Metrics
from parsit.serve.parsing import Job, ParseOptions, ParseService
from parsit.serve.protocol import ChatRequest
from parsit.serve.sse import EventStream
from parsit.types import Document

Format = Literal["md", "json", "txt"]
_FORMATS = {
    "md": (Document.to_markdown, "text/markdown"),
    "json": (Document.to_json, "application/json"),
    "txt": (Document.to_text, "text/plain"),
}
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How one server is set up.

    Args:
        model_name: what the model is called.
        limits: what clients may take.
        token: what they must show; None: nothing.
        image_hosts: where images may be fetched.
        is_local: the server is bound to a loopback address.
    """

    model_name: str
    limits: ServeLimits
    token: str | None = None
    image_hosts: Collection[str] = ()
    is_local: bool = True


def build_app(engine: Batcher, settings: ServeSettings) -> FastAPI:
    """The app around an engine."""
    app = FastAPI(title="Parsit", docs_url=None, redoc_url=None)
    answer_errors(app)
    app.add_middleware(_Counting, metrics := Metrics())
    app.add_middleware(Guard, settings.limits, settings.token, settings.is_local)
    limits, started = settings.limits, int(time.time())
    files = FileStore(limits)
    chat = ChatService(
        engine, settings.model_name, limits, ConversationReader(limits, settings.image_hosts, files.get), metrics
    )
    parsing = ParseService(engine, limits, metrics)
    app.state.parsing = parsing
    _add_page(app)
    _add_files(app, files)
    _add_parsing(app, parsing)

    @app.post("/v1/chat/completions")
    async def complete(asked: ChatRequest, request: Request) -> Response:
        return await chat.answer(asked, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model: dict[str, Any] = {"id": settings.model_name, "object": "model", "created": started, "owned_by": "parsit"}
        # What `--engine http://…` needs to know to read pages.
        model["parsit"] = {"reading_unit": engine.reading_unit, "read_prompt": engine.read_prompt}
        return {"object": "list", "data": [model]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def numbers() -> Response:
        for gauge, load in ((metrics.rows, engine.load()), (metrics.parses, parsing.load())):
            for state, count in zip(("written", "waiting"), load, strict=True):
                gauge.labels(state).set(count)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _add_page(app: FastAPI) -> None:
    folder = resources.files("parsit.serve") / "page"

    def add(path: str, name: str, kind: str) -> None:
        @app.get(path, include_in_schema=False)
        async def page_file() -> Response:
            return Response((folder / name).read_bytes(), media_type=kind, headers=_PAGE_HEADERS)

    for path, (name, kind) in _PAGE_FILES.items():
        add(path, name, kind)


def _add_files(app: FastAPI, files: FileStore) -> None:
    def shown(file: StoredFile) -> dict[str, Any]:
        return {
            "id": file.id,
            "object": "file",
            "bytes": len(file.data),
            "created_at": file.created,
            "filename": file.name,
            "purpose": "vision",
            "status": "processed",
        }

    @app.post("/v1/files")
    async def add(file: UploadFile) -> dict[str, Any]:
        return shown(files.add(clean_name(file.filename), await file.read()))

    @app.get("/v1/files/{id}")
    async def get(id: str) -> dict[str, Any]:
        return shown(files.get(id))

    @app.delete("/v1/files/{id}")
    async def delete(id: str) -> dict[str, Any]:
        files.delete(id)
        return {"id": id, "object": "file", "deleted": True}


def _add_parsing(app: FastAPI, parsing: ParseService) -> None:
    @app.post("/v1/parse")
    async def parse(
        request: Request,
        file: UploadFile,
        mode: Annotated[Literal["wait", "stream", "job"], Form()] = "wait",
        format: Annotated[Format, Form()] = "json",
        pages: Annotated[str | None, Form()] = None,
        prompt: Annotated[str | None, Form()] = None,
        split: Annotated[Literal["page", "lines"] | None, Form()] = None,
        max_tokens: Annotated[int | None, Form(ge=1)] = None,
        dpi: Annotated[float, Form(ge=10, le=600)] = 150.0,
        pictures: Annotated[bool, Form()] = False,
    ) -> Response:
        if pages is not None:
            chosen = sum(last - first + 1 for first, last in parse_selection(pages).ranges)
            if chosen > parsing.limits.max_pages:
                raise ServeError(
                    400, f"pages {pages[:80]!r}: at most {parsing.limits.max_pages} at a time", param="pages"
                )
        options = ParseOptions(pages, prompt, split, max_tokens, dpi, pictures)
        job = parsing.begin(clean_name(file.filename), await file.read(), options, mode)
        if mode == "job":
            return JSONResponse(job.as_json(), 202, headers={"Location": f"/v1/jobs/{job.id}"})
        if mode == "stream":
            return EventStream(parsing.stream(job), job.cancelled.set)
        await _wait(job, request)
        return _result(job, format)

    @app.get("/v1/jobs/{id}")
    async def get(id: str) -> dict[str, Any]:
        return parsing.get(id).as_json()

    @app.get("/v1/jobs/{id}/result")
    async def result(id: str, format: Format = "json") -> Response:
        job = parsing.get(id)
        if job.state in ("queued", "running"):
            raise ServeError(409, f"job {id} is not done: {job.state}", retry_after=1)
        return _result(job, format)

    @app.delete("/v1/jobs/{id}")
    async def delete(id: str) -> dict[str, Any]:
        parsing.delete(id)
        return {"id": id, "object": "parse.job", "deleted": True}


async def _wait(job: Job, request: Request) -> None:
    """Wait for a job; it is cancelled when the client goes."""
    import asyncio

    try:
        while not job.finished.is_set():
            try:
                await asyncio.wait_for(job.finished.wait(), _LOOK_EVERY_S)
            except TimeoutError:
                if await request.is_disconnected():
                    raise ServeError(499, "the client has gone") from None
    finally:
        if not job.finished.is_set():
            job.cancelled.set()


def _result(job: Job, format: Format) -> Response:
    if job.error:
        raise job.error
    if job.document is None:
        raise ServeError(410, f"job {job.id} was stopped")
    write, kind = _FORMATS[format]
    return PlainTextResponse(write(job.document), media_type=kind)


class _Counting:
    """ASGI middleware that counts requests by route and status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = 0

        async def noted(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            if scope["type"] == "http":
                route = getattr(scope.get("route"), "path", "unknown")
                self.metrics.requests.labels(route, str(status)).inc()
