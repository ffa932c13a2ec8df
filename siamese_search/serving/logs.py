"""Logs: what the server says on standard error. Requests are not noted: they may hold secrets."""

from __future__ import annotations

import logging
from typing import Any


class Escaped(logging.Formatter):
    """Text that moves no cursor and forges no line, whatever names and messages hold."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).split("\n")
        return "\n    ".join(map(_escaped, lines))  # only a message of ours begins a line


def _escaped(line: str) -> str:
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line
    )


CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"escaped": {"()": Escaped, "format": "%(levelname)s: %(message)s"}},
    "handlers": {
        "error": {
            "class": "logging.StreamHandler",
            "formatter": "escaped",
            "stream": "ext://sys.stderr",
        }
    },
    "loggers": {
        name: {"handlers": ["error"], "level": level, "propagate": False}
        for name, level in (
            ("siasearch", "WARNING"),
            ("asyncio", "WARNING"),
            ("uvicorn", "ERROR"),  # its warnings are of requests that are none
            ("python_multipart", "ERROR"),
        )
    },
}
"""For ``logging.config.dictConfig``."""
