"""``train``: from pictures to an encoder folder, and a record of how it came about.

Knows nothing of galleries.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from siamese_search.arrays import IntArray
from siamese_search.decision.trained import Known, View, trained_record
from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.errors import TrainingError, UsageError, require_type
from siamese_search.files import write_whole
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.sources import places_of
from siamese_search.records import ImageFile, Progress, Rejection
from siamese_search.training import checkpoint, distributed, hardware, judging, outcome
from siamese_search.training.as_gallery import AsGallery
from siamese_search.training.augmentation import PRESETS
from siamese_search.training.data import (
    SOME,
    Pictures,
    Split,
    cautions,
    decode,
    found_files,
    roomy,
    split,
)
from siamese_search.training.loop import Epoch, Trainer
from siamese_search.training.pace import Pace, looking
from siamese_search.training.place import BEFORE, METRICS, taken
from siamese_search.training.plan import Plan
from siamese_search.training.resolution import cost, cost_from
from siamese_search.training.selection import Selection
from siamese_search.training.settings import Settings
from siamese_search.training.starting import Start, starting_point
from siamese_search.words import counted


@dataclass(frozen=True)
class TrainingReport:
    """What a run did. ``recall`` is recall@1 on what was held out, before and after.

    ``gained`` is how much mAP@R rose there over the starting point, with its standard error over
    the classes, and ``as_gallery`` how many more pictures a gallery names rightly, which may learn
    its metric, than by the encoder otherwise used; of what was trained, be it kept or not. Both are
    None where they are not known. ``adapted`` is what galleries gain by metrics that begin with how
    the training pictures vary, with the kept weights; None where they begin as those of the start.
    ``verdict`` says which is better: ``better``, ``worse``, that chance may explain it, or ``not
    known``. ``kept`` is the step whose weights are written, 0 for the starting point's; ``basis``
    says in words what the ``threshold`` rests on, which is 1 where none could be fitted; ``ended``
    why the run ended before its last step, None where it did not, ``plan`` what was planned.
    """

    encoder: str
    fingerprint: str
    dimension: int
    steps: int
    seconds: float
    classes: int
    pictures: int
    held_out: str
    recall_before: float | None
    recall: float | None
    threshold: float
    rejected: tuple[Rejection, ...]
    held_out_classes: int = 0
    held_out_pictures: int = 0
    gained: float | None = None
    gained_error: float | None = None
    kept: int = 0
    basis: str = ""
    as_gallery: AsGallery | None = None
    verdict: str = "not known"
    ended: str | None = None
    plan: dict[str, Any] | None = None
    adapted: AsGallery | None = None


def train(
    images: Iterable[str | os.PathLike[str] | ImageFile | Rejection],
    out: str | os.PathLike[str],
    settings: Settings | Plan | None = None,
    *,
    name: str | None = None,
    resume: bool = False,
    device: str | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    tell: Callable[[Epoch], None] = lambda epoch: None,
    warn: Callable[[str], None] = lambda message: None,
) -> TrainingReport:
    """Train an encoder on folders of pictures and write it to the folder ``out``.

    Identities are found as in ``Gallery.enroll``; rejections, as a manifest may give them, are
    reported. ``resume`` goes on from the checkpoint in
    ``out``, bit for bit on one thread. ``tell`` gets every epoch's metrics, which also go to
    ``out/metrics.jsonl``; ``warn`` gets what a user should know of. A ``Plan`` in place of settings
    is kept in the record. Raises UsageError, TrainingError, EncoderError or StorageError.
    """
    plan = settings if isinstance(settings, Plan) else None
    given = settings.settings if isinstance(settings, Plan) else settings or Settings()
    require_type("settings", given, Settings, "Settings, or a Plan")
    asked = given.resolved()
    images = places_of(images, "images")
    if not images:
        raise UsageError("no images to train on: give folders of pictures")
    chosen = hardware.device(device)
    distributed.require_shareable(asked.classes)
    with (
        hardware.generators_kept(chosen),
        distributed.joined(chosen) as place,
        hardware.out_of_memory_explained(asked),
        taken(Path(out), resume),
    ):
        return _train(images, Path(out), asked, plan, name, resume, place, watch, tell, warn)


def _train(
    images: Iterable[str | os.PathLike[str] | ImageFile | Rejection],
    folder: Path,
    settings: Settings,
    plan: Plan | None,
    name: str | None,
    resume: bool,
    device: str,
    watch: Callable[[Progress], None],
    tell: Callable[[Epoch], None],
    warn: Callable[[str], None],
) -> TrainingReport:
    if plan is not None and distributed.rank() == 0:
        plan.write(folder)
    start = starting_point(settings)
    prior, adapted = start.prior, None  # read now: the encoder's folder may be gone in the end
    files, rejected = found_files(images, folder)
    if settings.loss == "self-supervised" and len({file.identity for file in files}) < 2:
        files = [replace(file, identity=file.path) for file in files]
    parts = split(files, settings.holdout, settings.seed)
    training, held, more = _decoded(parts, settings, start.how, watch, warn)
    rejected += more
    if held is None:
        parts = replace(parts, how="none")
    for caution in cautions(parts, np.bincount(training.labels).tolist(), settings.loss):
        warn(caution)
    if not settings.steps and held is None:
        raise UsageError(
            "without steps only how the pictures vary is learned, which classes that are held out"
            " judge: give more pictures, or a --holdout"
        )
    trainer = Trainer(start.network, settings, training, held, start.how, device)
    path = folder / checkpoint.NAME
    trainer.data = _digest(parts, start.network)
    trainer.contents = training.contents + (held.contents if held is not None else ())
    begun = time.perf_counter()
    before = _begin(trainer, path, resume)
    batch = trainer.batches.pictures
    left, count_held = settings.steps - trainer.step, len(held) if held is not None else 0
    took = 0.0 if resume or not count_held else (time.perf_counter() - begun) / count_held
    looks = -(-left // settings.epoch_steps)
    between = looking(took, count_held, len(training), looks)
    first = trainer.step
    size = trainer.size
    work = cost_from(first, settings, size)
    pace = Pace(left, batch, between, warn, work, cost=lambda n: cost(first + n, settings, size))

    def count(step: int, loss: float) -> None:
        pace.step()
        found = trainer.selection.found
        recall = f", recall@1 {found.recall:.1%}" if found else ""
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
    ended = trainer.ended()
    trainer.settle()
    selection = trainer.selection
    unseen = parts.how == "classes"
    as_gallery = judging.judged(trainer, start, held, unseen, warn)
    if start.is_encoder:
        selection.heed(as_gallery)
        trainer.take_kept()
    gain = selection.gain()
    recall = selection.found.recall if selection.found else None
    verdict = as_gallery.verdict if as_gallery else "not known"
    shown = held if held is not None else _seen(trainer)
    epochs = [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]
    classes = len(set(training.labels.tolist()))
    what = "training pictures" if held is None else "held-out pictures"
    view, enrolled, decision = _decided(trainer, start, shown, unseen, what)
    if held is not None:
        if classes > SOME // 4:  # of so many, some() has hardly two pictures of each
            several = training.alike()
            view, enrolled = trainer.view(trainer.weights(), held, several), several.labels
        prior, adapted = judging.prior_of(prior, view, held.labels, enrolled, unseen)
    facts = {
        "settings": asdict(settings),
        "augmentation": asdict(PRESETS[settings.augmentation]),
        "data": {
            "classes": classes,
            "pictures": len(training),
            "held out": parts.how,
            "held-out pictures": len(held) if held is not None else 0,
            "held-out classes": len(set(held.labels.tolist())) if held is not None else 0,
        },
        "steps": trainer.step,
        "recall@1 before": before,
        "recall@1": recall,
        "gained": asdict(gain) if gain else None,
        "as a gallery": asdict(as_gallery) | {"verdict": verdict} if as_gallery else None,
        "kept": selection.facts()["kept"],
        "prior adapted": asdict(adapted) if adapted else None,
        "ended early": ended,
        "plan": plan.facts() if plan else None,
        "seconds": round(sum(epoch["seconds"] for epoch in epochs)),
        "curves": {
            name: [epoch[name] for epoch in epochs]
            for name in ("step", "loss", "recall", "precision")
        },
    }
    encoder = outcome.export(
        folder,
        name or folder.resolve().name,
        trainer.averaged,
        start.architecture,
        start.how,
        shown.pixels,
        view.held,
        decision,
        facts,
        prior,
    )
    known = what, unseen, encoder.threshold, selection
    _draw(folder, epochs, before, view.held, shown, *known, warn)
    report = TrainingReport(
        encoder=str(folder),
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        steps=trainer.step,
        seconds=sum(epoch["seconds"] for epoch in epochs),
        classes=classes,
        pictures=len(training),
        held_out=parts.how,
        recall_before=before,
        recall=recall,
        threshold=encoder.threshold,
        rejected=tuple(rejected),
        held_out_classes=facts["data"]["held-out classes"],
        held_out_pictures=facts["data"]["held-out pictures"],
        gained=gain.mean if gain else None,
        gained_error=gain.error if gain else None,
        kept=selection.step,
        basis=encoder.record.calibration["data"],
        as_gallery=as_gallery,
        adapted=adapted,
        verdict=verdict,
        ended=ended,
        plan=plan.facts() if plan else None,
    )
    return distributed.told(report)


def _decoded(
    parts: Split,
    settings: Settings,
    how: Preprocessing,
    watch: Callable[[Progress], None],
    warn: Callable[[str], None],
) -> tuple[Pictures, Pictures | None, list[Rejection]]:
    """What is trained on, what is held out, None where that is too little, and what is rejected.

    A picture counts once, also where it would be both.
    """
    first: dict[str, ImageFile] = {}
    labelled = settings.loss != "self-supervised"

    def decoded(files: list[ImageFile], how: Preprocessing) -> tuple[Pictures, list[Rejection]]:
        names = sorted({file.identity for file in files})
        classes = {name: number for number, name in enumerate(names)}
        return decode(files, classes, how, settings.cache_bytes, watch, first, labelled)

    training, rejected = decoded(parts.training, roomy(how))
    # A class may have lost all of its pictures: numbers run on without gaps.
    kept, labels = np.unique(training.labels, return_inverse=True)
    if len(kept) < 2:
        raise TrainingError("fewer than two classes are left without damaged pictures and copies")
    training = replace(training, labels=labels.astype(np.int64))
    held, more = decoded(parts.validation, how)
    rejected += more
    copies = len(parts.training) + len(parts.validation) - len(training) - len(held) - len(rejected)
    if copies:
        warn(f"{counted(copies, 'picture is a copy', 'pictures are copies')} of others: left out")
    # Of what is left, two classes with pairs judge, or nothing does.
    judges = (np.bincount(held.labels) > 1).sum() > 1
    return training, held if judges else None, rejected


def _digest(parts: Split, network: EmbeddingNetwork) -> str:
    """SHA-256 of what a run goes on with only unchanged: its pictures and where it began."""
    digest = hashlib.sha256()
    for group in (parts.training, parts.validation):
        for file in group:
            digest.update(
                f"{file.identity}\0{os.path.basename(file.path)}\0".encode(errors="replace")
            )
        digest.update(b"\1")
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _seen(trainer: Trainer) -> Pictures:
    """Training pictures as queries see them, to calibrate on where nothing else is left."""
    chosen = trainer.training.whole()
    pixels = np.concatenate([seen.pixels for seen in trainer.queried(chosen)])
    return replace(chosen, pixels=pixels)


def _decided(
    trainer: Trainer, start: Start, judged: Pictures, unseen: bool, what: str
) -> tuple[View, IntArray, tuple[float, dict[str, Any]]]:
    """What the kept weights make of the judged pictures and of some that were trained on, whose
    classes (m,) come with it; threshold and calibration to write.

    A run that gained nothing leaves both as the starting encoder has them.
    """
    trainer.finish()
    enrolled = trainer.training.some()
    kept = trainer.weights()
    same = start.encoder is not None and start.is_encoder and trainer.selection.step == 0
    same = same and start.encoder is not None and start.encoder.calibrated
    view, classes = trainer.view(kept, judged, enrolled), enrolled.labels
    if same and start.encoder is not None:
        known = start.encoder.threshold, dict(start.encoder.record.calibration)
        return view, classes, known
    before = None
    if start.encoder is not None and start.encoder.calibrated:
        before = Known(
            start.encoder.threshold,
            start.encoder.record.calibration,
            trainer.view(trainer.selection.start, judged, enrolled),
        )
    return view, classes, trained_record(view, judged.labels, classes, before, unseen, what)


def _begin(trainer: Trainer, path: Path, resume: bool) -> float | None:
    """Load the checkpoint, or measure what the starting point reaches untrained."""
    if resume:
        trainer.load(path)
        record = path.with_name(BEFORE)
        before: float | None = None
        if record.exists():
            before = json.loads(record.read_text())["recall@1"]
        return before
    before = None
    if trainer.validation is not None:
        found = trainer.validate()
        before = found.recall if found else None
    if before is not None and distributed.rank() == 0:
        line = json.dumps({"recall@1": before}) + "\n"
        write_whole(path.with_name(BEFORE), line.encode())
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
    epochs: list[dict[str, Any]],
    before: float | None,
    embeddings: Any,
    judged: Pictures,
    what: str,
    unseen: bool,
    threshold: float,
    selection: Selection,
    warn: Callable[[str], None],
) -> None:
    """The plots, where the libraries for them are installed."""
    if any(importlib.util.find_spec(module) is None for module in ("matplotlib", "sklearn")):
        warn("no plots: pip install 'siamese-search[plot]'")
        return
    from siamese_search.training import plots

    kept = plots.Kept(selection.step, selection.share)
    plots.draw(folder, epochs, before, embeddings, judged.labels, threshold, kept, what, unseen)
