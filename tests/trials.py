"""Every command that writes, on a gallery where it makes sense, and what must hold afterwards.

Shared by ``benchmarks/faults/``: whatever happens to a command (killed, refused by the system, out
of space, out of power), the gallery must be as it was before or as it is after, and the same
command must go on from there. Commands run in forks of one warm process, see ``crashing.py``.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from crashing import World, identity_of, prepare_process

from siamese_search import cli
from siamese_search.gallery.gallery import Gallery

ENROLLED, COPIED, LATER = range(24), range(24, 32), range(32, 36)
NEVER, KEPT, NEW, MORE = range(40, 43), range(50, 54), range(60, 72), range(80, 83)
NAMES = (
    "create", "add", "add metadata", "add --copy", "add --copy later", "add --distractor", "remove",
    "remove --item", "remove --forever", "relabel", "relabel --item", "undo", "redo",
    "query --keep-unknown", "unknowns --enroll", "unknowns --drop", "calibrate", "calibrate --off",
    "compact", "rebuild", "rebuild --encoder",
)  # fmt: skip
CLOSE = 1e-5  # a score of an item with itself may be so far below 1
FAILED = 70  # the exit code of what no command may raise
HANGS = 71
DEADLINE = 100.0  # seconds for a command: it may wait a minute for another writer


@dataclass(frozen=True)
class Command:
    """A command, from one of the prepared galleries: ``none``, ``busy`` or ``undone``.

    What is ``at_once`` is one transaction: done, or not begun.
    """

    name: str
    arguments: tuple[str, ...]
    start: str = "busy"
    at_once: bool = True


@dataclass(frozen=True)
class Portrait:
    """What a gallery holds: items by their picture, kept probes, how it decides, its changes."""

    items: dict[int, tuple[object, ...]]
    kept: frozenset[str]
    decides: tuple[object, ...] | None
    encoder: str
    changes: tuple[tuple[object, ...], ...]

    def lasting(self) -> tuple[object, ...]:
        """Without its changes: an interrupted `add` that goes on makes two of them."""
        return self.items, self.kept, self.decides, self.encoder

    def is_between(self, before: Portrait, after: Portrait) -> bool:
        """Whether each thing is as before or as after."""
        return (
            all(
                self.items.get(n) in (before.items.get(n), after.items.get(n))
                for n in {*self.items, *before.items, *after.items}
            )
            and before.kept & after.kept <= self.kept <= before.kept | after.kept
            # A gallery that moves to another encoder is calibrated again as the last step.
            and (
                self.decides in (before.decides, after.decides)
                or (self.decides is None and self.encoder == after.encoder != before.encoder)
            )
            and self.encoder in (before.encoder, after.encoder)
        )


@dataclass(frozen=True)
class Ended:
    """How a command has ended: its exit code, negative for a signal, and what it printed."""

    code: int
    printed: str


class Trials:
    """Prepared galleries, and commands on a copy of one of them in ``folder``."""

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        """``folder`` is where the gallery under trial lies, say on a small disk."""
        prepare_process()
        faiss.omp_set_num_threads(1)  # OpenMP's threads do not survive a fork
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.folder = folder or root / "trial"
        self.folder.parent.mkdir(exist_ok=True)
        self.world = World(root)
        self._portraits: dict[str, tuple[Portrait | None, Portrait]] = {}
        self._codes: dict[str, int] = {}
        self._prepare()
        self.commands = {command.name: command for command in self._commands()}
        assert tuple(self.commands) == NAMES

    # What there is

    def _prepare(self) -> None:
        """Make the galleries that commands begin with."""
        self.restore("none")
        for command in (
            ("add", *self._listed(ENROLLED, "shelf"), "--encoder", str(self.root / "fine")),
            ("add", *self._listed(COPIED), "--copy"),
            ("add", *self._paths(NEVER), "--label", "never", "--distractor"),
            ("compact",),
            ("calibrate", "--fpir", "0.1"),
            ("query", *self._paths(KEPT), "--keep-unknown"),
            ("add", *self._listed(LATER)),
            ("relabel", "identity 1", "renamed"),
            ("remove", identity_of(COPIED[0])),
        ):
            self._must(command)
        self._keep("busy")
        self._must(("undo",))
        self._keep("undone")

    def _must(self, arguments: tuple[str, ...]) -> None:
        ended = self.run(arguments)
        if ended.code not in (0, 1):
            raise RuntimeError(f"{arguments} ended with {ended.code}: {ended.printed}")

    def _keep(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)
        shutil.copytree(self.folder, self.root / name)

    def restore(self, start: str) -> None:
        """Put a prepared gallery in place; with ``none`` there is none."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if start != "none":
            shutil.copytree(self.root / start, self.folder)

    def _paths(self, numbers: Iterable[int]) -> list[str]:
        return [str(self.world.pictures[number]) for number in numbers]

    def _listed(self, numbers: range, fact: str = "") -> tuple[str, str]:
        """A manifest of pictures, with metadata where a fact is named."""
        manifest = self.root / f"{numbers.start}{fact}.csv"
        more = f",{fact}" if fact else ""
        rows = [
            f"{self.world.pictures[n]},{identity_of(n)}" + (f",{n % 5}" if fact else "")
            for n in numbers
        ]
        manifest.write_text("\n".join([f"path,label{more}", *rows]) + "\n")
        return "--manifest", str(manifest)

    def _commands(self) -> list[Command]:
        with Gallery.open(self.root / "busy") as gallery:
            group = str(gallery.unknowns()[0].number)
        fine, coarse = (str(self.root / name) for name in ("fine", "coarse"))
        copied = identity_of(COPIED[2])
        return [
            Command(
                "create", ("add", *self._listed(MORE), "--encoder", fine), "none", at_once=False
            ),
            Command("add", ("add", *self._listed(NEW)), at_once=False),
            Command("add metadata", ("add", *self._listed(range(3, 12), "row")), at_once=False),
            Command("add --copy", ("add", *self._listed(NEW), "--copy"), at_once=False),
            Command(
                "add --copy later", ("add", *self._listed(ENROLLED, "shelf"), "--copy"),
                at_once=False,
            ),
            Command(
                "add --distractor",
                ("add", *self._paths(MORE), "--label", "others", "--distractor"), at_once=False,
            ),
            Command("remove", ("remove", copied)),
            Command("remove --item", ("remove", "--item", "5")),
            Command("remove --forever", ("remove", copied, "--forever"), at_once=False),
            Command("relabel", ("relabel", "renamed", copied)),
            Command("relabel --item", ("relabel", "--item", "4", "another")),
            Command("undo", ("undo",)),
            Command("redo", ("redo",), "undone"),
            Command(
                "query --keep-unknown", ("query", *self._paths(NEW[:5]), "--keep-unknown"),
                at_once=False,
            ),
            Command(
                "unknowns --enroll", ("unknowns", "--enroll", group, "--label", "found"),
                at_once=False,
            ),
            Command("unknowns --drop", ("unknowns", "--drop", group)),
            Command("calibrate", ("calibrate", "--fpir", "0.2"), at_once=False),
            Command("calibrate --off", ("calibrate", "--off")),
            Command("compact", ("compact",), at_once=False),
            Command("rebuild", ("rebuild",), at_once=False),
            Command("rebuild --encoder", ("rebuild", "--encoder", coarse), at_once=False),
        ]  # fmt: skip

    # Running

    def run(
        self,
        arguments: tuple[str, ...],
        prepare: Callable[[int], object] = int,
        kill_after: float | None = None,
    ) -> Ended:
        """Run a command in a fork, which waits until ``prepare`` has got its number; kill it after
        so many seconds.
        """
        reading, writing = os.pipe()
        said = self.root / "said.txt"
        nowhere = os.open(os.devnull, os.O_RDWR)
        printed = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        pid = os.fork()
        if not pid:
            os.close(writing)
            code = FAILED
            try:
                for descriptor, target in ((nowhere, 0), (printed, 1), (printed, 2)):
                    os.dup2(descriptor, target)
                os.close(printed)
                os.close(nowhere)
                code = self._in_child(arguments, reading)
            finally:
                os._exit(code)
        for descriptor in (reading, nowhere, printed):
            os.close(descriptor)
        late = True
        try:
            prepare(pid)
            os.write(writing, b"!")
            late = not _ends(pid, DEADLINE if kill_after is None else kill_after)
        finally:
            os.close(writing)
            if late:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        hangs = late and kill_after is None
        return Ended(
            HANGS if hangs else os.waitstatus_to_exitcode(status), said.read_text(errors="replace")
        )

    def _in_child(self, arguments: tuple[str, ...], go: int) -> int:
        with suppress(OSError):  # this, too, may be made to fail
            os.read(go, 1)
        sys.argv = ["siasearch", *arguments, "--gallery", str(self.folder)]
        if arguments[0] in ("remove", "relabel", "undo", "redo", "unknowns", "add"):
            sys.argv.append("--yes")
        try:
            try:
                cli.main()
            finally:
                with suppress(OSError):  # as Python's own end, whose complaint is not of interest
                    sys.stdout.flush()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            return FAILED
        return 0

    # What must hold

    def expected(self, command: Command) -> tuple[Portrait | None, Portrait]:
        """The gallery before a command, and after one that nothing has happened to."""
        if command.name not in self._portraits:
            self.restore(command.start)
            before = None if command.start == "none" else self._portrait()[0]
            self._codes[command.name] = self.run(command.arguments).code
            after, faults = self._portrait()
            if faults or self._codes[command.name] not in (0, 1):
                raise RuntimeError(f"{command.name} does not do: {faults}")
            self._portraits[command.name] = before, after
        return self._portraits[command.name]

    def code(self, command: Command) -> int:
        """The exit code of a command that nothing has happened to."""
        self.expected(command)
        return self._codes[command.name]

    def faults(self, command: Command, ended: Ended | None, again: bool = True) -> list[str]:
        """Where the gallery is not what it must be after a command to which something happened.

        ``ended`` is None where nobody saw its end. Then the command is run ``again``, and must
        do what it would have done.
        """
        before, after = self.expected(command)
        faults = [] if ended is None else self._outcries(ended)
        done = ended is not None and ended.code == 0 == self._codes[command.name]
        try:
            there = Gallery.exists(self.folder)
            if not there:
                faults += ["the gallery is gone"] * (before is not None or done)
                found = None
            else:
                found, more = self._portrait()
                faults += more
                faults += self._where_not(command, found, before, after, done)
            if again and (found is None or found.lasting() != after.lasting()):
                once_more = self.run(command.arguments)
                if once_more.code != self._codes[command.name]:
                    faults.append(f"again: exit code {once_more.code}: {once_more.printed}")
                found, more = self._portrait()
                faults += [f"again: {fault}" for fault in more]
                if found.lasting() != after.lasting():
                    faults.append(f"again: {_difference(found, after)}")
            if again and found is not None:
                faults += [f"left behind: {name}" for name in self.left_behind()]
        except Exception as error:
            faults.append(f"looking at it raised {type(error).__name__}: {error}")
        return faults

    @staticmethod
    def _outcries(ended: Ended) -> list[str]:
        faults = []
        if ended.code == FAILED or "Traceback" in ended.printed:
            faults.append(f"exit code {ended.code}: {ended.printed[-600:]}")
        elif ended.code > 2:
            faults.append(f"exit code {ended.code}: {ended.printed[-300:]}")
        return faults

    def _where_not(
        self,
        command: Command,
        found: Portrait,
        before: Portrait | None,
        after: Portrait,
        done: bool,
    ) -> list[str]:
        empty = Portrait({}, frozenset(), None, found.encoder, ())
        was = before or empty
        if done and found != after:
            return [f"exit code 0, but {_difference(found, after)}"]
        if command.at_once and found not in (was, after):
            return [f"half done: {_difference(found, after)}"]
        if not found.is_between(was, after):
            return [f"neither as before nor as after: {_difference(found, after)}"]
        return []

    def _portrait(self) -> tuple[Portrait, list[str]]:
        """What the gallery holds, and what is wrong with it."""
        with Gallery.open(self.folder) as gallery:
            faults = [f"check: {fault}" for fault in gallery.check()]
            never = gallery.distractors()
            found = [item for name, _ in gallery.identities() for item in gallery.items(name)]
            info = gallery.info()
            calibration = gallery.calibration
            portrait = Portrait(
                {
                    self.world.content(item.content): (
                        item.identity, item.identity in never, item.copy is not None,
                        tuple(sorted(item.metadata.items())),
                    )
                    for item in found
                },
                frozenset(path for group in gallery.unknowns() for path in group.paths),
                None if calibration is None else (
                    calibration.fpir, calibration.rule, calibration.metric is not None,
                    calibration.closer > 0,
                ),
                info.fingerprint,
                tuple(
                    (undone, change.what, change.identity, change.items)
                    for undone in (False, True)
                    for change in gallery.changes(undone=undone)
                ),
            )  # fmt: skip
            if not len(found) == len(portrait.items) == len(gallery):
                faults.append(f"{len(gallery)} items counted, {len(found)} listed")
            numbers = np.array([item.number for item in found], np.int64)
            pictures = [self.world.content(item.content) for item in found]
            vectors = self.world.vectors(info.fingerprint)[pictures]
            if len(found):
                items, scores = gallery.search(vectors, 1)
                if (items[:, 0] != numbers).any() or (scores[:, 0] < 1 - CLOSE).any():
                    faults.append("an enrolled picture does not find itself")
        return portrait, faults

    def left_behind(self, compact: bool = True) -> list[str]:
        """What is there, after a compaction, although nothing names it."""
        with Gallery.open(self.folder) as gallery:
            if compact:
                gallery.compact()
            names = [name for name, _ in gallery.identities()]
            named = {item.copy for name in names for item in gallery.items(name)}
            named |= {gallery.info().index, "gallery.db", "gallery.db-journal", ".maintenance.lock"}
        there = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*.*")}
        return sorted(there - named)


def _ends(pid: int, seconds: float) -> bool:
    """Wait for a process; whether it has ended by then."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _difference(found: Portrait, wanted: Portrait) -> str:
    """What differs, in a few words."""
    said = []
    for number in sorted({*found.items, *wanted.items}):
        if found.items.get(number) != wanted.items.get(number):
            is_, not_ = found.items.get(number), wanted.items.get(number)
            said.append(f"picture {number} is {is_}, not {not_}")
    said = said[:3] + ([f"and {len(said) - 3} more"] if len(said) > 3 else [])
    for name in ("kept", "decides", "encoder", "changes"):
        if getattr(found, name) != getattr(wanted, name):
            said.append(f"{name} is {getattr(found, name)}, not {getattr(wanted, name)}")
    return "; ".join(said) or "nothing differs"
