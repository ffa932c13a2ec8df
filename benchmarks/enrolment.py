"""How fast are images enrolled, from files to a committed gallery?

    python benchmarks/enrolment.py [--encoder general] [--repeats 3] [--loop-images 320]

Per repetition, in turn: a plain PyTorch loop (DataLoader with 0 and with 2 workers, torchvision
transforms, fp32 EfficientNet-Lite0 from timm, batch 32, torch's own number of threads) over a
seeded subset, decoding alone (read, hash, decode; a thread a core), encoding alone (ready batches
through the runtime), ``Gallery.enroll`` into a fresh gallery with a warm runtime, the same folder
again, and both as whole ``siasearch add`` processes. First over the 2,640 Grocery training
photos, then over 12-megapixel JPEGs made from some of them by enlarging and adding noise.

All figures are images per second. The limit is what decoding and encoding alone allow on the
same cores, 1 / (1/decode + 1/encode): at most, the product spends nothing on anything else. Bars
compare with the better of the two loops; the loop's model is loaded and warm. Files are in the
page cache.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from common import (
    Bars,
    data_folder,
    grocery_split,
    interleaved,
    lengths,
    median_ratio,
    medians,
    parser,
    seconds,
    siasearch,
    table,
    write_results,
)
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.embedding.pipeline import parallel_map, thread_pool
from siamese_search.pictures.read import content_hash, read_file

LARGE = (4000, 3000)
QUALITY = 90
BATCH = 16
LOOP_WORKERS = (0, 2)


# The plain loop, in a process of its own so that torch and OpenVINO do not share threads.

_loop_model: Any = None


def plain_loop(paths: Sequence[str], workers: int) -> float:
    """Images per second of the loop that anybody would write first."""
    import timm
    import torch
    from torch.utils.data import DataLoader

    global _loop_model
    if _loop_model is None:
        _loop_model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
        with torch.inference_mode():
            _loop_model(torch.zeros(BATCH, 3, 224, 224))
    files: Any = _Files(paths)
    embeddings: list[Any] = []

    def embed_all() -> None:
        with torch.inference_mode():
            loader: Any = DataLoader(files, batch_size=BATCH, num_workers=workers)
            embeddings.extend(_loop_model(batch) for batch in loader)

    took = seconds(embed_all)
    assert sum(map(len, embeddings)) == len(paths)
    return len(paths) / took


class _Files:
    """A torch data set of files."""

    def __init__(self, paths: Sequence[str]) -> None:
        from torchvision import transforms

        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(mean=[127 / 255] * 3, std=[128 / 255] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self._paths[index]) as image:
            return self._transform(image.convert("RGB"))


# The parts


def decode_alone(encoder: Encoder, paths: Sequence[str]) -> float:
    def load(path: str) -> int:
        data = read_file(path)
        return len(content_hash(data)) + encoder.decode(data).size

    def decode_all() -> None:
        with thread_pool() as pool:
            for _ in parallel_map(pool, load, paths, ahead=2 * BATCH):
                pass

    return len(paths) / seconds(decode_all)


def encode_alone(encoder: Encoder, batches: Sequence[npt.NDArray[np.uint8]]) -> float:
    def encode_all() -> None:
        workers = encoder.runtime.parallel
        with thread_pool(workers) as pool:
            for _ in parallel_map(pool, encoder.runtime.embed, batches, ahead=workers + 1):
                pass

    return sum(map(len, batches)) / seconds(encode_all)


# The product


class Product:
    """Enrols a folder into a fresh gallery, and again."""

    def __init__(self, encoder: Encoder, folder: Path, count: int, scratch: Path) -> None:
        self._encoder = encoder
        self._folder = folder
        self._count = count
        self._scratch = scratch

    def _fresh(self) -> str:
        return tempfile.mkdtemp(dir=self._scratch)

    def enroll(self) -> float:
        def enroll() -> None:
            with Gallery.open(gallery, self._encoder) as opened:
                assert opened.enroll([self._folder]).added == self._count

        self._enrolled = gallery = self._fresh()
        return self._count / seconds(enroll)

    def enroll_again(self) -> float:
        def enroll() -> None:
            with Gallery.open(self._enrolled, self._encoder) as opened:
                assert opened.enroll([self._folder]).skipped == self._count

        with patch.object(self._encoder, "decode", side_effect=AssertionError("it was decoded")):
            return self._count / seconds(enroll)

    def add(self) -> float:
        self._added = self._fresh()
        return self._process("added")

    def add_again(self) -> float:
        return self._process("skipped")

    def _process(self, counted: str) -> float:
        options = ("--gallery", self._added, "--encoder", str(self._encoder.folder), "--json")
        took, output = siasearch("add", str(self._folder), "--yes", *options)
        assert json.loads(output)[counted] == self._count
        return self._count / took


def measure(
    folder: Path, paths: Sequence[str], loop_paths: Sequence[str], encoder: Encoder, repeats: int
) -> dict[str, list[float]]:
    """Rates in images per second by what was measured."""
    ready = [encoder.decode(Path(path).read_bytes()) for path in paths[: 32 * BATCH]]
    batches = [np.stack(ready[at : at + BATCH]) for at in range(0, len(ready), BATCH)]
    encode_alone(encoder, batches[:2])
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as loops,
        tempfile.TemporaryDirectory() as scratch,
    ):
        product = Product(encoder, folder, len(paths), Path(scratch))
        loops.submit(plain_loop, loop_paths[:BATCH], 0).result()  # imports, loads and warms up
        tasks: dict[str, Callable[[], float]] = {
            f"loop, {workers} workers": partial(
                lambda workers: loops.submit(plain_loop, loop_paths, workers).result(), workers
            )
            for workers in LOOP_WORKERS
        }
        tasks |= {
            "decode alone": lambda: decode_alone(encoder, paths),
            "encode alone": lambda: encode_alone(encoder, batches),
            "enroll": product.enroll,
            "enroll again": product.enroll_again,
            "siasearch add": product.add,
            "siasearch add again": product.add_again,
        }
        raw = interleaved(tasks, repeats)
    pairs = zip(raw["decode alone"], raw["encode alone"], strict=True)
    raw["limit"] = [1 / (1 / decode + 1 / encode) for decode, encode in pairs]
    raw["better loop"] = max(
        (raw[f"loop, {n} workers"] for n in LOOP_WORKERS), key=statistics.median
    )
    return raw


def enlarge(paths: Sequence[str], folder: Path, seed: int) -> list[str]:
    """Make a 12-megapixel JPEG of each photo, with a camera's noise."""
    noise = np.random.default_rng(seed).normal(0, 4, (*LARGE[::-1], 3)).astype(np.int16)

    def make(number: int) -> str:
        with Image.open(paths[number]) as photo:
            pixels = np.asarray(photo.convert("RGB").resize(LARGE), np.int16)
        noisy = np.clip(pixels + np.roll(noise, 997 * number), 0, 255).astype(np.uint8)
        target = folder / f"{number}.jpg"
        Image.fromarray(noisy).save(target, quality=QUALITY)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(make, range(len(paths))))


def report(
    title: str,
    raw: dict[str, list[float]],
    bars: Bars,
    times_loop: float,
    barred: Sequence[str] = ("enroll", "siasearch add"),
) -> None:
    rates = medians(raw)
    table(title, ("images per second", "median", "all"), [
        (name, f"{rate:.1f}", " ".join(f"{value:.1f}" for value in raw[name]))
        for name, rate in rates.items()
    ])  # fmt: skip
    for name in barred:
        of_loop = median_ratio(raw[name], raw["better loop"])
        bars.at_least(f"{title}: {name} / better loop", of_loop, times_loop, "×")
        of_limit = 100 * median_ratio(raw[name], raw["limit"])
        bars.at_least(f"{title}: {name} / limit (aim 85)", of_limit, 75, " %")


def draw(raw: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plot the rates of first enrolments beside their limit."""
    panels = {}
    for name, title in (("photos", "Photos"), ("large", "12 megapixels")):
        if name in raw:
            middle = medians(raw[name])
            left = [what for what in middle if what.endswith("again") or what == "better loop"]
            panels[title] = {what: rate for what, rate in middle.items() if what not in left}
    lengths("enrolment", panels, across="images a second")


def main() -> None:
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--loop-images", type=int, default=320, help="default 320")
    arguments.add_argument("--large-images", type=int, default=80, help="default 80; 0: none")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    chance = random.Random(options.seed)
    bars = Bars()
    paths = [photo.path for photo in grocery_split("train")]
    subset = chance.sample(paths, options.loop_images)
    folder = data_folder() / "grocery" / "train"
    raw = {"photos": measure(folder, paths, subset, encoder, options.repeats)}
    report(f"{len(paths)} photos", raw["photos"], bars, times_loop=10)
    for name in ("enroll", "siasearch add"):
        again = median_ratio(raw["photos"][f"{name} again"], raw["photos"][name])
        bars.at_least(f"{len(paths)} photos: {name} again / first time", again, 20, "×")
    if options.large_images:
        with tempfile.TemporaryDirectory() as temporary:
            large = enlarge(subset[: options.large_images], Path(temporary), options.seed)
            raw["large"] = measure(
                Path(temporary), large, large[: max(8, len(large) // 2)], encoder, options.repeats
            )
            size = sum(Path(path).stat().st_size for path in large) / len(large) / 2**20
        title = f"{len(large)} JPEGs of 12 megapixels, {size:.1f} MiB each"
        # So few images take hardly longer than starting a process, which is not the question.
        report(title, raw["large"], bars, times_loop=6, barred=("enroll",))
    bars.show()
    draw(raw)
    settings = {
        "loop_images": options.loop_images,
        "large_images": options.large_images,
        "seed": options.seed,
        "unit": "images per second",
    }
    write_results("enrolment", options.encoder, {**settings, "raw": raw, "bars": bars.rows})


if __name__ == "__main__":
    main()
