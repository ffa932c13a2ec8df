"""Guards: who may ask, from where, how much and how long. Knows nothing of galleries."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siamese_search.serving import problems
from siamese_search.serving.origins import Origins

POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN = ("/health", "/ready", "/", "/page")  # no token is needed: they tell nothing
PICTURES = "multipart/form-data"


@dataclass(frozen=True)
class Limits:
    """What requests may cost."""

    body: int = 64 << 20  # bytes of a request with pictures
    text: int = 4 << 20  # bytes of any other
    held: int = 512 << 20  # bytes of all requests that are not answered yet
    path: int = 2 << 10  # bytes
    headers: int = 32 << 10  # bytes, with the query
    seconds: float = 30.0  # until all of a request is there
    waiting: int = 256  # requests that are there, and not answered yet


class Guard:
    """Refuses requests before a handler sees them, and counts their bytes while they come."""

    def __init__(self, app: ASGIApp, origins: Origins, token: str | None, limits: Limits) -> None:
        self._app = app
        self._origins = origins
        self._token = None if token is None else token.encode()
        self.limits = limits
        self.waiting = 0
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in (HEADERS | self._origins.headers(asked)).items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._origins.refusal(asked)
        preflight = self._origins.preflight(scope["method"], asked)
        if refused is None and preflight is not None:
            await preflight(scope, receive, sent)
            return
        refused = refused or self._refused(scope, asked)
        if refused is not None:
            await problems.answer(*refused)(scope, receive, sent)
            return
        incoming = _Incoming(self, receive, self._most(asked))
        try:
            if not _has_body(asked):
                incoming.arrived()
            await self._app(scope, incoming, sent)
        except asyncio.CancelledError:  # the server ends, and has waited long enough
            if started:
                raise
            await problems.answer(503, problems.ENDING)(scope, receive, sent)
        except Exception as error:
            if not started:
                await problems.response_to(error)(scope, receive, sent)
            if not isinstance(error, problems.Problem):
                raise
        finally:
            incoming.over()

    def _most(self, headers: Headers) -> int:
        """The most bytes that a request may have."""
        pictures = headers.get("content-type", "").startswith(PICTURES)
        return self.limits.body if pictures else self.limits.text

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        path, query = scope.get("raw_path") or b"", scope["query_string"]
        if len(path) > self.limits.path:
            return 414, f"a path may have {self.limits.path:,} bytes"
        if len(query) + sum(len(k) + len(v) for k, v in headers.raw) > self.limits.headers:
            return 431, f"query and headers may have {self.limits.headers:,} bytes"
        if not _is_open(scope["path"]) and not self._knows_token(headers):
            return 401, "a token is needed, as `Authorization: Bearer TOKEN`"
        length, most = headers.get("content-length", "0"), self._most(headers)
        if not length.isascii() or not length.isdecimal():
            return 400, "Content-Length is no number"
        if len(length) > 15 or int(length) > most:
            return 413, f"a request may have {most:,} bytes"
        if self.waiting >= self.limits.waiting:
            return 503, "too many requests are waiting: try again"
        return None

    def _knows_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._token)
        return kind.lower() == "bearer" and same


class _Incoming:
    """A request while it comes: refuses what is too long, whatever its length said, takes too
    long, or is too much together with all others.
    """

    def __init__(self, guard: Guard, receive: Receive, most: int) -> None:
        self._guard = guard
        self._receive = receive
        self._most = most
        self._deadline = asyncio.get_running_loop().time() + guard.limits.seconds
        self._bytes = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:  # only whether the client has gone
            return await self._receive()
        limits = self._guard.limits
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise problems.Problem(
                408, f"a request must be there within {limits.seconds:g} seconds"
            ) from None
        if message["type"] == "http.disconnect":
            raise problems.Problem(400, "the client has gone")
        more = len(message.get("body", b""))
        self._bytes += more
        self._guard.held += more
        if self._bytes > self._most:
            raise problems.Problem(413, f"a request may have {self._most:,} bytes")
        if self._guard.held > limits.held:
            raise problems.Problem(503, "too many pictures are waiting: try again")
        if not message.get("more_body", False):
            self.arrived()
        return message

    def arrived(self) -> None:
        """All of it is there: it waits for an answer from now on."""
        if self._guard.waiting >= self._guard.limits.waiting:
            raise problems.Problem(503, "too many requests are waiting: try again")
        self._whole = True
        self._guard.waiting += 1

    def over(self) -> None:
        """It was answered."""
        self._guard.waiting -= self._whole
        self._guard.held -= self._bytes


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/page/")
