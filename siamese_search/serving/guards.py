"""Guards: who may ask, from where, how much and how long. Knows nothing of galleries."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siamese_search.serving import problems

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


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    body: int = 64 << 20  # bytes
    seconds: float = 30.0  # until all of it is there
    waiting: int = 256  # requests at a time


class Guard:
    """Refuses requests before a handler sees them, and counts their bytes while they come."""

    def __init__(
        self, app: ASGIApp, hosts: Sequence[str], token: str | None, limits: Limits
    ) -> None:
        """``hosts`` are the names by which the server may be addressed, with any port."""
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = None if token is None else token.encode()
        self._limits = limits
        self._underway = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if refused is not None:
            await problems.answer(*refused)(scope, receive, sent)
            return
        self._underway += 1
        try:
            await self._app(scope, self._counted(receive), sent)
        except problems.Problem as error:
            if not started:
                await problems.answer(error.status, error.detail)(scope, receive, sent)
        finally:
            self._underway -= 1

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name_of(host) not in self._hosts:
            return 400, f"this server does not answer to the host {host!r}: start it with --allow"
        origin = headers.get("origin")
        if origin is not None and _name_of(origin.partition("://")[2]) not in self._hosts:
            return 403, f"pages of {origin!r} may not ask this server"
        if not _is_open(scope["path"]) and not self._knows_token(headers):
            return 401, "a token is needed, as `Authorization: Bearer TOKEN`"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.body:
            return 413, f"a request may have {self._limits.body:,} bytes"
        if self._underway >= self._limits.waiting:
            return 503, "too many requests are waiting: try again"
        return None

    def _knows_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._token)
        return kind.lower() == "bearer" and same

    def _counted(self, receive: Receive) -> Receive:
        """The same, but refuses what is too long, whatever its length said, or takes too long."""
        limits, received = self._limits, 0
        deadline = asyncio.get_running_loop().time() + limits.seconds
        whole = False

        async def counting() -> Message:
            nonlocal received, whole
            if whole:  # only whether the client has gone
                return await receive()
            left = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except TimeoutError:
                raise problems.Problem(
                    408, f"a request must be there within {limits.seconds:g} seconds"
                ) from None
            received += len(message.get("body", b""))
            if received > limits.body:
                raise problems.Problem(413, f"a request may have {limits.body:,} bytes")
            whole = not message.get("more_body", False)
            return message

        return counting


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/page/")


def _name_of(host: str) -> str:
    """A host without its port: ``[::1]:80`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
