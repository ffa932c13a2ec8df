"""A rehearsal: how long a run would take here, by a few steps on some of its pictures.

Writes nothing.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from siamese_search.errors import TrainingError
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.records import ImageFile, Progress, Rejection
from siamese_search.training import hardware
from siamese_search.training.data import Split, cautions, decode, roomy, split
from siamese_search.training.loop import Trainer
from siamese_search.training.pace import in_words, looking, pace
from siamese_search.training.resolution import cost, cost_from
from siamese_search.training.settings import Settings
from siamese_search.training.starting import starting_point

STEPS = 4  # that are timed, after one that is slower
HELD = 64  # pictures that are embedded


@dataclass(frozen=True)
class Estimate:
    """How long a run would take: ``steps`` batches of so many ``pictures`` at a ``rate`` per
    second at first, and ``other`` seconds to decode and to look at what is held out. All steps do
    ``work`` times what one of these does.
    """

    steps: int
    pictures: int
    rate: float
    other: float
    work: float

    @property
    def seconds(self) -> float:
        return self.work / self.rate + self.other

    def __str__(self) -> str:
        return in_words(self.steps, self.pictures, self.rate, self.other, self.work)


def rehearse(
    files: Iterable[ImageFile | Rejection],
    settings: Settings,
    device: str | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Estimate:
    """Time a few steps on some of the files, and warn as ``train`` would; errors as there, too."""
    asked = settings.resolved()
    chosen = hardware.device(device)
    some = [file for file in files if isinstance(file, ImageFile)]
    if asked.loss == "self-supervised" and len({file.identity for file in some}) < 2:
        some = [replace(file, identity=file.path) for file in some]
    with hardware.generators_kept(chosen), hardware.out_of_memory_explained(asked):
        start = starting_point(asked)
        parts = split(some, asked.holdout, asked.seed)
        counts = Counter(file.identity for file in parts.training)
        for caution in cautions(parts, counts.values(), asked.loss):
            warn(caution)
        batch = _batch(parts.training, asked)
        names = {name: number for number, name in enumerate(sorted({f.identity for f in batch}))}
        begun = time.perf_counter()
        training, _ = decode(batch, names, roomy(start.how), asked.cache_bytes, watch)
        decoding = (time.perf_counter() - begun) / len(batch) * len(parts.training)
        if len(set(training.labels.tolist())) < len(names):
            raise TrainingError("some of the pictures are damaged: train, which names them")
        at_first = 1.0 if asked.coarse and asked.steps else 0.0
        few = replace(asked, steps=STEPS + 1, epoch_steps=STEPS + 1, coarse=at_first)
        trainer = Trainer(start.network, few, training, None, start.how, chosen)
        looks = 1 - (-asked.steps // asked.epoch_steps)  # one before the first step
        other = decoding + _beside(trainer, parts, start.how, looks)
        rate = _rate(trainer, watch) if asked.steps else 1.0  # of no steps any will do
        work = cost_from(0, asked, trainer.size) / cost(1, few, trainer.size)
        return Estimate(asked.steps, trainer.batches.pictures, rate, other, work)


def _rate(trainer: Trainer, watch: Callable[[Progress], None]) -> float:
    """Steps a second, without the first."""
    times: list[float] = []

    def count(step: int, _: float) -> None:
        times.append(time.perf_counter())
        watch(Progress("timing", step, trainer.settings.steps))

    for _ in trainer.train(count):
        pass
    return pace(times)


def _beside(trainer: Trainer, parts: Split, how: Preprocessing, looks: int) -> float:
    """Seconds to decode what is held out, and for all that is embedded beside the steps."""
    some = parts.validation[:HELD]
    if not some:
        return 0.0
    begun = time.perf_counter()
    shown, _ = decode(some, {file.identity: 0 for file in some}, how, 1 << 30)
    decoded = time.perf_counter()
    if not len(shown):
        return 0.0
    trainer.embed(shown)
    took = (time.perf_counter() - decoded) / len(shown)
    held = len(parts.validation)
    decoding = (decoded - begun) * held / len(some)
    return decoding + looking(took, held, len(parts.training), looks)


def _batch(files: Sequence[ImageFile], settings: Settings) -> list[ImageFile]:
    """As many classes and pictures of each as a batch has."""
    members: dict[str, list[ImageFile]] = defaultdict(list)
    for file in files:
        members[file.identity].append(file)
    fullest = sorted(members.values(), key=len, reverse=True)[: settings.classes]
    return [file for own in fullest for file in own[: settings.images]]
