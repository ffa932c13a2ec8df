"""Videos: what frames lose against pictures, what they cost, and what damaged files do.

    python benchmarks/videos.py [--photos 150] [--damaged 160] [--encoder general-2]
    python benchmarks/videos.py --film film.mp4

Photos of the Grocery Store Dataset's test split are asked about as files, and as frames of a video
that shows each for a second (H.264 as x264 makes it unless told otherwise), against a gallery of
five photos of each class of the training split. Half a minute of 1080p at 30 frames a second is
read at a step of 1 and of 10 seconds: the processor's seconds of the process that decodes. Videos
of several kinds with bytes changed or their end cut off are read: each must end in frames, or be
refused, and in nothing else. Writes ``results/videos.json``. With ``--film`` only a video of five
photos, 2 seconds each, is written.
"""

from __future__ import annotations

import random
import resource
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import Bars, grocery_split, parser, write_results
from PIL import Image, ImageOps

from siamese_search import Gallery
from siamese_search.errors import ImageError
from siamese_search.pictures.video import frames
from siamese_search.records import ImageFile

RATE = 10  # frames a second
EACH = 5  # photos of a class that are enrolled
SIDE = 348  # of the photos
SHOWN = 5  # photos of the film
KINDS = (
    ("mp4", "libx264"), ("mov", "mpeg4"), ("mkv", "libx265"), ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"), ("ts", "libx264"), ("mpg", "mpeg2video"), ("flv", "flv1"),
)  # fmt: skip


def write(
    path: Path,
    pictures: Iterable[Image.Image],
    each: int = RATE,
    codec: str = "libx264",
    rate: int = RATE,
    **options: str,
) -> None:
    """A video that shows each picture for so many frames."""
    with av.open(str(path), "w") as container:
        stream: Any = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=options)
                stream.width, stream.height = picture.size
                stream.pix_fmt = "yuv420p"
            for _ in range(each):
                frame = av.VideoFrame.from_ndarray(np.asarray(picture), "rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def square(path: str) -> Image.Image:
    """A photo at the size of all."""
    with Image.open(path) as image:
        return ImageOps.fit(image.convert("RGB"), (SIDE, SIDE))


def panned(path: str, count: int) -> Iterable[Image.Image]:
    """So many frames of 1080p across a photo."""
    with Image.open(path) as image:
        wide = image.convert("RGB").resize((2400, 1350), Image.Resampling.BICUBIC)
    for number in range(count):
        left, top = 480 * number // count, 270 * number // count
        yield wide.crop((left, top, left + 1920, top + 1080))


def likeness(work: Path, photos: int, encoder: str) -> dict[str, float]:
    """How many photos are named right as files and as frames, and how often both say the same."""
    chosen = random.Random(1).sample(grocery_split("test"), photos)
    pictures = [square(photo.path) for photo in chosen]
    write(work / "film.mp4", pictures)
    for number, picture in enumerate(pictures):
        picture.save(work / f"{number:04}.png")
    files = [work / f"{number:04}.png" for number in range(photos)]
    seen: Counter[str] = Counter()
    enrolled = []
    for photo in grocery_split("train"):
        seen[photo.fine] += 1
        if seen[photo.fine] <= EACH:
            enrolled.append(ImageFile(photo.path, photo.fine))
    with Gallery.open(work / "gallery", encoder) as gallery:
        gallery.enroll(enrolled)
        by_file = [one.matches[0] for one in gallery.identify(files)]
        shown = frames(work / "film.mp4", 1.0)
        by_frame = [gallery.identify(frame)[0].matches[0] for frame in shown]
    assert len(by_frame) == photos
    names = [photo.fine for photo in chosen]
    return {
        "photos": photos,
        "right as files": sum(m.identity == n for m, n in zip(by_file, names, strict=True)),
        "right as frames": sum(m.identity == n for m, n in zip(by_frame, names, strict=True)),
        "the same": sum(a.identity == b.identity for a, b in zip(by_file, by_frame, strict=True)),
        "score lost": float(
            np.mean([a.score - b.score for a, b in zip(by_file, by_frame, strict=True)])
        ),
    }


def costs(work: Path) -> dict[str, float]:
    """The processor's seconds to read half a minute of 1080p, at two steps."""
    path = work / "large.mp4"
    photo = grocery_split("test")[0].path
    write(path, panned(photo, 900), 1, rate=30, preset="veryfast", g="60")

    def used() -> float:
        found = resource.getrusage(resource.RUSAGE_CHILDREN)
        return found.ru_utime + found.ru_stime

    result = {}
    for step in (1, 10):
        before = used()
        count = sum(1 for _ in frames(path, step))
        result[f"seconds at a step of {step}"] = used() - before
        result[f"frames at a step of {step}"] = count
    return result


def damage(work: Path, cases: int) -> Counter[str]:
    """What reading damaged videos ends in."""
    chance = random.Random(1)
    pictures = [square(photo.path).resize((96, 96)) for photo in grocery_split("test")[:20]]
    whole = []
    for suffix, codec in KINDS:
        path = work / f"whole.{suffix}"
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        write(path, pictures, 2, codec, 25, **quiet)
        whole.append((suffix, path.read_bytes()))
    ends: Counter[str] = Counter()
    for case in range(cases):
        suffix, data = whole[case % len(whole)]
        hurt = bytearray(data)
        if chance.random() < 0.25:
            del hurt[chance.randrange(len(hurt)) :]
        reach = chance.choice((64, 1024, len(hurt)))  # headers decide most
        for _ in range(chance.choice((1, 4, 32))):
            if hurt:
                hurt[chance.randrange(min(reach, len(hurt)))] = chance.randrange(256)
        path = work / f"hurt.{suffix}"
        path.write_bytes(hurt)
        count = 0
        try:
            for _ in frames(path, 0.04):
                count += 1
            ends["all frames" if count == 40 else "fewer frames, and nothing said"] += 1
        except ImageError as error:
            died = "decoder" in str(error)
            ends["the process died, and it was refused" if died else
                 "some frames, and the damage said" if count else "refused"] += 1  # fmt: skip
        except Exception as error:
            print(f"{path.suffix}, case {case}: {error!r}")
            ends["anything else"] += 1
    return ends


def main() -> None:
    """Run it."""
    options = parser(__doc__, 1)
    options.set_defaults(encoder="general-2")
    options.add_argument("--photos", type=int, default=150)
    options.add_argument("--damaged", type=int, default=160)
    options.add_argument("--film", type=Path)
    given = options.parse_args()
    if given.film is not None:
        chosen = random.Random(2).sample(grocery_split("test"), SHOWN)
        write(given.film, (square(photo.path) for photo in chosen), 2 * RATE)
        return
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        figures = likeness(work, given.photos, given.encoder) | costs(work)
        ends = damage(work, given.damaged)
    for name, value in (*figures.items(), *sorted(ends.items())):
        print(f"  {name}: {value:.4g}")
    bars = Bars()
    bars.at_most("damaged files that end in anything else", ends["anything else"], 0)
    bars.show()
    write_results("videos", given.encoder, {**figures, "damaged": ends, "bars": bars.rows})


if __name__ == "__main__":
    main()
