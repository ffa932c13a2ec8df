"""How answers hold when pictures are changed: by nature, or by somebody who knows the gallery.

What a gallery says of changed pictures is asked on the runtime that answers queries; only attacks
are computed on its twin. All changes are made to what the encoder takes, and rounded to whole
values. Knows nothing of pages and terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray, PixelArray
from siamese_search.errors import ImageError, RuntimeUnavailable, UsageError
from siamese_search.evaluation import attacks, metrics
from siamese_search.evaluation.agreement import PLAIN, VIEWS, View
from siamese_search.evaluation.changes import NATURAL
from siamese_search.evaluation.robustness import (
    EVADE,
    IMPERSONATE,
    Outcome,
    Plan,
    Robustness,
    Share,
)
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.slopes import EvidenceSlopes
from siamese_search.pictures import render
from siamese_search.pictures.sources import normalised
from siamese_search.records import (
    Identification,
    ImageFile,
    Progress,
    Rejection,
    Watcher,
    unwatched,
)
from siamese_search.words import printable

STRENGTHS = (1.0, 2.0, 4.0, 8.0)  # of 255
VIEW_STRENGTHS = (2.0, 8.0)  # where the attacker knows of the check
PATCHES = (0.01, 0.04)  # of the picture's area
PATCH_STEPS = 2  # times those of other attacks: there is farther to go
REFUSED = (0.01, 0.05)  # shares of genuine pictures that the check may refuse
POOL = 400  # probes that are looked at unattacked


@dataclass(frozen=True)
class _Probes:
    """Pictures uint8 (n, height, width, channels), with what they are; None for strangers."""

    pixels: PixelArray
    names: list[str | None]

    def of(self, rows: IntArray) -> _Probes:
        return _Probes(self.pixels[rows], [self.names[row] for row in rows.tolist()])


@dataclass(frozen=True)
class _Seen:
    """What is said of pictures, who is their best identity, named or not, and how well their views
    agree (n,).
    """

    names: list[str | None]
    best: list[str]
    agreement: FloatArray


@dataclass(frozen=True)
class _Attack:
    """Probes with their own name, which is to be lost, or another that is to be got."""

    goal: str
    probes: _Probes
    chosen: list[str]

    def of(self, rows: IntArray) -> _Attack:
        return _Attack(self.goal, self.probes.of(rows), [self.chosen[row] for row in rows.tolist()])

    def succeeded(self, said: Sequence[str | None]) -> BoolArray:
        same = _same(said, self.chosen)
        return ~same if self.goal == EVADE else same


class Campaign:
    """Probes of one gallery, unattacked so far. Raises UsageError where none can be attacked,
    RuntimeUnavailable where an attack needs torch and there is none.
    """

    def __init__(self, gallery: Gallery, files: Sequence[ImageFile], plan: Plan) -> None:
        if not len(gallery):
            raise UsageError(f"nothing is enrolled in {gallery.folder}: nothing is measured")
        gallery.encoder.require_pictures("attacks and changes")
        self._gallery, self._plan = gallery, plan
        self._random = np.random.default_rng(plan.seed)
        never = gallery.distractors()
        self._targets = [name for name, _ in gallery.identities() if name not in never]
        self._rejected: list[Rejection] = []
        if plan.kind != "natural":
            _ = self._twin  # where it is missing, that is said before anything is measured
        self._pool = self._drawn(files)
        self._asked(self._pool.pixels[:1])  # what is opened first takes its time
        begun = time.perf_counter()
        embeddings, answers = self._asked(self._pool.pixels)
        alone = time.perf_counter() - begun
        self._genuine = _agreement(self._embedded, self._pool.pixels, embeddings)
        count = len(self._pool.names)
        self._seconds = alone / count, (time.perf_counter() - begun) / count
        self._before = [answer.identity for answer in answers]
        pairs = list(zip(self._before, self._pool.names, strict=True))
        self._right = np.array([own is not None and said == own for said, own in pairs])
        known = np.array([own is not None for own in self._pool.names])
        limit = plan.limit
        self._named = self._pool.of(np.flatnonzero(self._right)[:limit])
        self._strange = self._pool.of(np.flatnonzero(~known)[:limit])
        if not len(self._named.names) and not len(self._strange.names):
            raise UsageError(
                f"none of {count} probes is named rightly or is a stranger: there is nothing to"
                " attack"
            )
        self._limits = {
            rate: float(np.quantile(self._genuine, rate))
            for rate in REFUSED
            if metrics.tells(rate, count)
        }

    @cached_property
    def _twin(self) -> attacks.Twin:
        try:
            return self._gallery.encoder.twin()
        except RuntimeUnavailable as error:
            raise RuntimeUnavailable(
                f"attacks by gradient run on torch: {error}; `--attack natural` needs none"
            ) from error

    def _drawn(self, files: Sequence[ImageFile]) -> _Probes:
        """Pictures of some files, half of them strangers where there are so many."""
        how = self._gallery.encoder.record.preprocessing
        enrolled = set(self._targets)
        order = [files[place] for place in self._random.permutation(len(files)).tolist()]
        groups: tuple[list[ImageFile], list[ImageFile]] = ([], [])
        for file in order:
            groups[normalised(file.identity) in enrolled].append(file)
        fewer = min(map(len, groups))
        most = max(POOL - fewer, POOL // 2)
        pixels, names = [], []
        for known, group in zip((False, True), groups, strict=True):
            for file in group[:most]:
                try:
                    pixels.append(render.load(file.path, how))
                except ImageError as error:
                    self._rejected.append(Rejection(printable(file.path), str(error)))
                else:
                    names.append(normalised(file.identity) if known else None)
        if not pixels:
            raise UsageError("none of the probes could be read: nothing is measured")
        return _Probes(np.stack(pixels), names)

    def _embedded(self, pixels: PixelArray) -> FloatArray:
        return self._described(pixels)[0]

    def _described(self, pixels: PixelArray) -> tuple[FloatArray, list[FloatArray | None]]:
        """Embeddings and places on the runtime that answers queries."""
        runtime = self._gallery.encoder.runtime
        vectors, places = [], []
        for start in range(0, len(pixels), runtime.batch):
            found, seen = runtime.describe(pixels[start : start + runtime.batch])
            vectors.append(found)
            places += [None] * len(found) if seen is None else list(seen)
        return np.concatenate(vectors), places

    def _asked(self, pixels: PixelArray) -> tuple[FloatArray, list[Identification]]:
        embeddings, places = self._described(pixels)
        return embeddings, self._gallery.identify_embeddings(embeddings, 1, places=places)

    def _seen(self, pixels: PixelArray) -> _Seen:
        embeddings, answers = self._asked(pixels)
        agreement = _agreement(self._embedded, pixels, embeddings)
        best = [answer.matches[0].identity for answer in answers]
        return _Seen([answer.identity for answer in answers], best, agreement)

    def seconds(self) -> float:
        """How long it will take at most, about: some gradients are timed for that."""
        named, strange = len(self._named.names), len(self._strange.names) or len(self._named.names)
        steps, gradients, looks = self._plan.steps, 0.0, 0
        if self._plan.has("natural"):
            looks += sum(len(change.strengths) for change in NATURAL) * (named + strange)
        if self._plan.has("gradient"):
            gradients += len(STRENGTHS) * (steps + 1) * (named + strange)
            looks += len(STRENGTHS) * (named + strange)
        if self._plan.has("patch"):
            gradients += len(PATCHES) * (PATCH_STEPS * steps + 1) * (named + strange)
            looks += len(PATCHES) * (named + strange)
        if self._plan.has("views"):
            gradients += len(VIEW_STRENGTHS) * (steps + 1) * (2 + len(VIEWS)) * strange
            looks += 2 * len(VIEW_STRENGTHS) * strange
        return looks * self._seconds[1] + gradients * (self._gradient() if gradients else 0)

    def _gradient(self) -> float:
        """Seconds for a picture's gradient."""
        some = self._pool.pixels[: attacks.BATCH].astype(np.float32)
        for _ in range(2):  # the first takes longer
            begun = time.perf_counter()
            self._twin.slopes(some, lambda embeddings: embeddings)
        return (time.perf_counter() - begun) / len(some)

    def measured(self, watch: Watcher | None = None) -> Robustness:
        """Attack, and see what is said."""
        watch = watch or unwatched
        outcomes = [self._unattacked()]
        parts = {
            "natural": self._natural,
            "gradient": self._gradients,
            "patch": self._patches,
            "views": self._through_views,
        }
        for kind, part in parts.items():
            if self._plan.has(kind):
                outcomes += part(watch)
        known = [name is not None for name in self._pool.names]
        return Robustness(
            enrolled=sum(known),
            right=int(self._right.sum()),
            strangers=len(known) - sum(known),
            attacked=(len(self._named.names), len(self._strange.names)),
            outcomes=tuple(outcomes),
            agreement=self._limits,
            seconds=self._seconds,
            rejected=tuple(self._rejected),
        )

    def _unattacked(self) -> Outcome:
        """Of all probes that were looked at."""
        wrong = _misnamed(self._before, self._pool.names)
        refused = self._refused(self._genuine, self._right)
        return Outcome("unattacked", "", None, "", misnamed=_share(wrong), refused=refused)

    def _natural(self, watch: Watcher) -> Iterator[Outcome]:
        named, strange = self._named, self._strange
        asked = _Probes(np.concatenate([named.pixels, strange.pixels]), named.names + strange.names)
        known = np.arange(len(asked.names)) < len(named.names)
        total, done = sum(len(change.strengths) for change in NATURAL), 0
        for change in NATURAL:
            for strength in change.strengths:
                random = np.random.default_rng(self._plan.seed)
                seen = self._seen(change.make(asked.pixels, strength, random))
                right = known & _same(seen.names, asked.names)
                first = _same(seen.best, asked.names)
                yield Outcome(
                    change.name,
                    "",
                    strength,
                    change.of,
                    evaded=_share(~right[known]) if known.any() else None,
                    best=_share(first[known]) if known.any() else None,
                    misnamed=_share(_misnamed(seen.names, asked.names)),
                    refused=self._refused(seen.agreement, right),
                )
                done += 1
                watch(Progress("natural changes", done, total))

    def _gradients(self, watch: Watcher) -> Iterator[Outcome]:
        for goal in self._goals():
            yield from self._stronger("gradient", "of 255", STRENGTHS, goal, watch)

    def _patches(self, watch: Watcher) -> Iterator[Outcome]:
        for goal in self._goals():
            yield from self._stronger("patch", "of the area", PATCHES, goal, watch)

    def _goals(self) -> list[str]:
        """What can be tried: somebody must be named, and there must be another to be taken for."""
        others = bool(self._strange.names) or len(self._targets) > 1
        return [EVADE] * bool(self._named.names) + [IMPERSONATE] * (others and bool(self._targets))

    def _attack(self, goal: str) -> _Attack:
        """What is attacked: strangers take a chosen name, or others do where there are none."""
        if goal == EVADE:
            return _Attack(goal, self._named, [str(name) for name in self._named.names])
        probes = self._strange if len(self._strange.names) else self._named
        random = np.random.default_rng(self._plan.seed)
        chosen = []
        for name in probes.names:
            others = [one for one in self._targets if one != name]
            chosen.append(others[int(random.integers(len(others)))])
        return _Attack(goal, probes, chosen)

    def _stronger(
        self, change: str, of: str, strengths: Sequence[float], goal: str, watch: Watcher
    ) -> Iterator[Outcome]:
        """One strength after the other. A probe that has fallen to one has fallen to stronger ones,
        and is not attacked again.
        """
        attack = self._attack(goal)
        pixels = attack.probes.pixels.copy()
        fallen = np.zeros(len(pixels), bool)
        for strength in strengths:
            left = np.flatnonzero(~fallen)
            if len(left):
                how = f"{change}, {goal}, {strength:g} {of}"
                pixels[left] = self._changed(
                    attack.of(left), pixels[left], change, strength, (PLAIN,), watch, how
                )
            seen = self._seen(pixels)
            fallen = attack.succeeded(seen.names)
            yield self._outcome(change, strength, of, attack, seen)

    def _through_views(self, watch: Watcher) -> Iterator[Outcome]:
        """Impersonation by somebody who knows of the check, and by somebody who does not."""
        if IMPERSONATE not in self._goals():
            return
        attack = self._attack(IMPERSONATE)
        aware = (PLAIN, *VIEWS)
        for change, views in (("full gradient", (PLAIN,)), ("gradient through views", aware)):
            pixels = attack.probes.pixels
            for strength in VIEW_STRENGTHS:
                how = f"{change}, {strength:g} of 255"
                pixels = self._changed(attack, pixels, "gradient", strength, views, watch, how)
                yield self._outcome(change, strength, "of 255", attack, self._seen(pixels))

    def _changed(
        self,
        attack: _Attack,
        begun: PixelArray,
        change: str,
        strength: float,
        views: Sequence[View],
        watch: Watcher,
        stage: str,
    ) -> PixelArray:
        """Pictures that are attacked within a strength, from those that were ``begun``."""
        pixels, steps = attack.probes.pixels, self._plan.steps
        if change == "patch":
            random = np.random.default_rng(self._plan.seed)
            bounds, steps = attacks.patch(pixels, strength, random), PATCH_STEPS * steps
        else:
            bounds = attacks.within(pixels, strength)
        evidence = EvidenceSlopes(self._gallery)
        sign = np.float32(-1 if attack.goal == EVADE else 1)

        def wanted(part: slice, embeddings: FloatArray) -> attacks.Valued:
            values, slopes = evidence.of(embeddings, attack.chosen[part])
            return sign * values, sign * slopes

        made: list[PixelArray] = []
        for some in attacks.attacked(self._twin, bounds, begun, attacks.Aim(wanted, views), steps):
            made += list(some)
            watch(Progress(stage, len(made), len(pixels)))
        return np.stack(made)

    def _outcome(
        self, change: str, strength: float, of: str, attack: _Attack, seen: _Seen
    ) -> Outcome:
        succeeded = attack.succeeded(seen.names)
        evades = attack.goal == EVADE
        return Outcome(
            change,
            attack.goal,
            strength,
            of,
            evaded=_share(succeeded) if evades else None,
            best=_share(_same(seen.best, attack.probes.names)) if evades else None,
            misnamed=_share(_misnamed(seen.names, attack.probes.names)),
            impersonated=None if evades else _share(succeeded),
            refused=self._refused(seen.agreement, succeeded),
        )

    def _refused(self, agreement: FloatArray, which: BoolArray) -> dict[float, Share]:
        return {rate: _share(agreement[which] < limit) for rate, limit in self._limits.items()}


def _agreement(
    embedded: Callable[[PixelArray], FloatArray], pixels: PixelArray, embeddings: FloatArray
) -> FloatArray:
    """The mean cosine of a picture's views with itself (n,)."""
    total = np.zeros(len(pixels), np.float32)
    for view in VIEWS:
        seen = embedded(view.make(pixels.astype(np.float32)).round().clip(0, 255).astype(np.uint8))
        total += (seen * embeddings).sum(axis=1)
    return total / np.float32(len(VIEWS))


def _same(said: Sequence[str | None], own: Sequence[str | None]) -> BoolArray:
    return np.array([one == name for one, name in zip(said, own, strict=True)], bool)


def _misnamed(said: Sequence[str | None], own: Sequence[str | None]) -> BoolArray:
    return np.array(
        [one is not None and one != name for one, name in zip(said, own, strict=True)], bool
    )


def _share(which: BoolArray) -> Share:
    return Share(int(which.sum()), len(which))
