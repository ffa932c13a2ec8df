"""Ctrl-C where Python cannot raise it.

Python raises KeyboardInterrupt wherever the main thread just is. Where that is a finalizer or the
callback of a weak reference, nothing can catch it: Python reports it, and goes on as if nothing had
been asked. While a command runs it is raised once more then.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 0.05  # seconds after which it is raised once more, each time four times as many:
LATER = 4  # it may have come among many finalizers, which shall not all be cut off


@contextmanager
def raised_again() -> Iterator[None]:
    """What is inside gets every KeyboardInterrupt, if a little later; what comes after none."""
    report = sys.unraisablehook
    wait, running, underway = AGAIN, True, False

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        nonlocal underway
        if not isinstance(what.exc_value, KeyboardInterrupt):
            report(what)
        elif not underway:
            underway = True
            try:
                # A bare thread: the threading module may just be holding its locks.
                _thread.start_new_thread(interrupt, ())
            except RuntimeError:  # there can be no more threads
                underway = False
                report(what)

    def interrupt() -> None:
        nonlocal wait, underway
        time.sleep(wait)
        wait *= LATER
        underway = False
        if running:
            _interrupt_main()

    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        running = False
        sys.unraisablehook = report


def _interrupt_main() -> None:
    # In the background of a shell SIGINT is ignored: it was SIGTERM then (``until_stopped``).
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    number = signal.SIGTERM if ignored else signal.SIGINT
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, number)  # also wakes it where it waits
    else:
        signal.raise_signal(number)
