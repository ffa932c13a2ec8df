"""Let the disk get full in the middle of every command: nothing acknowledged may be lost.

    python benchmarks/faults/full_disk.py --seed 1

A small file system in memory is mounted, for which one must be root. A command of
``tests/trials.py`` gets as much room as it needs, and less and less of it at 50 levels. Then, with
the disk still full, the gallery must be as before or after the command, ``check`` must find no
fault, and what was said must name the lack of room. With room, the same command must do the rest.
Writes ``results/full_disk.json`` beside this file; an interrupted run goes on when it is started
again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from campaign import Case, Try, faults_of, finish, parser, run, scratch
from trials import Command, Trials

SIZE = 24 << 20  # of the file system, in which a gallery takes less than a megabyte
PAGE = 4096
COMMANDS = (
    "create", "add", "add metadata", "add --copy", "add --copy later", "remove", "undo",
    "query --keep-unknown", "unknowns --enroll", "calibrate", "compact", "rebuild",
    "rebuild --encoder",
)  # fmt: skip
FULL = ("full", "No space left")


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own. Raises OSError where it cannot be mounted."""
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError("there is no `mount`") from error
    if done.returncode:
        raise OSError(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Disk:
    """Trials on a disk of which all but some bytes can be taken."""

    def __init__(self, root: Path, disk: Path) -> None:
        self.trials = Trials(root, disk / "gallery")
        self._ballast = disk / "ballast"
        self._needed: dict[str, int] = {}

    def leave(self, room: int) -> None:
        """Take all but so many bytes."""
        status = os.statvfs(self._ballast.parent)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - room)

    def give_back(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def run(self, command: Command, room: int) -> tuple[int, str]:
        """A command with so many bytes of room: its exit code, and what it printed."""
        self.trials.restore(command.start)
        self.leave(room)
        ended = self.trials.run(command.arguments)
        return ended.code, ended.printed

    def need(self, command: Command) -> int:
        """The bytes that a command needs, to the page."""
        if command.name not in self._needed:
            usual = self.trials.code(command)
            least, most = 0, 1024
            while least < most:
                middle = (least + most) // 2
                code, printed = self.run(command, middle * PAGE)
                self.give_back()
                enough = code == usual and not any(word in printed for word in FULL)
                least, most = (least, middle) if enough else (middle + 1, most)
            self._needed[command.name] = most * PAGE
        return self._needed[command.name]

    def attempt(self, name: str, level: int, levels: int) -> dict[str, Any]:
        """What becomes of a command at a level from none of the room that it needs to all."""
        command = self.trials.commands[name]
        usual = self.trials.code(command)
        room = self.need(command) * level // max(levels - 1, 1) // PAGE * PAGE
        self.trials.restore(command.start)
        self.leave(room)
        ended = self.trials.run(command.arguments)
        faults = [f"full: {one}" for one in self.trials.faults(command, ended, again=False)]
        if ended.code != usual and not any(word in ended.printed for word in FULL):
            faults.append(f"it does not say that the disk is full: {ended.printed[-300:]}")
        self.give_back()
        faults += self.trials.faults(command, ended)
        return {"room": room, "code": ended.code, "faults": faults}


@contextmanager
def trying() -> Iterator[Try]:
    """What tries a case."""
    with scratch() as folder, small_disk(Path(folder) / "disk") as place:
        disk = Disk(Path(folder), place)

        def attempt(case: Case) -> dict[str, Any]:
            name, level, levels = case
            return disk.attempt(str(name), int(level), int(levels))

        yield attempt


def main() -> int:
    """Run, print, and write the result."""
    arguments = parser(__doc__, "full_disk", 0)
    arguments.add_argument("--levels", type=int, default=50, help="default 50")
    arguments.add_argument("--commands", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    options = arguments.parse_args()
    began = time.monotonic()
    try:
        with scratch() as folder, small_disk(Path(folder) / "disk"):
            pass
    except OSError as error:
        sys.exit(str(error))
    levels = range(options.levels)
    cases: list[Case] = [(name, n, len(levels)) for n in levels for name in options.commands]
    outcomes = run(options, cases, trying)
    refused = sum(one["code"] != 0 for one in outcomes)
    faults = faults_of(outcomes)
    summary = (
        f"disk full at {options.levels} levels, {len(options.commands)} commands:"
        f" {len(outcomes)} cases, {refused} refused, {len(faults)} faults"
    )
    by_command = Counter(one["case"][0] for one in outcomes if one["code"] != 0)
    return finish(
        options, began, summary,
        {
            "cases": len(outcomes),
            "refused": dict(sorted(by_command.items())),
            "outcomes": [[*one["case"][:2], one["room"], one["code"]] for one in outcomes],
            "faults": faults,
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
