"""Side by side: pictures embedded by several encoders that take turns, each in its own process.

So rates can be compared on a machine that is busy with other things, and each encoder's memory is
its own. Knows nothing of what is measured on the embeddings.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import DoubleArray
from siamese_search.errors import EncoderError
from siamese_search.evaluation.embedder import FILES
from siamese_search.evaluation.probes import Probes
from siamese_search.files import read_regular
from siamese_search.processes import command, environment
from siamese_search.records import ImageFile, Progress, Rejection, Watcher, unwatched

ROUNDS = 20  # wanted
SMALLEST, LARGEST = 32, 256  # pictures of a round
FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Embedded:
    """Pictures as an encoder embeds them, what each round took, float64 (rounds,) in seconds, of
    how many pictures, and the most bytes that its process held meanwhile, None where nobody tells.
    """

    probes: Probes
    seconds: DoubleArray
    counts: DoubleArray
    memory: int | None
    device: str

    @property
    def rate(self) -> float:
        """Images a second, decoded and embedded."""
        return float(self.counts.sum() / self.seconds.sum())


def embedded_side_by_side(
    encoders: Sequence[str],
    files: Sequence[ImageFile],
    device: str | None = None,
    watch: Watcher = unwatched,
) -> list[Embedded]:
    """Embed files, whose paths differ, by each of the encoders, names or folders.

    Raises EncoderError where one of them cannot be used. They are opened one after the other, so
    that each compiles on all cores.
    """
    # In two rounds at least, since one does not tell how sure its rate is.
    size = min(LARGEST, max(SMALLEST, -(-len(files) // ROUNDS)), -(-len(files) // 2))
    rounds = [(first, min(first + size, len(files))) for first in range(0, len(files), size)]
    done, total = 0, len(files) * len(encoders)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        named = json.dumps([[file.path, file.identity] for file in files])
        (folder / FILES).write_text(named, encoding="utf-8")
        watch(Progress("opening encoders", 0))
        processes = [
            held.enter_context(_Process(encoder, device, folder, number))
            for number, encoder in enumerate(encoders)
        ]
        for number, (first, after) in enumerate(rounds):
            for file in files[first:after]:  # so that nobody waits for the disk
                with suppress(OSError):
                    read_regular(Path(file.path), FILE_BYTES)
            turn = number % len(processes)
            for process in (*processes[turn:], *processes[:turn]):
                process.embed(first, after)
                done += after - first
                watch(Progress("embedding", done, total))
        return [process.finished(files, rounds) for process in processes]


class _Process:
    """A process that embeds by one encoder; see ``embedder.py``."""

    def __init__(self, encoder: str, device: str | None, folder: Path, number: int) -> None:
        self._encoder = encoder
        self._place = folder / f"{number}.npz"
        self._said = open(folder / f"{number}.txt", "w+b")  # noqa: SIM115
        self._seconds: list[float] = []
        self._memory: int | None = None
        # Its folder is this process's: an encoder's folder may be named relative to it.
        self._process = subprocess.Popen(
            [*command("siamese_search.evaluation.embedder"), encoder, device or "", folder,
             str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment(),
            text=True,
            encoding="utf-8",
        )  # fmt: skip

    def __enter__(self) -> _Process:
        try:
            self._device = str(self._answer()["device"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            with suppress(OSError):  # something may be left to send
                if stream is not None:
                    stream.close()

    def embed(self, first: int, after: int) -> None:
        """Embed some of the files."""
        assert self._process.stdin is not None
        with suppress(OSError):  # the answer tells why it is gone
            self._process.stdin.write(f"[{first}, {after}]\n")
            self._process.stdin.flush()
        answer = self._answer()
        self._seconds.append(float(answer["seconds"]))
        self._memory = answer["memory"]

    def finished(self, files: Sequence[ImageFile], rounds: Sequence[tuple[int, int]]) -> Embedded:
        """All that was embedded."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        if self._process.wait() or not self._place.is_file():
            self._answer()
        with np.load(self._place, allow_pickle=False) as found:
            kept = tuple(files[row] for row in found["rows"].tolist())
            rejected = tuple(Rejection(*one) for one in json.loads(str(found["rejected"])))
            places = tuple(found["places"]) if "places" in found else None
            probes = Probes(kept, found["embeddings"], rejected, places)
        counts = np.array([after - first for first, after in rounds], np.float64)
        return Embedded(probes, np.array(self._seconds), counts, self._memory, self._device)

    def _answer(self) -> dict[str, Any]:
        """What it says next. Raises EncoderError where that is an error, or it is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        facts: dict[str, Any] = json.loads(line) if line else {}
        if "error" in facts:
            raise EncoderError(str(facts["error"]))
        if not facts:
            code = self._process.wait()
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise EncoderError(
                f"the process of the encoder {self._encoder} ended: {said or f'exit code {code}'};"
                " it may have needed more memory than there is"
            )
        return facts
