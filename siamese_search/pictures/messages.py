"""Messages between a process and those that decode for it: a few facts, as JSON, and bytes.

Whole messages go in as few system calls as they can: after each, a thread waits for its turn again.
Knows nothing of what they say.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

_SIZES: Final = struct.Struct("!IQ")  # of the facts and of the bytes
_MOST_FACTS: Final = 1 << 13
_AT_ONCE: Final = 1 << 20  # bytes that are made room for before it is known how many come


class Connection:
    """One end of a pair of sockets. Every method may raise OSError: nobody is there any more, or,
    as TimeoutError, ``until`` is over (by ``time.monotonic``).
    """

    def __init__(self, end: socket.socket, patience: float | None = None) -> None:
        """``patience``: seconds after which it is looked whether ``until`` is over."""
        self._socket = end
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, option, _AT_ONCE)
        if patience is not None:
            # By the system: a timeout of Python's would be a call more each time.
            seconds, rest = divmod(patience, 1)
            packed = struct.pack("@ll", int(seconds), int(1e6 * rest))
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                end.setsockopt(socket.SOL_SOCKET, option, packed)

    def send(self, facts: Mapping[str, Any], content: bytes = b"", until: float = math.inf) -> None:
        text = json.dumps(facts).encode()
        head = _SIZES.pack(len(text), len(content)) + text
        sent = _done(until, lambda: self._socket.sendmsg([head, content])) - len(head)
        if sent < 0:
            raise ConnectionError("it takes nothing")
        left = memoryview(content)[sent:]
        while left:
            left = left[_done(until, lambda: self._socket.send(left)) :]  # noqa: B023

    def receive(
        self, most: int = 1 << 62, until: float = math.inf
    ) -> tuple[dict[str, Any], memoryview]:
        """The next message's facts, and its bytes, writable. Raises ValueError where these are more
        than ``most``, or it is no message.
        """
        room = memoryview(bytearray(_SIZES.size + _MOST_FACTS + min(most, _AT_ONCE)))
        filled = self._filled(room, 0, _SIZES.size, until)
        length, size = _SIZES.unpack_from(room)
        if length > _MOST_FACTS or size > most:
            raise ValueError("the message is too long")
        begin, end = _SIZES.size + length, _SIZES.size + length + size
        if end > len(room):
            larger = memoryview(bytearray(end))
            larger[:filled] = room[:filled]
            room = larger
        self._filled(room, filled, end, until)
        return dict(json.loads(bytes(room[_SIZES.size : begin]))), room[begin:end]

    def _filled(self, room: memoryview, filled: int, least: int, until: float) -> int:
        """How much is filled once at least so much is."""
        while filled < least:
            count = _done(until, lambda: self._socket.recv_into(room[filled:]))  # noqa: B023
            if not count:
                raise ConnectionError("it ended")
            filled += count
        return filled

    def close(self) -> None:
        self._socket.close()


def _done(until: float, call: Callable[[], int]) -> int:
    """What a call gives; it is tried again where the system waited in vain."""
    while time.monotonic() < until:
        try:
            return call()
        except BlockingIOError:
            continue
    raise TimeoutError
