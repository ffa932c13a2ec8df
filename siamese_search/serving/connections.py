"""Connections: HTTP/1.1 as uvicorn speaks it, for clients that nobody trusts.

uvicorn bounds how long a connection may be idle, not how long a client may take for its headers,
its last bytes or our answer. Knows nothing of galleries and of what is asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from siamese_search.serving import logs, problems

MOST = 1000  # connections
IDLE = 10  # seconds without a byte, between two requests
HEADERS = 20.0  # seconds from the connection, or the last answer, to the end of the headers
LINGER = 2.0  # seconds in which the rest of a request that was refused is thrown away
ANSWER = 60.0  # seconds for a client to take what is sent to it
CHUNKS = 1000  # in the body of a request; one more for each KiB


class Connection(H11Protocol):
    """A connection that cannot be held for ever.

    Unless a request is being answered, a clock runs: for the next request's headers, for the rest
    of one that was answered early, or for the client to take the last bytes. Then it is closed.
    Beyond so many connections, the one that has waited longest for a request makes room.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Chunked(h11.SERVER, self.config.h11_max_incomplete_event_size or 64 << 10)
        self._clock: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._since = 0.0

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_waiting(self) -> bool:
        return not self._answering and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._run_clock()
        if len(self.connections) > MOST:
            others = (one for one in self.connections if isinstance(one, Connection))
            idle = [one for one in others if one is not self and one._is_waiting]
            if idle:
                min(idle, key=lambda one: one._since).transport.abort()
            else:
                self._refuse(503, "there are too many connections: try again")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering:
            self._stop_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._answering:  # else another request was there already
            self._run_clock()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused like anything else."""
        self._refuse(400, msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(ANSWER, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _run_clock(self) -> None:
        self._stop_clock()
        self._since = self.loop.time()
        rest = self.conn.their_state is h11.SEND_BODY
        self._clock = self.loop.call_later(LINGER if rest else HEADERS, self._time_is_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        # What was sent, or is now, may be on its way to a slow client.
        self._clock = self.loop.call_later(ANSWER, self.transport.abort)
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"headers must be there within {HEADERS:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer in place of the application, if that can still be done, and close."""
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = problems.answer(status, detail)
            headers = [*response.raw_headers, (b"connection", b"close")]
            bare = self._answering and self.scope["method"] == "HEAD"
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=b"" if bare else bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


SETTINGS: dict[str, Any] = {
    "http": Connection,
    "ws": "none",
    "timeout_keep_alive": IDLE,
    "timeout_graceful_shutdown": 30,
    "server_header": False,
    "access_log": False,  # addresses may hold what is nobody's business
    "log_config": logs.CONFIG,
}
"""For ``uvicorn.Config``."""


def make_room() -> None:
    """Let this process open as many files as its connections need, as far as the system lets it."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MOST if hard == resource.RLIM_INFINITY else min(4 * MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Chunked(h11.Connection):
    """Refuses unknown versions, and bodies in crumbs: each chunk costs far more than its bytes."""

    _left = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            if event.http_version not in (b"1.0", b"1.1"):  # h11 takes what looks like a version
                raise h11.RemoteProtocolError("this version of HTTP is not known")
            self._left = CHUNKS << 10
        elif isinstance(event, h11.Data):
            self._left += len(event.data) - (1024 if event.chunk_start else 0)
            if self._left < 0:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event
