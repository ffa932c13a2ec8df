"""Watching: what appears in a folder, each file once it is whole.

What there is to do follows from looking through the folder alone; what the system tells of changes
only says when to look. So nothing is missed where it tells too little, as of network folders. Knows
nothing of what is done with the files.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from siamese_search.pictures.drawings import is_drawing
from siamese_search.records import ImageFile, Rejection

Files = Iterable[ImageFile | Rejection]
Status = tuple[object, ...]  # what tells a file from what it was: its size and time

# What programs call a file before it is whole.
_UNFINISHED: Final = frozenset({
    ".part", ".partial", ".filepart", ".crdownload", ".download", ".opdownload", ".tmp", ".temp",
})  # fmt: skip
_EMPTY: Final = (0,)
_EVERY: Final = 60.0  # seconds between looks where the system tells of changes
_AFTER: Final = 3.0  # seconds after a change, once more
_BETWEEN: Final = 0.2  # between looks at least, and so many times what the last one took:
_SHARE: Final = 9
_GONE: Final = 100_000  # files that are remembered after they have gone


@dataclass(frozen=True)
class Look:
    """What a look found: files that are whole and ``new``, those ``gone`` since the last look, how
    many are ``waiting`` to be whole, and whether the folder itself is ``missing``.
    """

    new: list[ImageFile | Rejection] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    waiting: int = 0
    missing: bool = False


class Folder:
    """A folder whose files are found by ``find``, and handed out once each.

    A file is handed out once its size and time have stood still for ``settle`` seconds, and again
    when they have changed. It waits while it is empty, or called as what is not finished. Those
    ``done`` before, by their paths, are not handed out as they are now. Where ``again`` is given, a
    file that went is handed out anew when it is back, and so are the paths that ``again`` returns.
    """

    def __init__(
        self,
        root: str,
        find: Callable[[], Files],
        settle: float = 1.0,
        done: Mapping[str, Status] | None = None,
        clock: Callable[[], float] = time.monotonic,
        again: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        self.root = os.path.abspath(root)
        self.settle = settle
        self._find = find
        self._clock = clock
        self._again = again
        self._done = dict(done or {})
        self._waiting: dict[str, tuple[Status, float]] = {}
        self._here: set[str] = set()
        self._gone: dict[str, None] = {}  # oldest first

    def look(self) -> Look:
        """Look through the folder. Nothing is said to be gone where the folder itself is."""
        if not os.path.isdir(self.root):
            return Look(missing=True)
        if self._again is not None:
            for path in self._again():
                self._done.pop(path, None)
        now, new, here = self._clock(), [], set()
        waiting = {}
        for file in self._find():
            status = status_of(file)
            if status is None or _is_unfinished(file.path):
                continue
            here.add(file.path)
            if status == _EMPTY or status == self._done.get(file.path):
                continue
            was, since = self._waiting.get(file.path, (None, now))
            if was != status or now - since < self.settle:
                waiting[file.path] = status, since if was == status else now
                continue
            self._done[file.path] = status
            if isinstance(file, Rejection) or not is_drawing(file.path):
                new.append(file)
        gone = sorted(self._here - here)
        self._forget(gone, here)
        self._waiting, self._here = waiting, here
        return Look(new, gone, len(waiting))

    def skip(self) -> int:
        """Take all files that are there for done, as they are; returns how many."""
        found = {file.path: status_of(file) for file in self._find()}
        self._here = set(found)
        self._done |= {path: status for path, status in found.items() if status is not None}
        return len(found)

    def _forget(self, gone: Iterable[str], here: set[str]) -> None:
        """A file that is away for a while, as where a disk is, is the same when it is back; but
        where many come and go, not all can be remembered.
        """
        if self._again is not None:
            for path in gone:
                self._done.pop(path, None)
            return
        self._gone |= dict.fromkeys(gone)
        if len(self._gone) > _GONE:
            self._gone = {path: None for path in self._gone if path not in here}
            for path in list(self._gone)[:-_GONE]:
                del self._gone[path]
                self._done.pop(path, None)


def status_of(file: ImageFile | Rejection) -> Status | None:
    """What tells a file from what it was: its size and time, or why it is rejected; None where it
    is gone.
    """
    if isinstance(file, Rejection):
        return (file.reason,)
    try:
        found = os.stat(file.path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime) if found.st_size else _EMPTY


def _is_unfinished(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _UNFINISHED


class Listener:
    """Waits until something may have changed in a folder; a context manager.

    Where the system does not tell, or ``poll`` is given, it waits for so many seconds, and says why
    to ``tell``, once.
    """

    def __init__(
        self, root: str, poll: float | None = None, tell: Callable[[str], object] = lambda why: None
    ) -> None:
        self._root = os.path.abspath(root)
        self._polls = poll is not None
        self._poll = 2.0 if poll is None else poll
        self._tell = tell
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None

    def __enter__(self) -> Listener:
        self.restart()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def restart(self) -> None:
        """Listen anew: to another folder of the same name, say."""
        self._end()
        if self._polls:
            return
        if importlib.util.find_spec("watchfiles") is None:
            self._polls = True
            self._tell(
                f"{self._root} is looked through every {self._poll:g} seconds: with `pip install"
                " 'siamese-search[watch]'` it is when something changes"
            )
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(self._stop,), daemon=True)
        self._thread.start()

    def wait(self, most: float | None = None) -> bool:
        """Wait for a change, for ``most`` seconds; whether something may have changed."""
        every = self._poll if self._polls else _EVERY
        changed = self._changed.wait(every if most is None else min(most, every))
        self._changed.clear()
        if self._trouble is not None:
            why, self._trouble = self._trouble, None
            self._polls = True
            self._tell(
                f"{self._root} is looked through every {self._poll:g} seconds, since the system"
                f" does not tell of changes ({why})"
            )
        return changed

    def _listen(self, stop: threading.Event) -> None:
        import watchfiles  # an extra

        ready = False
        try:
            for changes in watchfiles.watch(
                self._root,
                watch_filter=None,
                debounce=400,
                step=100,
                rust_timeout=500,
                yield_on_timeout=True,
                stop_event=stop,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                if changes or not ready:  # of what came before it was ready nobody tells
                    self._changed.set()
                ready = True
        except (OSError, RuntimeError) as error:
            if not stop.is_set() and os.path.isdir(self._root):
                self._trouble = getattr(error, "strerror", None) or str(error)
                self._changed.set()

    def _end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def looks(folder: Folder, listener: Listener) -> Iterator[Look]:
    """Looks that found something, for ever: after changes, and when files may have become whole.

    Looking takes at most a tenth of the time, however large the folder is.
    """
    missing = changed = False
    while True:
        begun = time.monotonic()
        look = folder.look()
        took = time.monotonic() - begun
        if look.new or look.gone or look.missing != missing:
            if missing and not look.missing:
                listener.restart()
            missing = look.missing
            yield look
        time.sleep(max(_BETWEEN, _SHARE * took))
        if look.waiting:
            changed |= listener.wait(folder.settle)
        else:  # in new folders files may have come before the system told of them
            changed = listener.wait(_AFTER if changed or missing else None)
