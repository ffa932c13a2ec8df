"""Jobs: what takes long, done by one thread, with progress; a job may be cancelled.

Knows nothing of HTTP.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from siamese_search.errors import SiaSearchError, UsageError
from siamese_search.evaluation.own_scores import OwnScores, both_ways, own_scores
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import Calibration, Progress, Watcher

log = logging.getLogger("siasearch")

KEPT = 100  # jobs that are remembered
QUEUED = 100  # jobs that wait, at most
STATES = ("queued", "running", "done", "failed", "cancelled")
MOMENT = 5.0  # seconds at the end of the server
SHOWN = 500  # rows of an audit


class Cancelled(Exception):
    """A job was cancelled at its last sign of progress."""


@dataclass
class Job:
    """A job and how far it is. ``state`` is one of ``STATES``."""

    id: str
    gallery: str
    kind: str
    arguments: dict[str, Any]
    state: str = "queued"
    stage: str | None = None
    done: int = 0
    total: int | None = None
    result: Any = None
    error: str | None = None
    started: str | None = None
    ended: str | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """The jobs of a server, one after the other."""

    def __init__(self, told: Callable[[str], str] = str) -> None:
        """``told`` is what to tell of an error's message."""
        self._told = told
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)
        self._waiting: queue.Queue[tuple[Job, Gallery] | None] = queue.Queue()
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()
        # By gallery, with the version of the gallery that they are of.
        self.scores: dict[str, tuple[str, OwnScores]] = {}
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def start(self, name: str, gallery: Gallery, kind: str, arguments: dict[str, Any]) -> Job:
        """Queue a job. Raises UsageError for one that there is not, and for other arguments."""
        if kind not in KINDS:
            raise UsageError(f"there is no job {kind!r}: choose one of {', '.join(KINDS)}")
        known = ARGUMENTS.get(kind, {})
        surplus = set(arguments) - set(known)
        if surplus:
            raise UsageError(f"a job {kind} takes no {', '.join(sorted(surplus))}")
        for field, value in arguments.items():
            if type(value) is not known[field] and (known[field], type(value)) != (float, int):
                raise UsageError(f"{field} of a job {kind} cannot be {str(value)[:80]!r}")
        with self._lock:
            if sum(not one.over for one in self._jobs.values()) >= QUEUED:
                raise UsageError(f"{QUEUED} jobs are waiting already: wait, or cancel some")
            job = Job(str(next(self._numbers)), name, kind, arguments)
            self._jobs[job.id] = job
            for old in [one for one in self._jobs.values() if one.over][:-KEPT]:
                del self._jobs[old.id]
        self._waiting.put((job, gallery))
        return job

    def all(self) -> list[Job]:
        """All that are remembered, the oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def get(self, number: str) -> Job | None:
        with self._lock:
            return self._jobs.get(number)

    def cancel(self, job: Job) -> bool:
        """Stop a job at its next sign of progress; what it has committed stays. False where it
        runs, and shows none.
        """
        with self._lock:
            if job.state == "queued":
                job.state, job.ended = "cancelled", _now()
            elif not job.over:
                self._cancelled.add(job.id)
                return job.kind not in UNSTOPPABLE
        return True

    def close(self) -> None:
        """Cancel what is queued or running, and wait a moment for the end of it."""
        for job in self.all():
            self.cancel(job)
        self._waiting.put(None)
        self._thread.join(MOMENT)

    def _work(self) -> None:
        while (one := self._waiting.get()) is not None:
            job, gallery = one
            with self._lock:
                if job.over:
                    continue
                job.state, job.started = "running", _now()
            try:
                job.result = KINDS[job.kind](self, job, gallery, self._watcher(job))
                job.state = "done"
            except Cancelled:
                job.state = "cancelled"
            except (SiaSearchError, TypeError, ValueError, OverflowError) as error:
                job.state, job.error = "failed", self._told(str(error))
            except Exception as error:
                log.exception("job %s (%s) failed", job.id, job.kind)
                said = self._told(f"{type(error).__name__}: {error}")
                job.state, job.error = "failed", said
            job.ended = _now()

    def _watcher(self, job: Job) -> Watcher:
        def watch(progress: Progress) -> None:
            job.stage, job.done, job.total = progress.stage, progress.done, progress.total
            if job.id in self._cancelled:
                raise Cancelled

        return watch


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def without_evidence(found: Calibration | None) -> dict[str, Any] | None:
    """A calibration as JSON, without the up to a thousand numbers that p-values rest on."""
    if found is None:
        return None
    fields = asdict(found)
    for one in (fields, fields["looked"] or {"evidence": ()}):
        del one["evidence"]
    return fields


# What jobs do, each for (jobs, job, gallery, watcher)


def _calibrate(jobs: Jobs, job: Job, gallery: Gallery, watch: Watcher) -> Any:
    watch(Progress("calibrating", 0))
    made = gallery.calibrate(**job.arguments)
    jobs.scores.pop(job.gallery, None)
    return without_evidence(made)


def _audit(_: Jobs, __: Job, gallery: Gallery, watch: Watcher) -> Any:
    found = gallery.audit(watch=watch)
    return {
        "suspects": [
            {
                "item": one.item,
                "identity": one.identity,
                "own": one.own,
                "other": one.others[0].identity if one.others else None,
                "other_item": one.others[0].item if one.others else None,
                "doubt": one.doubt,
            }
            for one in found.suspects[:SHOWN]
            if one.doubt > 0
        ],
        "duplicates": found.duplicates[:SHOWN],
        "confusable": found.confusable[:SHOWN],
        "items": found.items,
    }


def _scores(jobs: Jobs, job: Job, gallery: Gallery, watch: Watcher) -> Any:
    version = gallery.version  # before: what is changed meanwhile is not in all of them
    found = own_scores(gallery, *both_ways(gallery, watch))
    jobs.scores[job.gallery] = version, found
    return {"items": len(found.impostor)}


def _rebuild(_: Jobs, job: Job, gallery: Gallery, watch: Watcher) -> Any:
    report = gallery.rebuild(watch=watch, **job.arguments)
    return {
        "switched": report.switched,
        "embedded": report.embedded,
        "missing": [asdict(one) for one in report.missing],
        "items": report.items,
    }


def _compact(_: Jobs, __: Job, gallery: Gallery, watch: Watcher) -> Any:
    watch(Progress("compacting", 0))
    gallery.compact()
    facts = gallery.info()
    return {"indexed": facts.indexed, "recipe": facts.recipe, "recall": facts.recall}


KINDS: dict[str, Callable[[Jobs, Job, Gallery, Watcher], Any]] = {
    "calibrate": _calibrate,
    "audit": _audit,
    "scores": _scores,
    "rebuild": _rebuild,
    "compact": _compact,
}
# No paths: a client must not make the server read files.
ARGUMENTS: dict[str, dict[str, type]] = {
    "calibrate": {"fpir": float, "rule": str, "metric": str, "closer": str},
    "rebuild": {"skip_missing": bool},
}
CHANGING = ("calibrate", "rebuild", "compact")
UNSTOPPABLE = ("calibrate", "compact")  # once they run: they show no progress
