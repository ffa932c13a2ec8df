"""Ctrl-C where Python cannot raise it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOST = """
import signal, sys, time, weakref
from siamese_search.cli.filming import until_stopped
from siamese_search.cli.interrupts import raised_again

class Freed:
    pass

which = signal.Signals[sys.argv[1]]
ignored = which == signal.SIGTERM  # as in the background of a shell
signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
with raised_again(), until_stopped(lambda: "all is said"):
    one = Freed()
    callback = weakref.ref(one, lambda gone: signal.raise_signal(which))
    del one
    print("it went on", flush=True)
    time.sleep(30)
    print("it was lost")
"""


@pytest.mark.parametrize("which", ["SIGINT", "SIGTERM"])
def test_an_interrupt_in_a_callback_still_ends_a_command(which: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, which], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "it went on\n"
    assert done.stderr == "stopped: all is said\n"
    assert done.returncode == 0


def test_other_errors_that_nothing_can_catch_are_told() -> None:
    script = """
import weakref
from siamese_search.cli.interrupts import raised_again
with raised_again():
    one = type("Freed", (), {})()
    callback = weakref.ref(one, lambda gone: 1 / 0)
    del one
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ZeroDivisionError" in done.stderr


AFTER = """
import atexit, signal, time
from siamese_search.cli.interrupts import raised_again

class Freed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def close():
    time.sleep(0.3)
    print("closed")

signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(close)
with raised_again():
    Freed()
print("done")
"""


def test_what_comes_after_a_command_is_not_interrupted() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.returncode) == ("done\nclosed\n", 0)


TWICE = """
import signal, time
from siamese_search.cli.interrupts import raised_again

class Freed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
with raised_again():
    try:
        Freed(), Freed()
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted")
    time.sleep(0.3)
    print("closed")
"""


def test_two_that_could_not_be_raised_are_raised_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.returncode) == ("interrupted\nclosed\n", 0)


IMPORTED = """
import signal, sys, time
from siamese_search.cli.interrupts import raised_again

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
with raised_again():
    try:
        import half
        print(half.whole, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted")
    try:
        signal.raise_signal(signal.SIGINT)
        print("not at once")
    except KeyboardInterrupt:
        print("at once")
"""


def test_an_import_is_finished_before_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.2)\nwhole = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, str(tmp_path)], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.returncode) == ("True\ninterrupted\nat once\n", 0)
