"""A folder as a disk may have it after the power went: what was not synced is lost, torn, or not.

What a process does to files is recorded by strace. A file's content is on the disk once the file is
synced, and its name once its folder is: neither brings the other along. What was written since may
be there in any part, each write whole, cut at a sector's or page's end, or lost; of what was done
to the names in a folder since, the first so many are there. That is less than file systems promise.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "open", "openat", "creat", "close", "read", "write", "pwrite64", "lseek", "ftruncate", "fsync",
    "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat",
    "rmdir", "link", "linkat", "dup", "dup2", "dup3",
)  # fmt: skip
# What `recorded` reads must have been written with these.
OPTIONS = ("-e", f"trace={','.join(f'?{name}' for name in CALLS)}", "-xx", "-s", "100000000", "-y")
TEAR = (512, 4096)
CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)(.*)$")
UNFINISHED = re.compile(r"(.*?) *<unfinished \.\.\.>$")
RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)$")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
KINDS_OF_LOSS = ("least", "random", "random", "all")


@dataclass(frozen=True)
class Change:
    """Something done to a file's content (``write``, ``cut``), to a name in a folder (``name``,
    which gives it to another file or to none), or a ``sync`` of a file or folder.
    """

    what: str
    file: int = 0  # of which file or folder, by number
    start: int = 0
    data: bytes = b""
    names: tuple[tuple[str, int | None], ...] = ()


@dataclass
class Recording:
    """What was done, in its order, to the files below a folder, itself below a parent."""

    parent: Path
    files: dict[int, bytes] = field(default_factory=dict)  # contents before
    folders: dict[int, dict[str, int]] = field(default_factory=dict)  # names before, by folder
    changes: list[Change] = field(default_factory=list)

    def state(self, count: int, loss: str, chance: random.Random) -> Disk:
        """The disk after so many changes, where the ``least`` that must be there is, or ``all``
        that was done, or something in between.
        """
        disk = Disk(
            {number: bytearray(content) for number, content in self.files.items()},
            {number: dict(names) for number, names in self.folders.items()},
        )
        done = self.changes[:count]
        synced = {change.file: at for at, change in enumerate(done) if change.what == "sync"}
        # How far the names in a folder have come to the disk.
        reached = {
            change.file: {"all": count, "least": 0}.get(loss, chance.randrange(count + 1))
            for change in done
            if change.what == "name"
        }
        for at, change in enumerate(done):
            durable = at < synced.get(change.file, -1)
            if change.what == "name":
                if durable or at < reached[change.file]:
                    disk.name(change)
            elif change.what in ("write", "cut"):
                if durable or loss == "all":
                    disk.apply(change)
                elif loss == "random":
                    disk.apply_part(change, chance)
        return disk


@dataclass
class Disk:
    """Contents by file, and names by folder; number 0 is the parent."""

    files: dict[int, bytearray]
    folders: dict[int, dict[str, int]]

    def name(self, change: Change) -> None:
        names = self.folders.setdefault(change.file, {})
        for name, number in change.names:
            names.pop(name, None)
            if number is not None:
                names[name] = number

    def apply(self, change: Change) -> None:
        content = self.files.setdefault(change.file, bytearray())
        if change.what == "cut":
            del content[change.start :]
            content.extend(bytes(change.start - len(content)))
            return
        content.extend(bytes(max(0, change.start - len(content))))
        content[change.start : change.start + len(change.data)] = change.data

    def apply_part(self, change: Change, chance: random.Random) -> None:
        """All of a change, nothing, or of a write what lies on one side of a sector's end."""
        fate = chance.choice(("whole", "lost", "torn"))
        if fate == "lost":
            return
        if fate == "torn" and change.what == "write":
            size = chance.choice(TEAR)
            ends = range(-change.start % size or size, len(change.data), size)
            if not ends:
                return
            end = chance.choice(ends)
            if chance.random() < 0.5:
                change = Change("write", change.file, change.start, change.data[:end])
            else:
                change = Change("write", change.file, change.start + end, change.data[end:])
        self.apply(change)

    def write(self, folder: Path, number: int = 0) -> None:
        """Make a folder of it, with all that has a name."""
        folder.mkdir(exist_ok=True)
        for name, file in self.folders.get(number, {}).items():
            if file in self.folders:
                self.write(folder / name, file)
            else:
                (folder / name).write_bytes(self.files.get(file, b""))


class _Replay:
    """Follows what a log of strace says, to know which file is meant by a name or descriptor."""

    def __init__(self, parent: Path, folder: Path) -> None:
        self.recording = Recording(parent)
        self._names: dict[Path, int] = {parent: 0}
        self._count = 1
        self._open: dict[int, tuple[int, int, bool]] = {}  # file, position, whether it appends
        self.recording.folders[0] = {}
        if folder.exists():
            self._take(folder)

    def _take(self, path: Path) -> None:
        """Note what is there before."""
        number = self._new(path)
        self.recording.folders[self._names[path.parent]][path.name] = number
        if path.is_dir():
            self.recording.folders[number] = {}
            for inner in sorted(path.iterdir()):
                self._take(inner)
        else:
            self.recording.files[number] = path.read_bytes()

    def _new(self, path: Path) -> int:
        number = self._names[path] = self._count
        self._count += 1
        return number

    def _note(self, what: str, file: int, start: int = 0, data: bytes = b"") -> None:
        self.recording.changes.append(Change(what, file, start, data))

    def _rename(self, *changes: tuple[Path, int | None]) -> None:
        """Names that become those of files: at once, where they are in one folder."""
        by_folder: dict[int, list[tuple[str, int | None]]] = {}
        for path, number in changes:
            by_folder.setdefault(self._names[path.parent], []).append((path.name, number))
            self._names.pop(path, None)
            if number is not None:
                self._names[path] = number
        for folder, names in by_folder.items():
            self.recording.changes.append(Change("name", folder, names=tuple(names)))

    def _is_ours(self, path: Path) -> bool:
        return path.parent in self._names

    def call(self, name: str, arguments: str, result: int) -> None:
        """Follow a call that has succeeded."""
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in TEXT.findall(arguments)]
        first = arguments.partition(",")[0].partition("<")[0]
        opened = int(first) if first.isdigit() else -1
        if name in ("open", "openat", "creat"):
            self._opened(Path(os.fsdecode(texts[0])), arguments, result)
        elif name == "close":
            self._open.pop(opened, None)
        elif name.startswith(("rename", "link", "unlink", "mkdir", "rmdir")):
            self._named(name, [Path(os.fsdecode(text)) for text in texts])
        elif name.startswith("dup") and opened in self._open:
            raise ValueError("a file's descriptor is doubled, which is not followed here")
        elif opened in self._open:
            self._used(name, opened, arguments, texts, result)

    def _opened(self, path: Path, arguments: str, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        if path not in self._names and not ("O_CREAT" in arguments and self._is_ours(path)):
            return
        if path not in self._names:
            self._rename((path, self._new(path)))
            self._note("cut", self._names[path])  # it is there, and empty
        elif "O_TRUNC" in arguments:
            self._note("cut", self._names[path])
        self._open[descriptor] = self._names[path], 0, "O_APPEND" in arguments

    def _named(self, name: str, paths: list[Path]) -> None:
        if name.startswith("mkdir"):
            if self._is_ours(paths[0]):
                number = self._new(paths[0])
                self.recording.folders.setdefault(number, {})
                self._rename((paths[0], number))
        elif name.startswith(("unlink", "rmdir")):
            if paths[0] in self._names:
                self._rename((paths[0], None))
        elif paths[0] in self._names:
            number = self._names[paths[0]]
            gone: list[tuple[Path, int | None]] = [(paths[0], None)]
            self._rename(*(gone if name.startswith("rename") else []), (paths[1], number))

    def _used(
        self, name: str, descriptor: int, arguments: str, texts: list[bytes], result: int
    ) -> None:
        file, position, appends = self._open[descriptor]
        if name == "write":
            if appends:
                raise ValueError("a file is appended to, which is not followed here")
            self._note("write", file, position, texts[0][:result])
            position += result
        elif name == "pwrite64":
            self._note("write", file, int(arguments.rpartition(",")[2]), texts[0][:result])
        elif name == "read":
            position += result
        elif name == "lseek":
            position = result
        elif name == "ftruncate":
            self._note("cut", file, int(arguments.rpartition(",")[2]))
        elif name in ("fsync", "fdatasync"):
            self._note("sync", file)
        self._open[descriptor] = file, position, appends


def recorded(log: Path, folder: Path, before: Path | None) -> Recording:
    """What a log tells of a folder's files; ``before`` is a copy of how it was, None if it was not.

    A write counts from its end on.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if before is not None:
        shutil.copytree(before, folder)
    replay = _Replay(folder.parent, folder)
    for name, arguments, result in _calls(log.read_text().splitlines()):
        replay.call(name, arguments, result)
    return replay.recording


def _calls(lines: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """The calls that succeeded, those of several threads put together again."""
    begun: dict[str, str] = {}
    for line in lines:
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if unfinished := UNFINISHED.match(rest):
            begun[pid] = unfinished[1]
            if rest.startswith("close("):  # before it ends another thread may get the number
                yield "close", unfinished[1].removeprefix("close("), 0
            continue
        if resumed := RESUMED.match(rest):
            rest = begun.pop(pid, "") + resumed[1]
            if rest.startswith("close("):
                continue
        if (call := CALL.match(rest)) and int(call[3]) >= 0:
            yield call[1], call[2], int(call[3])
