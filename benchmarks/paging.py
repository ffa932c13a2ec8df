"""What does a page of a long list cost, through the server?

    python benchmarks/paging.py [--identities 100000]

A gallery of random embeddings is listed a page of 100 at a time: the first page, one far behind the
first, one that is jumped to, a search; and an identity with a fifth as many items.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import parser, seconds, table, write_results
from starlette.testclient import TestClient

from siamese_search import Gallery
from siamese_search.serving.app import application

BLOCK = 20_000
HOST = "testserver"


def enroll(gallery: Gallery, names: list[str], rng: np.random.Generator) -> None:
    """Enrol random embeddings under names."""
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        vectors = rng.normal(size=(len(block), gallery.encoder.dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        gallery.enroll_embeddings(vectors, block)


def main() -> None:
    arguments = parser(__doc__, repeats=9)
    arguments.add_argument("--identities", type=int, default=100_000)
    options = arguments.parse_args()
    count = options.identities
    far, many = f"thing {count * 9 // 10:07d}", count // 5
    pages = {
        "the first": "identities?limit=100",
        "behind 90 % of the names": f"identities?limit=100&after={far}",
        "jumped to behind 90 %": f"identities?limit=100&offset={count * 9 // 10}",
        "of a search": "identities?limit=100&search=THING 000",
        "of the next search": "identities?limit=100&search=G 00",
        "of an identity with many items": "identity?name=many&limit=100",
        "jumped to there": f"identity?name=many&limit=100&offset={many * 9 // 10}",
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "shop")
        with Gallery.open(folder, options.encoder) as gallery:
            rng = np.random.default_rng(0)
            enroll(gallery, [f"thing {number:07d}" for number in range(count)], rng)
            enroll(gallery, ["many"] * many, rng)
        found: dict[str, float] = {}
        with TestClient(application([folder], [HOST])) as client:
            for name, path in pages.items():

                def ask(path: str = path) -> None:
                    assert client.get(f"/api/v1/galleries/shop/{path}").status_code == 200

                first = 1000 * seconds(ask)
                again = [1000 * seconds(ask) for _ in range(options.repeats)]
                found[f"{name}, first time"] = first
                found[name] = statistics.median(again)
    rows = [(name, f"{value:.1f}") for name, value in found.items()]
    table(f"A page of {count:,} identities", ("page", "ms"), rows)
    write_results("paging", options.encoder, found)


if __name__ == "__main__":
    main()
