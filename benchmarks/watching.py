"""Drop files into a watched folder in bursts and kill the watcher: each must be enrolled once.

    python benchmarks/watching.py [--files 10000] [--bursts 5] [--kills 10] [--encoder general-2]

Files of many folders are written in bursts, a third of each file first and the rest after others,
while ``siasearch watch`` runs and is killed by SIGKILL at random moments; some are moved. In the
end it runs until all are enrolled. Counted are the files that are missing, enrolled twice or
rejected, and what ``siasearch check`` finds. Writes ``results/watching.json``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from common import ROOT, Bars, parser, siasearch, write_results

sys.path.insert(0, str(ROOT / "tests"))

from conftest import picture

from siamese_search import Gallery

FOLDERS = 50
OPEN = 20  # files that are half-written at a time


def drop(into: Path, numbers: list[int]) -> None:
    """Write these files, each in two steps."""
    half: list[tuple[Path, bytes]] = []

    def finish() -> None:
        place, rest = half.pop(0)
        with open(place, "ab") as file:
            file.write(rest)

    for number in numbers:
        written = BytesIO()
        picture(number).save(written, "PNG")
        data = written.getvalue()
        place = into / f"identity {number % FOLDERS}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data[: len(data) // 3])
        half.append((place, data[len(data) // 3 :]))
        if len(half) > OPEN:
            finish()
    while half:
        finish()


def enrolled(gallery: Path) -> int:
    """How many items there are now."""
    if not Gallery.exists(gallery):
        return 0
    with Gallery.open(gallery) as opened:
        return len(opened)


def main() -> None:
    """Run it."""
    options = parser(__doc__, 1)
    options.set_defaults(encoder="general-2")
    options.add_argument("--files", type=int, default=10_000)
    options.add_argument("--bursts", type=int, default=5)
    options.add_argument("--kills", type=int, default=10)
    given = options.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as work:
        into, gallery, said = Path(work, "in"), Path(work, "gallery"), Path(work, "said")
        into.mkdir()

        def start() -> subprocess.Popen[bytes]:
            command = ["-m", "siamese_search", "watch", str(into), "-g", str(gallery)]
            with open(said, "ab") as output:
                return subprocess.Popen(
                    [sys.executable, *command, "--encoder", given.encoder],
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                )

        def bursts() -> None:
            for burst in range(given.bursts):
                drop(into, list(range(burst, given.files, given.bursts)))
                time.sleep(chance.uniform(0, 5))

        begun = time.monotonic()
        dropping = threading.Thread(target=bursts)
        dropping.start()
        process, kills = start(), 0
        while dropping.is_alive() or enrolled(gallery) < given.files:
            time.sleep(chance.uniform(3, 10))
            if kills < given.kills:
                process.kill()
                process.wait()
                kills += 1
                moved = chance.choice(sorted(into.rglob("*.png")))
                with suppress(OSError):  # it may be half-written
                    moved.rename(moved.with_name(f"moved {moved.name}"))
                process = start()
        dropping.join()
        took = time.monotonic() - begun
        time.sleep(5)
        process.terminate()
        process.wait()
        with Gallery.open(gallery) as opened:
            items = [item for name, _ in opened.identities() for item in opened.items(name)]
            faults = [str(fault) for fault in opened.check()]
        names = Counter(Path(item.source or "").name.removeprefix("moved ") for item in items)
        wanted = {f"{number}.png" for number in range(given.files)}
        wrong = sum(
            int(Path(item.source or "").stem.removeprefix("moved ")) % FOLDERS
            != int(item.identity.split()[1])
            for item in items
        )
        begun = time.monotonic()
        _, printed = siasearch("add", str(into), "-g", str(gallery), "--json")
        again, report = time.monotonic() - begun, json.loads(printed)
        figures = {
            "files": given.files,
            "bursts": given.bursts,
            "kills": kills,
            "missing": len(wanted - names.keys()),
            "twice": sum(count - 1 for count in names.values()),
            "under another identity": wrong,
            "faults": len(faults),
            "added by `add` afterwards": report["added"],
            "seconds": took,
            "seconds of `add` over all of it": again,
            "rejected while half-written": said.read_text().count("rejected: /"),
        }
        bars = Bars()
        for what in ("missing", "twice", "under another identity", "faults"):
            bars.at_most(what, figures[what], 0)
        bars.at_most("added by `add` afterwards", report["added"], 0)
        print(json.dumps(figures, indent=1))
        bars.show()
        write_results("watching", given.encoder, figures | {"bars": bars.rows})


if __name__ == "__main__":
    main()
