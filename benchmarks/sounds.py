"""A gallery of sounds, with the encoder of thirty lines in docs/encoders/sounds_encoder.py.

Strokes on drums and other instruments, each recorded at several strengths: Debian's package
``hydrogen-drumkits`` (or ``--kits``, a folder of folders of ``INSTRUMENT-STRENGTH.wav``). What is
the same recording again, louder or softer, is left out. In each draw 30 instruments are enrolled,
with all strokes but one, which is asked about; instruments that are not among them are strangers.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import wave
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from common import ROOT, parser, table, write_results

from siamese_search import Gallery
from siamese_search.arrays import FloatArray
from siamese_search.records import ImageFile

sys.path.insert(0, str(ROOT / "docs" / "encoders"))
from sounds_encoder import Sounds

KITS = Path("/usr/share/hydrogen/data/drumkits")
STROKE = re.compile(r"(.+)-(\d|Softest|Soft|Med|Hard|Hardest)")
IDENTITIES = 30
FEWEST = 4  # strokes of an instrument
RATE = 0.1  # what 30 identities can tell
SAME = 0.99  # correlation of samples from which on two files are one recording
KINDS = ("right one", "right one, calibrated", "TPIR", "FPIR")


def recordings(kits: Path) -> dict[str, list[Path]]:
    """The strokes of each instrument that has enough of them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(kits.glob("*/*.wav")):
        stroke = STROKE.fullmatch(path.stem)
        if stroke:
            found[f"{path.parent.name}/{stroke[1]}"].append(path)
    each = {name: distinct(paths) for name, paths in found.items()}
    return {name: paths for name, paths in each.items() if len(paths) >= FEWEST}


def distinct(paths: Sequence[Path]) -> list[Path]:
    """Without files that are an earlier one, louder or softer."""
    kept: list[Path] = []
    heard: list[FloatArray] = []
    for path in paths:
        samples = beginning(path)
        if not any(correlation(samples, other) > SAME for other in heard):
            kept.append(path)
            heard.append(samples)
    return kept


def beginning(path: Path) -> FloatArray:
    """The first samples of a file (n,), of unit length."""
    with wave.open(str(path)) as file:
        channels, width, _, _ = file.getparams()[:4]
        data = np.frombuffer(file.readframes(20_000), np.uint8).reshape(-1, width)
    wide = np.pad(data, ((0, 0), (4 - width, 0))).view("<i4")
    samples: FloatArray = wide.reshape(-1, channels).mean(axis=1).astype(np.float32)
    return samples


def correlation(a: FloatArray, b: FloatArray) -> float:
    length = min(len(a), len(b))
    a, b = a[:length], b[:length]
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)


def draw(sounds: Mapping[str, Sequence[Path]], seed: int, folder: Path) -> dict[str, float]:
    """Per cent of held-out strokes whose instrument is the best candidate, and is named; and of
    strangers who get a name.
    """
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.permutation(sorted(sounds))]
    probes = {
        name: sounds[name][int(rng.integers(len(sounds[name])))] for name in names[:IDENTITIES]
    }
    strangers = [str(path) for name in names[IDENTITIES:] for path in sounds[name]]
    with Gallery.open(folder, encoder=Sounds()) as gallery:
        gallery.enroll(
            ImageFile(str(path), name)
            for name, probe in probes.items()
            for path in sounds[name]
            if path != probe
        )
        asked = [str(path) for path in probes.values()]

        def right() -> tuple[float, float]:
            pairs = list(zip(gallery.identify(asked), probes, strict=True))
            first = [answer.matches[0].identity == name for answer, name in pairs]
            named = [answer.identity == name for answer, name in pairs]
            return 100 * statistics.fmean(first), 100 * statistics.fmean(named)

        before, _ = right()
        gallery.calibrate(RATE)
        after, named = right()
        strange = [answer.identity is not None for answer in gallery.identify(strangers)]
    return dict(zip(KINDS, (before, after, named, 100 * statistics.fmean(strange)), strict=True))


def main() -> None:
    arguments = parser(__doc__, repeats=10)
    arguments.add_argument("--kits", type=Path, default=KITS)
    options = arguments.parse_args()
    sounds = recordings(options.kits)
    if len(sounds) <= IDENTITIES:
        sys.exit(f"{len(sounds)} instruments in {options.kits}: apt-get install hydrogen-drumkits")
    draws = []
    for seed in range(options.repeats):
        with tempfile.TemporaryDirectory() as place:
            draws.append(draw(sounds, seed, Path(place)))
    files = sum(map(len, sounds.values()))
    rows = [
        (kind, f"{statistics.fmean(one[kind] for one in draws):.1f}",
         f"{min(one[kind] for one in draws):.1f}", f"{max(one[kind] for one in draws):.1f}")
        for kind in KINDS
    ]  # fmt: skip
    title = f"{IDENTITIES} of {len(sounds)} instruments ({files} recordings), {len(draws)} draws"
    table(f"{title}, per cent", ("", "mean", "least", "most"), rows)
    found = {"instruments": len(sounds), "recordings": files, "draws": draws}
    write_results("sounds", Sounds(), found)


if __name__ == "__main__":
    main()
