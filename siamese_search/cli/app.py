"""The ``siasearch`` command and how its errors become exit codes."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import logging
import os
import sys
from typing import Annotated

import typer

from siamese_search import __version__
from siamese_search.cli import (
    audit,
    benchmark,
    calibrate,
    copies,
    demo,
    edit,
    embed,
    encoder,
    enroll,
    exchange,
    identify,
    listing,
    maintain,
    plot,
    serve,
    train,
    unknowns,
    watch,
)
from siamese_search.cli.common import note
from siamese_search.cli.help import Command, Commands, called
from siamese_search.cli.interrupts import raised_again
from siamese_search.cli.key import keyed
from siamese_search.cli.program import program
from siamese_search.errors import SiaSearchError

COLLECTED = 20_000  # objects after which garbage is looked for; Python's own limit is in hundreds
CTRL_C = 130  # what typer makes of a KeyboardInterrupt

app = typer.Typer(
    name="siasearch",
    cls=Commands,
    help="Enrol pictures, identify new ones, also of things enrolled a second ago.",
    epilog="Exit codes: 0 done; 1 done in part, or the answer is no; 2 stopped by an error.",
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"siasearch {__version__}")
        raise typer.Exit


@app.callback()
def siasearch(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Enrol pictures, identify new ones, also of things enrolled a second ago."""


for module in (
    enroll, identify, watch, listing, edit, unknowns, calibrate, benchmark, audit, plot, maintain,
    exchange, copies, embed, serve, train, encoder, demo,
):  # fmt: skip
    module.register(app)
for registered in app.registered_commands:
    registered.cls = Command
    if registered.callback is not None:
        registered.callback = keyed(registered.callback)


class _Notes(logging.Handler):
    """Warnings as messages for people."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def _open_streams() -> None:
    """Let what was closed lead nowhere: else a file that is opened would be written to as if it
    were standard error, and printing fail half-way.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the least number, which is this one
        if getattr(sys, name) is None:
            stream = open(descriptor, "w" if descriptor else "r", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _in_words(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):  # of whichever file came last
        return "too many open files: allow more (`ulimit -n 256`)"
    return f"{error.filename or 'output'}: {error.strerror}"


def main() -> None:
    """Run the command line: every expected error is one line and exit code 2."""
    _open_streams()
    said = logging.getLogger("siasearch")
    if not said.handlers:
        said.addHandler(_Notes(logging.WARNING))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no name can fail to print
            stream.reconfigure(errors="backslashreplace")
    # Importing libraries makes objects by the ten thousands, next to none of which are garbage. The
    # interpreter's last collections would look at all of them, to free what ends with the process
    # anyway: a tenth of a query.
    gc.set_threshold(COLLECTED, 10, 10)
    atexit.register(gc.freeze)
    try:
        with raised_again():
            called(app, sys.argv[1:])(prog_name=program())
    except SiaSearchError as error:
        note(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        note(f"error: {_in_words(error)}")
        sys.exit(2)
    except MemoryError:
        note("error: there is not enough memory")
        sys.exit(2)
    except RuntimeError as error:
        if "new thread" not in str(error):  # Python has no error of its own for that
            raise
        note("error: no thread can be started: allow more (`ulimit -u`), or more memory")
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == CTRL_C:
            note("interrupted")
            sys.exit(1)
        raise
