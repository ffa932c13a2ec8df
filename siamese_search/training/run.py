"""``train``: from pictures to an encoder folder, and a record of how it came about."""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from siamese_search import enrolment
from siamese_search.errors import StorageError, TrainingError
from siamese_search.records import ImageFile, Preprocessing, Progress, Rejection
from siamese_search.training import checkpoint, distributed, outcome
from siamese_search.training.augmentation import PRESETS
from siamese_search.training.data import Pictures, Split, decode, regular, roomy, split
from siamese_search.training.loop import Epoch, Trainer
from siamese_search.training.settings import Settings
from siamese_search.training.starting import starting_point

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class TrainingReport:
    """What a run did. ``recall`` is recall@1 on what was held out, before and after."""

    encoder: str
    fingerprint: str
    dimension: int
    steps: int
    classes: int
    pictures: int
    held_out: str
    recall_before: float | None
    recall: float | None
    threshold: float
    rejected: tuple[Rejection, ...]


def train(
    images: Iterable[str | os.PathLike[str] | ImageFile],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    name: str | None = None,
    resume: bool = False,
    device: str | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    tell: Callable[[Epoch], None] = lambda epoch: None,
    warn: Callable[[str], None] = lambda message: None,
) -> TrainingReport:
    """Train an encoder on folders of pictures and write it to the folder ``out``.

    Identities are found as in ``Gallery.enroll``. ``resume`` goes on from the checkpoint in
    ``out``, bit for bit on one thread. ``tell`` gets every epoch's metrics, which also go to
    ``out/metrics.jsonl``; ``warn`` gets what a user should know of. Raises UsageError,
    TrainingError, EncoderError or StorageError.
    """
    with distributed.joined(device or _device()) as place:
        return _train(
            images, Path(out), (settings or Settings()).resolved(), name, resume, place, watch,
            tell, warn,
        )  # fmt: skip


def _train(
    images: Iterable[str | os.PathLike[str] | ImageFile],
    folder: Path,
    settings: Settings,
    name: str | None,
    resume: bool,
    device: str,
    watch: Callable[[Progress], None],
    tell: Callable[[Epoch], None],
    warn: Callable[[str], None],
) -> TrainingReport:
    if distributed.rank() == 0:
        _prepare(folder, resume)
    network, architecture, how = starting_point(settings)
    files, rejected = _files(images)
    parts = split(files, settings.holdout, settings.seed)
    _advise(parts, settings, warn)
    training, held, more = _decoded(parts, settings, how, watch)
    rejected += more
    trainer = Trainer(network, settings, training, held, how, device)
    path = folder / checkpoint.NAME
    before = _begin(trainer, path, resume)
    batch = trainer.sampler.classes * settings.images

    def count(step: int, loss: float) -> None:
        recall = f", recall@1 {trainer.best[0]:.1%}" if held is not None and trainer.best else ""
        watch(Progress(f"loss {loss:.3f}{recall}", step * batch, settings.steps * batch))

    steps = trainer.train(count)
    if distributed.rank() > 0:  # the first process writes and tells
        for _ in steps:
            pass
        return distributed.told(cast(TrainingReport, None))
    with _metrics(folder / METRICS, trainer.step) as lines:
        for epoch in steps:
            # Metrics first: a line of an epoch that no checkpoint has is dropped on resuming.
            lines.write(json.dumps(asdict(epoch)) + "\n")
            lines.flush()
            trainer.save(path)
            tell(epoch)
    trainer.blend()
    assert trainer.best is not None
    trainer.averaged.load_state_dict(trainer.best[1])
    recall = trainer.best[0] if held is not None else None
    judged = held if held is not None else _seen(parts.training, settings, how)
    classes = len(set(training.labels.tolist()))
    facts = {
        "settings": asdict(settings),
        "augmentation": asdict(PRESETS[settings.augmentation]),
        "data": {
            "classes": classes,
            "pictures": len(training),
            "held out": parts.how,
            "held-out pictures": len(held) if held is not None else 0,
        },
        "steps": trainer.step,
        "recall@1 before": before,
        "recall@1": recall,
    }
    encoder, embeddings = outcome.export(
        folder, name or folder.resolve().name, trainer.averaged, architecture, how, judged, facts
    )
    _draw(folder, before, embeddings, judged, encoder.threshold, warn)
    report = TrainingReport(
        encoder=str(folder),
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        steps=trainer.step,
        classes=classes,
        pictures=len(training),
        held_out=parts.how,
        recall_before=before,
        recall=recall,
        threshold=encoder.threshold,
        rejected=tuple(rejected),
    )
    return distributed.told(report)


def _prepare(folder: Path, resume: bool) -> None:
    """Make the folder; refuse to overwrite an earlier run, or to resume none."""
    there = (folder / checkpoint.NAME).exists()
    if resume and not there:
        raise TrainingError(f"{folder} has no {checkpoint.NAME} to resume from")
    if not resume and (there or (folder / "encoder.json").exists()):
        raise TrainingError(f"{folder} holds an earlier run: --resume it, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{METRICS}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def _files(
    images: Iterable[str | os.PathLike[str] | ImageFile],
) -> tuple[list[ImageFile], list[Rejection]]:
    found: list[ImageFile | Rejection] = []
    for one in [images] if isinstance(images, (str, os.PathLike)) else images:
        if isinstance(one, ImageFile):
            found.append(one)
        else:
            found += enrolment.not_empty(enrolment.find([os.fspath(one)]), [os.fspath(one)])
    return regular(found)


def _advise(parts: Split, settings: Settings, warn: Callable[[str], None]) -> None:
    if parts.how == "pictures":
        warn("few classes: pictures of each are held out in place of classes, so recall@1 flatters")
    elif parts.how == "none":
        warn("nothing can be held out: there is no early stopping, and the threshold is a guess")
    single = sum(n == 1 for n in Counter(file.identity for file in parts.training).values())
    if single and settings.loss != "self-supervised":
        warn(f"{single} classes have one picture each: its altered views are their only pairs")


def _decoded(
    parts: Split, settings: Settings, how: Preprocessing, watch: Callable[[Progress], None]
) -> tuple[Pictures, Pictures | None, list[Rejection]]:
    classes = {
        name: number for number, name in enumerate(sorted({f.identity for f in parts.training}))
    }
    training, rejected = decode(parts.training, classes, roomy(how), settings.cache_bytes, watch)
    # A class may have lost all of its pictures: numbers run on without gaps.
    kept = sorted(set(training.labels.tolist()))
    if len(kept) < 2:
        raise TrainingError("fewer than two classes are left once damaged pictures are rejected")
    renumbered = {label: number for number, label in enumerate(kept)}
    for position, label in enumerate(training.labels.tolist()):
        training.labels[position] = renumbered[label]
    if not parts.validation:
        return training, None, rejected
    names = {
        name: number for number, name in enumerate(sorted({f.identity for f in parts.validation}))
    }
    held, more = decode(parts.validation, names, how, settings.cache_bytes, watch)
    return training, held if len(held) > 1 else None, rejected + more


def _seen(files: list[ImageFile], settings: Settings, how: Preprocessing) -> Pictures:
    """Training pictures as queries see them, to calibrate on where nothing else is left."""
    classes = {name: number for number, name in enumerate(sorted({f.identity for f in files}))}
    return decode(files[:: 1 + len(files) // 2000], classes, how, settings.cache_bytes)[0]


def _begin(trainer: Trainer, path: Path, resume: bool) -> float | None:
    """Load the checkpoint, or measure what the starting point reaches untrained."""
    if resume:
        trainer.load(path)
        record = path.with_name("before.json")
        before: float | None = None
        if record.exists():
            before = json.loads(record.read_text())["recall@1"]
        return before
    before = None
    if trainer.validation is not None:
        before = trainer.validate()
    if before is not None and distributed.rank() == 0:
        path.with_name("before.json").write_text(json.dumps({"recall@1": before}) + "\n")
    return before


def _metrics(path: Path, step: int) -> Any:
    """The metrics file, without lines of steps after the checkpoint that is resumed from."""
    content = path.read_bytes() if path.exists() else b""
    end = 0
    for line in content.splitlines(keepends=True):
        # A killed run may leave half a line.
        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
            break
        end += len(line)
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115  the caller closes it
    file.truncate(end)
    return file


def _draw(
    folder: Path,
    before: float | None,
    embeddings: Any,
    judged: Pictures,
    threshold: float,
    warn: Callable[[str], None],
) -> None:
    """The plots, where the libraries for them are installed."""
    if any(importlib.util.find_spec(module) is None for module in ("matplotlib", "sklearn")):
        warn("no plots: pip install 'siasearch[plot]'")
        return
    from siamese_search.training import plots

    epochs = [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]
    plots.draw(folder, epochs, before, embeddings, judged.labels, threshold)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
