"""Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever the main thread just is. Where that is a finalizer or the
callback of a weak reference, nothing can catch it: Python reports it, and goes on as if nothing had
been asked. It is raised once more then.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time

AGAIN = 0.05  # seconds after which it is raised once more


def keep_interrupts() -> None:
    """Raise a KeyboardInterrupt anew that could not be raised where it came."""
    report = sys.unraisablehook

    def raised(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            # A bare thread: this may run where the threading module holds its locks.
            _thread.start_new_thread(_interrupt_main, ())
        else:
            report(what)

    sys.unraisablehook = raised


def _interrupt_main() -> None:
    time.sleep(AGAIN)
    # A shell's background ignores SIGINT; a command that SIGTERM interrupts is still ended by that.
    ended = signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    number = signal.SIGTERM if ended else signal.SIGINT
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, number)  # also wakes it where it waits
    else:
        signal.raise_signal(number)
