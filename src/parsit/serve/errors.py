"""Errors as OpenAI's interface writes them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from parsit.types import ParsitError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ServeError(Exception):
    """A request that is not answered: the status, one line that says why, and the field to blame."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after


def body_of(error: ServeError) -> dict[str, Any]:
    """The error as JSON."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def response_of(error: ServeError) -> JSONResponse:
    """The error as a response."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return JSONResponse(body_of(error), error.status, headers=headers)


def answer_errors(app: FastAPI) -> None:
    """Let an app answer every error in this form."""

    @app.exception_handler(ServeError)
    async def refused(request: Request, error: ServeError) -> JSONResponse:
        return response_of(error)

    @app.exception_handler(ParsitError)
    async def unusable(request: Request, error: ParsitError) -> JSONResponse:
        return response_of(ServeError(400, str(error)))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str | int))
        return response_of(ServeError(400, f"{place or 'the request'}: {first['msg']}"[:400], param=place or None))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return response_of(ServeError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        # The server prints the traceback; a client has no use for it.
        return response_of(ServeError(500, "the server failed at this request; its log says why"))
