"""Ctrl-C where Python cannot raise it.

Python raises KeyboardInterrupt wherever the main thread just is. Where that is a finalizer or the
callback of a weak reference, nothing can catch it: Python reports it, and goes on as if nothing had
been asked. While a command runs it is raised once more then. Where a module is just being imported,
it would leave half of that, which other modules fail on in odd ways: it is raised after the import.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 0.05  # seconds after which it is raised once more, each time four times as many:
LATER = 4  # it may have come among many finalizers, which shall not all be cut off
IMPORTING = "<frozen importlib._bootstrap>"  # the file of an import's frames


@contextmanager
def raised_again() -> Iterator[None]:
    """What is inside gets every KeyboardInterrupt, if a little later; what comes after none."""
    report = sys.unraisablehook
    wait, running, underway = AGAIN, True, False

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        nonlocal wait
        if not isinstance(what.exc_value, KeyboardInterrupt):
            report(what)
        elif not underway:
            if not later(wait):
                report(what)
            wait *= LATER

    def interrupted(number: int, frame: FrameType | None) -> None:
        if _imports(frame) <= outside or not (underway or later(AGAIN)):
            signal.default_int_handler(number, frame)

    def later(seconds: float) -> bool:
        nonlocal underway
        underway = True
        try:
            # A bare thread: the threading module may just be holding its locks.
            _thread.start_new_thread(interrupt, (seconds,))
        except RuntimeError:  # there can be no more threads
            underway = False
        return underway

    def interrupt(seconds: float) -> None:
        nonlocal underway
        time.sleep(seconds)
        underway = False
        if running:
            _interrupt_main()

    outside = _imports(sys._getframe())
    # What somebody else has set, or ignores, stays.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = ours and threading.current_thread() is threading.main_thread()
    sys.unraisablehook = unraisable
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        running = False
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = report


def _imports(frame: FrameType | None) -> int:
    """How many frames of imports there are from a frame on."""
    return sum(one.f_code.co_filename == IMPORTING for one, _ in traceback.walk_stack(frame))


def _interrupt_main() -> None:
    # In the background of a shell SIGINT is ignored: it was SIGTERM then (``until_stopped``).
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    number = signal.SIGTERM if ignored else signal.SIGINT
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, number)  # also wakes it where it waits
    else:
        signal.raise_signal(number)
