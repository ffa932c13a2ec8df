"""Problems: what a request is refused with, as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from siamese_search.errors import (
    EncoderError,
    EngineUnavailable,
    GalleryMissing,
    ImageError,
    RuntimeUnavailable,
    SiaSearchError,
    StorageError,
    UsageError,
)

STATUSES: tuple[tuple[type[SiaSearchError], int], ...] = (
    (UsageError, 400),
    (ImageError, 422),
    (GalleryMissing, 404),
    (RuntimeUnavailable, 501),
    (EncoderError, 500),
    (StorageError, 503),
    (EngineUnavailable, 503),
    (SiaSearchError, 500),
)
FAILED = "the server failed: its log says why"
ENDING = (
    "the server is ending; where this changes something, look whether it did before you ask again"
)
BUSY_SECONDS = 1  # after which a client may try again


class Problem(Exception):
    """A request that is refused, with the reason."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail

    def __reduce__(self) -> tuple[type[Problem], tuple[int, str]]:  # as workers send it
        return Problem, (self.status, self.detail)


def answer(status: int, detail: str, also: Mapping[str, str] | None = None) -> Response:
    """A problem as a response, with headers of its own."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    headers = dict(also or {})
    if status == 503:
        headers["Retry-After"] = str(BUSY_SECONDS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def response_to(error: Exception) -> Response:
    """The response to an error that a handler has raised."""
    if isinstance(error, Problem):
        return answer(error.status, error.detail)
    if isinstance(error, HTTPException):
        return answer(error.status_code, error.detail, error.headers)
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), None)
    if status is None:
        return answer(500, FAILED)
    return answer(status, str(error))


async def on_problem(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """The same, as Starlette asks for it."""
    return response_to(error)
