"""What ``serve`` looks at before it listens: its port, its address, who can read its token."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from siamese_search.errors import UsageError

EVERYWHERE = ("0.0.0.0", "::")
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # nobody has these


def require_free(host: str, port: int) -> None:
    """Raise UsageError where a server cannot listen there."""
    try:
        with socket.socket(_family(host)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use: choose another with --port") from error
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def own_address(host: str) -> str | None:
    """The address at which other machines find this one, where it listens everywhere; None where
    that cannot be told.
    """
    family = _family(host)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((ELSEWHERE[family], 9))  # sends nothing
            return str(trial.getsockname()[0])
    except OSError:
        return None


def others_can_read(path: Path) -> bool:
    """Whether other users of this machine can read a file."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
