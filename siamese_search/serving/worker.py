"""A worker: a process that identifies for a server, which it is connected to by its standard input.

First it is told which galleries to open, and says None once they are, or what is wrong. Then it is
asked, and answers, several questions at a time. It ends with the connection: no worker outlives
its server, however that ends. ``workers.py`` is the other side.
"""

from __future__ import annotations

import logging
import logging.config
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from siamese_search.errors import SiaSearchError
from siamese_search.gallery.identification import Question
from siamese_search.machine import take_share
from siamese_search.serving import logs
from siamese_search.serving.hosted import Answered, Host
from siamese_search.serving.memory import give_back_large_blocks
from siamese_search.serving.problems import FAILED, Problem

log = logging.getLogger("siasearch")


def work(connection: Connection[Any, Any]) -> None:
    """Answer what comes by a connection until it is closed."""
    folders, device, shares = connection.recv()
    take_share(shares)
    try:
        host = Host(folders, read_only=True, device=device)
    except Exception as error:
        connection.send(error if isinstance(error, SiaSearchError) else SiaSearchError(repr(error)))
        return
    connection.send(None)
    sending = threading.Lock()

    def answer(number: int, name: str, images: Sequence[bytes], question: Question) -> None:
        found: Answered | Exception
        try:
            hosted = host[name]
            found = hosted.done(partial(hosted.identify, images, question))
        except (SiaSearchError, Problem) as error:
            found = error
        except Exception:
            log.exception("a question about %s failed", name)
            found = Problem(500, FAILED)
        with sending, suppress(OSError):
            connection.send((number, found))

    while True:
        host.pool.submit(answer, *connection.recv())


def main() -> None:
    """Work for the server that has started this process."""
    logging.config.dictConfig(logs.CONFIG)
    give_back_large_blocks()
    try:
        work(Connection(0))
    except (EOFError, OSError):  # the server has ended
        pass
    except BaseException:
        log.exception("a worker fails")
    finally:
        os._exit(0)  # nobody waits for what it is doing, and it has nothing to lose


if __name__ == "__main__":
    main()
