"""HTTP by hand: requests that no library would send, what comes back, and whether that is right."""

from __future__ import annotations

import http.client
import json
import re
import selectors
import socket
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

BOUNDARY = "a-boundary"
REFUSED = frozenset({400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 422, 431, 501, 503})
CLOSED = 0  # in place of a status: without an answer


@dataclass(frozen=True)
class Answer:
    """What came back; ``status`` is 0 where the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


Check = Callable[[Answer], bool]


@dataclass(frozen=True)
class Attack:
    """A request; the statuses that are right; and what must hold for an answer with another."""

    kind: str
    data: bytes
    right: frozenset[int] = REFUSED
    or_else: Check | None = None
    ends: bool = False  # closes its side at once

    def failed(self, answer: Answer) -> bool:
        """Whether it got through."""
        told = re.search(rb"Traceback|/(tmp|root|home|work)/", answer.body)
        return bool(told) or not (
            answer.status in self.right or (self.or_else is not None and self.or_else(answer))
        )


def send(port: int, attack: Attack, seconds: float = 60.0) -> Answer:
    """What a server on this machine answers. Raises TimeoutError where it keeps the connection."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        with suppress(OSError):  # it may have heard enough
            connection.sendall(attack.data)
            if attack.ends:
                connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(
            connection, method=attack.data.split(b" ", 1)[0].decode("latin-1")
        )
        try:
            answer.begin()
            body = answer.read()
        except (http.client.HTTPException, ConnectionError):
            return Answer(CLOSED, {}, b"")
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, body)


# Answers that may be 200


def ranged(answer: Answer, whole: bytes) -> bool:
    """Whether it has the whole, or what its own range says (of several: nothing more than all)."""
    if answer.status == 200:
        return answer.body == whole
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("content-range", ""))
    if answer.status == 206 and found:
        first, last, size = map(int, found.groups())
        return size == len(whole) and answer.body == whole[first : last + 1]
    several = answer.headers.get("content-type", "").startswith("multipart/byteranges")
    return answer.status == 206 and several and len(answer.body) < len(whole) + 1000


def unnamed(answer: Answer) -> bool:
    """Whether every picture was refused."""
    return answer.status == 200 and all(
        one.keys() == {"image", "error"} for one in json.loads(answer.body)["answers"]
    )


def unmatched(answer: Answer) -> bool:
    """Whether nothing was found."""
    return answer.status == 200 and all(
        one["identity"] is None and one["matches"] == []
        for one in json.loads(answer.body)["answers"]
    )


# What is sent

END = f"--{BOUNDARY}--\r\n".encode()


def part(data: bytes, name: str = "image", file: str | None = "x.png") -> bytes:
    """A part of a form."""
    said = f'Content-Disposition: form-data; name="{name}"'
    if file is not None:
        said += f'; filename="{file}"'
    return f"--{BOUNDARY}\r\n{said}\r\n\r\n".encode() + data + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has few bytes."""

    def block(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", packed) + block(b"IEND", b"")
    )


# Slowly


def slowly(
    port: int, attacks: list[tuple[int, bytes]], pause: float, seconds: float
) -> list[Answer | None]:
    """Send requests over sockets of their own, all at once: first so many bytes of each, the
    others one by one.

    What came back for each; None for those that the server still keeps after so many seconds.
    """
    found: list[Answer | None] = [None] * len(attacks)
    sockets, sent = list[socket.socket](), [first for first, _ in attacks]
    with selectors.DefaultSelector() as waiting:
        for number, (first, data) in enumerate(attacks):
            sockets.append(socket.create_connection(("127.0.0.1", port)))
            sockets[-1].sendall(data[:first])
            waiting.register(sockets[-1], selectors.EVENT_READ, number)
        deadline = time.monotonic() + seconds
        while waiting.get_map() and time.monotonic() < deadline:
            for number, one in enumerate(sockets):
                if one.fileno() >= 0 and sent[number] < len(attacks[number][1]):
                    with suppress(OSError):
                        one.send(attacks[number][1][sent[number] : sent[number] + 1])
                    sent[number] += 1
            begun = time.monotonic()
            while (left := begun + pause - time.monotonic()) > 0 and waiting.get_map():
                for key, _ in waiting.select(left):
                    one, number = sockets[key.data], key.data
                    try:
                        data = one.recv(65536)
                    except OSError:
                        data = b""
                    status = int(data[9:12]) if data.startswith(b"HTTP/") else CLOSED
                    if status or found[number] is None:
                        found[number] = Answer(status, {}, data)
                    if not data:
                        waiting.unregister(one)
                        one.close()
        kept = [key.data for key in waiting.get_map().values()]
    for number in kept:
        found[number] = None
    for one in sockets:
        one.close()
    return found
