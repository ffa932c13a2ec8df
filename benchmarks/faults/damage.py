"""Damage the files of a gallery: whatever is wrong then must be noticed, or change no answer.

    python benchmarks/faults/damage.py --cases 1125 --seed 1

Files of each kind (database, small index, large index, encoder, cache of compiled graphs) are
damaged so many times: bytes are flipped, stretches zeroed, exchanged or cut; inode and time stay,
as where a disk rots. Every second time it is aimed at what decides: texts of the database, the
vectors that are asked for. Then questions are asked whose answers are known. The outcome is one of

- same: the answers are what they were;
- caught at once: one of our errors, which names what is damaged;
- caught by check: an answer was wrong, and ``siasearch check`` names the damage;
- silently wrong: an answer was wrong, and nobody says so;
- traceback: an error that is none of ours.

A large index is verified while it answers, so that first answers may be wrong: those are counted,
and the outcome is that of the answers after. Writes ``results/damage.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from conftest import picture, write_toy_encoder

import siamese_search
from siamese_search import Encoder, Gallery
from siamese_search.errors import SiaSearchError
from siamese_search.gallery import snapshots

RESULTS = Path(__file__).parent / "results"
IDENTITIES, PICTURES, LATER = 12, 5, 6
Outcome = tuple[str, bool]  # what it is, and whether the first answer was wrong


@dataclass
class World:
    """A sound gallery with its encoder, and what it answers."""

    root: Path
    probes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.toy = write_toy_encoder(self.root / "toy")
        self.gallery = self.root / "gallery"
        places: dict[str, list[Path]] = {}
        for number in range(IDENTITIES * PICTURES + LATER):
            path = self.root / "pictures" / f"{number:03}.png"
            path.parent.mkdir(exist_ok=True)
            picture(number % IDENTITIES, 1 + number).save(path)
            places.setdefault(f"identity {number % IDENTITIES}", []).append(path)
        encoder = Encoder.open(self.toy, "cpu")
        with Gallery.open(self.gallery, encoder) as gallery:
            for name, paths in places.items():
                facts = {"shelf": name[-1]}
                gallery.enroll(paths[:PICTURES], name, metadata=facts, copy=name[-1] == "0")
            gallery.enroll([picture(900, 5), picture(901, 5)], "never", distractor=True)
            gallery.compact()
            gallery.calibrate(0.1)
            gallery.compact()
            for name, paths in places.items():
                if paths[PICTURES:]:
                    gallery.enroll(paths[PICTURES:], name)
            gallery.remove(item=3)
            gallery.relabel(None, "identity 2", item=7)
        self.seen = encoder.embed(
            [picture(seed, 9) for seed in (*range(IDENTITIES), *range(500, 505), 900)]
        )
        self.answers = self.asked()

    def asked(self) -> list[object]:
        """What the gallery says."""
        with Gallery.open(self.gallery) as gallery:
            return said(gallery, self.seen)

    def keep(self) -> None:
        shutil.rmtree(self.root / "kept", ignore_errors=True)
        shutil.copytree(self.gallery, self.root / "kept")

    def restore(self, path: Path, content: bytes) -> None:
        """One file as it was, in place; what the opening of a damaged gallery left is deleted."""
        overwrite(path, content)
        journal = self.gallery / "gallery.db-journal"
        journal.write_bytes(b"")


def said(gallery: Gallery, seen: Any) -> list[object]:
    """Answers with all that is shown of them, scores to four places."""
    found: list[object] = [gallery.identities()]
    for where in (None, {"shelf": "1"}):
        for answer in gallery.identify_embeddings(seen, k=3, where=where):
            items = {one.number: one for one in gallery.items_by_number(
                match.item for match in answer.matches
            )}  # fmt: skip
            facts = round(answer.confidence or 0, 3), round(answer.threshold or 0, 4)
            found.append((answer.identity, *facts))
            found += [
                (m.identity, round(m.score, 4), m.item, m.path, m.distractor, items.get(m.item))
                for m in answer.matches
            ]
    return found


def overwrite(path: Path, content: bytes) -> None:
    """As a failing disk does it: inode and time stay, and the size where the content's does."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def aims(path: Path) -> list[tuple[int, int]]:
    """Where in a database or an index file stands what decides, and how many bytes."""
    content = path.read_bytes()
    if path.suffix == ".faiss":
        return [(place, 196) for place in range(4096, 4096 + 60 * 196, 196)]
    if path.suffix != ".db":
        return []
    found = set()
    with closing(sqlite3.connect(path)) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in db.execute(f"SELECT * FROM {table}"):
                for value in row:
                    stored = value.encode() if isinstance(value, str) else value
                    if isinstance(stored, bytes) and len(stored) > 3:
                        found.add((content.find(stored), len(stored)))
    return sorted(one for one in found if one[0] >= 0)


def damaged(
    content: bytes, random: np.random.Generator, aimed: Sequence[tuple[int, int]] = ()
) -> bytes:
    """The content with a few bytes flipped, a stretch zeroed or exchanged, or cut short."""
    changed = bytearray(content)
    while bytes(changed) == content:
        place = int(random.integers(len(content)))
        if aimed:
            start, length = aimed[int(random.integers(len(aimed)))]
            # The bytes before a text are its row's header.
            place = max(0, start + int(random.integers(-12, length)))
            changed[place] ^= int(random.integers(1, 256))
            continue
        kind = random.choice(["flip", "flip", "flip", "several", "zero", "exchange", "cut"])
        if kind in ("flip", "several"):
            for _ in range(1 if kind == "flip" else 4):
                changed[place] ^= int(random.integers(1, 256))
                place = int(random.integers(len(content)))
        elif kind == "zero":
            length = int(random.choice([16, 512, 4096]))
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        elif kind == "exchange":
            other = int(random.integers(len(content)))
            length = min(512, len(content) - max(place, other))
            changed[place : place + length] = content[other : other + length]
        else:
            del changed[place:]
    return bytes(changed)


def outcome(ask: Callable[[], object], expected: object, check: Callable[[], list[str]]) -> str:
    """What becomes of a question about something damaged."""
    try:
        if ask() == expected:
            return "same"
    except SiaSearchError:
        return "caught at once"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    try:
        return "caught by check" if check() else "silently wrong"
    except SiaSearchError:
        return "caught by check"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"


def gallery_case(world: World) -> Outcome:
    """A gallery of which a file is damaged."""

    def check() -> list[str]:
        with Gallery.open(world.gallery) as gallery:
            return gallery.check()

    return outcome(world.asked, world.answers, check), False


def large_case(world: World) -> Outcome:
    """A large index: asked at once, and once it is verified."""
    first = True
    try:
        with Gallery.open(world.gallery) as gallery:
            first = said(gallery, world.seen) == world.answers
            gallery._snapshots.verified()
            return outcome(
                lambda: said(gallery, world.seen), world.answers, gallery.check
            ), not first  # fmt: skip
    except SiaSearchError:
        return "caught at once", not first
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}", not first


@contextmanager
def large() -> Iterator[None]:
    """Every index is taken for a large one."""
    before, snapshots.SMALL_BYTES = snapshots.SMALL_BYTES, 0
    try:
        yield
    finally:
        snapshots.SMALL_BYTES = before


def encoder_case(folder: Path, expected: object) -> Outcome:
    """An encoder of which a file is damaged."""

    def check() -> list[str]:
        Encoder.open(folder, "cpu").verify_files()
        return []

    return outcome(lambda: embedded(folder), expected, check), False


def embedded(folder: Path) -> object:
    """What an encoder makes of a picture, and by what it decides."""
    encoder = Encoder.open(folder, "cpu")
    found = encoder.embed([picture(1), picture(2)])
    return found.round(4).tolist(), encoder.threshold, encoder.confidence(0.8), encoder.name


def run(kinds: list[str], cases: int, seed: int) -> dict[str, Any]:
    """Damage each kind so many times; outcomes by kind."""
    counts: dict[str, Counter[str]] = {}
    worst: list[str] = []
    logging.getLogger("siasearch").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["SIASEARCH_CACHE"] = ""
        world = World(root)
        with Gallery.open(world.gallery) as gallery:
            index = world.gallery / str(gallery.info().index)
        files = {
            "database": [world.gallery / "gallery.db"],
            "small index": [index],
            "large index": [index],
            "encoder": [world.toy / file for file in ("encoder.json", "encoder.onnx")],
            "cache": [],
        }
        expected = embedded(world.toy)
        for kind in kinds:
            random = np.random.default_rng([seed, list(files).index(kind)])
            if kind == "cache":
                os.environ["SIASEARCH_CACHE"] = str(root / "cache")
                embedded(world.toy)
                files[kind] = list((root / "cache").iterdir())
            found = counts[kind] = Counter()
            for number in range(cases):
                path = files[kind][number % len(files[kind])]
                sound = path.read_bytes()
                overwrite(path, damaged(sound, random, aims(path) if number % 2 else ()))
                if kind == "large index":
                    with large():
                        what, first = large_case(world)
                elif kind in ("encoder", "cache"):
                    what, first = encoder_case(world.toy, expected)
                else:
                    what, first = gallery_case(world)
                found[what.partition(":")[0]] += 1
                found["first answer wrong"] += first
                if what.startswith(("silently", "traceback")):
                    worst.append(f"{kind}, case {number}: {what}")
                if kind == "cache":  # a damaged one was written anew
                    shutil.rmtree(root / "cache")
                    (root / "cache").mkdir(mode=0o700)
                    path.write_bytes(sound)
                    path.chmod(0o600)
                else:
                    world.restore(path, sound)
            os.environ["SIASEARCH_CACHE"] = ""
        assert world.asked() == world.answers
    return {"outcomes": {kind: dict(found) for kind, found in counts.items()}, "faults": worst}


KINDS = ("database", "small index", "large index", "encoder", "cache")


def main() -> int:
    """Run, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1125, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=RESULTS / "damage.json")
    options = parser.parse_args()
    began = time.perf_counter()
    result = run(options.kinds, options.cases, options.seed) | {
        "cases of each kind": options.cases,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - began),
        "version": siamese_search.__version__,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
