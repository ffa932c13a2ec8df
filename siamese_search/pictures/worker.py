"""A process that decodes for another: ``python -m siamese_search.pictures.worker``.

Standard input is a socket. A message asks, and is answered, until nobody is there any more.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.pictures import render
from siamese_search.pictures.messages import Connection
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.regions import Box

try:
    import resource
except ImportError:  # not on every system
    resource = None  # type: ignore[assignment]

Answer = tuple[dict[str, Any], bytes]
"""Facts, and bytes that come with them."""


class _Turn:
    """Held for a large picture: the other process says when it may be decoded."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.has_come = False

    def __enter__(self) -> None:
        if not self.has_come:
            self._connection.send({"large": True})
            self._connection.receive()
            self.has_come = True

    def __exit__(self, *exception: object) -> None:
        """It is over once the picture is answered."""


def main() -> None:
    """Answer until the other side is gone."""
    connection = connected()
    turn = _Turn(connection)
    render.large = turn

    def answer(request: dict[str, Any], data: bytes) -> Answer:
        turn.has_come = False
        return _answer(request, data)

    serve(connection, answer)


def connected() -> Connection:
    """The other process, on standard input. Raises OSError."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Connection(socket.socket(fileno=os.dup(0)))


def serve(connection: Connection, answer: Callable[[dict[str, Any], bytes], Answer]) -> NoReturn:
    """Answer within the limits of each request, until the other side is gone, which ends this
    process.
    """
    # From here on nobody reads what libraries have to say.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 2)
    with suppress(ConnectionError):  # the other process is gone
        connection.send({})
        while True:
            request, content = connection.receive()
            data = bytes(content)
            del content  # a file may be large
            connection.send(*_within_limits(request, data, answer))
    os._exit(0)  # at once: there is nothing to tidy up


def _within_limits(
    request: dict[str, Any], data: bytes, answer: Callable[[dict[str, Any], bytes], Answer]
) -> Answer:
    """What ``answer`` gives, or why there is nothing."""
    Image.MAX_IMAGE_PIXELS = request["cap"]
    _limit_memory(request["memory"])
    # Once so much of the processor's time is gone, the system ends this process.
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        return answer(request, data)
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            return {"memory": True}, b""
        return {"refused": str(error)}, b""
    except MemoryError:
        return {"memory": True}, b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(request: dict[str, Any], data: bytes) -> Answer:
    """The pixels of a file. Raises ImageError."""
    if "preprocessing" not in request:
        picture = render.upright(data)
        return {"shape": (picture.height, picture.width, 3)}, picture.tobytes()
    box = None if request["box"] is None else Box(*request["box"])
    pixels = render.decode(data, Preprocessing(**request["preprocessing"]), box)
    return {"shape": pixels.shape}, pixels.tobytes()


def _limit_memory(size: int | None) -> None:
    if resource is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = resource.RLIM_INFINITY if size is None else size
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


if __name__ == "__main__":
    main()
