"""Forks: what threads share is made anew in a forked process, to which no other thread comes along.

Knows nothing of what is shared.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet


class Followed:
    """Something open that a forked process must not go on with."""

    def follow_forks(self) -> None:
        """From now on, be told of forks."""
        with _lock:
            _followed.add(self)

    def before_fork(self) -> None:
        """Come to a state of which a copy can be left alone."""

    def after_fork(self) -> None:
        """Undo ``before_fork``, in the process that goes on."""

    def in_child(self) -> None:
        """Forget what belongs to the process that goes on."""


# Of the process, since what is told of forks is told once for all.
_followed: WeakSet[Followed] = WeakSet()
_lock = threading.Lock()
_left: list[object] = []


def leave(thing: object) -> None:
    """Never free something: to free it would wait for threads that are not here, or take back what
    another process is doing.
    """
    _left.append(thing)


def _before() -> None:
    _lock.acquire()
    for one in _followed:
        one.before_fork()


def _after() -> None:
    for one in _followed:
        one.after_fork()
    _lock.release()


def _in_child() -> None:
    for one in list(_followed):
        one.in_child()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)
