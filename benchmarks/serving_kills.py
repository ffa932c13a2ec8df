"""Kill the server while it enrols, again and again: is anything lost that it has acknowledged?

    python benchmarks/serving_kills.py [--kills 200] [--seed 1] [--folder DIR]

``siasearch serve`` is started, three clients enrol pictures, one or two a request, and at a random
moment the process is killed by SIGKILL. Then every item that was answered with 201 must be in the
gallery, with its copy, and ``identify`` must find it. The next server goes on with that gallery.
In the end all of them are looked for once more, and ``check`` compares database, files and index.

With ``--folder``, a run that was interrupted goes on when it is started again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from common import parser, table, write_results

from siamese_search import Gallery

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from loading import Acknowledged, killed, lost


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--folder", type=Path, help="keeps the gallery and what is known of it")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = options.folder or Path(scratch)
        folder, journal = place / "shop", place / "acknowledged.jsonl"
        Gallery.open(folder, options.encoder).close()
        rounds = [json.loads(line) for line in journal.open()] if journal.is_file() else []
        faults: list[str] = []
        for number in range(len(rounds), options.kills):
            new = killed(folder, 1000 * options.seed + number)
            with Gallery.open(folder) as gallery:
                faults += lost(gallery, new)
            rounds.append([asdict(one) for one in new])
            with journal.open("a") as file:
                file.write(json.dumps(rounds[-1]) + "\n")
            print(f"{number + 1}/{options.kills}: {len(new)} acknowledged", file=sys.stderr)
            for fault in faults:
                print(fault, file=sys.stderr)
        known = [Acknowledged(**one) for each in rounds for one in each]
        with Gallery.open(folder) as gallery:
            faults += lost(gallery, known)
            faults += gallery.check()
            items = len(gallery)
    found = {"kills": len(rounds), "acknowledged": len(known), "items": items, "lost": len(faults)}
    table("Kills", ("what", "count"), list(found.items()))
    for fault in faults:
        print(fault)
    write_results("serving_kills", options.encoder, found)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
