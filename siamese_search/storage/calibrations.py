"""Calibrations: how a gallery decides under each generation, and the metric that it was calibrated
under, which is in use together with it.
"""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from typing import Any
from zlib import crc32

from siamese_search.decision.metric import Metric
from siamese_search.decision.rules import known_rule
from siamese_search.errors import GalleryDamaged, GalleryFormatError, StorageError, UsageError
from siamese_search.records import Calibration, Generation, surplus_fields
from siamese_search.storage.faults import metric_fault
from siamese_search.storage.generations import Generations, State

ASKED, ITSELF, OFF = "asked", "itself", "off"  # by whom it is decided how a gallery decides


class Calibrations(Generations):
    """The calibrations in an open ``gallery.db``."""

    _parsed: tuple[str, Calibration] | None = None  # the calibration read last, for it may be long

    def set_calibration(
        self,
        generation: Generation,
        calibration: Calibration,
        metric: Metric | None = None,
        wanted: str | None = None,
        by: str = ASKED,
    ) -> Calibration:
        """Keep how a generation decides, the metric that it was calibrated under, and which metric
        is ``wanted`` later, if anything is said of that.

        Returns it with the metric's number. Another metric than before makes index files of no use.
        Raises GalleryMismatch where the generation is not active; StorageError for what a gallery
        does by ``ITSELF`` where somebody has chosen something meanwhile.
        """
        with self.writing():
            number = self._require_active(generation.fingerprint)
            if by == ITSELF and self.decided_by() not in (None, ITSELF):
                raise StorageError(f"{self.path.parent} was calibrated, or that switched off")
            self._decide(by)
            before = self._metric_in_use(number)
            named = None if metric is None else self._kept_metric(number, metric, before)
            looked = calibration.looked and replace(calibration.looked, metric=named)
            kept = replace(calibration, metric=named, looked=looked)
            self._db.execute(
                "INSERT OR REPLACE INTO calibrations (generation, content) VALUES (?, ?)",
                (number, _sealed(asdict(kept))),
            )
            self._db.execute(
                "DELETE FROM metrics WHERE generation = ? AND id IS NOT ?", (number, named)
            )
            if wanted is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO settings (key, value) VALUES ('metric', ?)", (wanted,)
                )
            self._db.execute("DELETE FROM settings WHERE key = 'recalibrate'")
            if named != before:
                self._db.execute("DELETE FROM snapshots WHERE generation = ?", (number,))
                self._new_epoch()
        return kept

    def drop_calibration(self, by: str = OFF) -> bool:
        """Forget how the active generation decides, and its metric; whether there was anything.

        By ``ITSELF`` only what a gallery has chosen itself, and it may do so again.
        """
        with self.writing():
            if by == ITSELF and self.decided_by() != ITSELF:
                return False
            self._decide(None if by == ITSELF else by)
            number = self.state().generation.number
            metric = self._metric_in_use(number)
            gone = self._db.execute("DELETE FROM calibrations WHERE generation = ?", (number,))
            self._db.execute("DELETE FROM metrics WHERE generation = ?", (number,))
            self._db.execute("DELETE FROM settings WHERE key = 'recalibrate'")
            if metric is not None:
                self._db.execute("DELETE FROM snapshots WHERE generation = ?", (number,))
                self._new_epoch()
        return gone.rowcount > 0

    def _kept_metric(self, generation: int, metric: Metric, before: int | None) -> int:
        """The number of a metric: that in use where it is the same, else a new one."""
        content = metric.to_bytes()
        same = self._db.execute(
            "SELECT 1 FROM metrics WHERE id = ? AND content = ? AND checksum = ?",
            (before, content, crc32(content)),
        ).fetchone()
        if same and before is not None:
            return before
        made = self._db.execute(
            "INSERT INTO metrics (generation, content, checksum, identities, items, last_item)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                generation,
                content,
                crc32(content),
                metric.identities,
                metric.items,
                self._sequence("items"),
            ),
        ).lastrowid
        assert made is not None
        return made

    def _decide(self, by: str | None) -> None:
        """Keep by whom it is decided, None for nobody; what was tried before is forgotten."""
        self._db.execute("DELETE FROM settings WHERE key IN ('decided by', 'tried')")
        if by is not None:
            self._db.execute("INSERT INTO settings (key, value) VALUES ('decided by', ?)", (by,))

    def decided_by(self) -> str | None:
        """By whom it was decided how the gallery decides: ``ASKED``, ``ITSELF`` or ``OFF``; None
        where by nobody, or by an earlier release.
        """
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = 'decided by'").fetchone()
        return row and str(row[0])

    def tried(self) -> tuple[int, int] | None:
        """How many identities and items there were when the gallery could not calibrate itself."""
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = 'tried'").fetchone()
        if row is None:
            return None
        with suppress(ValueError, TypeError):  # damaged: it is tried again
            identities, items = json.loads(row[0])
            return int(identities), int(items)
        return None

    def note_tried(self, identities: int, items: int) -> None:
        """Keep that a gallery of so many could not calibrate itself."""
        with self.writing():
            self._db.execute(
                "INSERT OR REPLACE INTO settings (key, value) VALUES ('tried', ?)",
                (json.dumps([identities, items]),),
            )

    def wanted_metric(self) -> str | None:
        """Which metric calibration shall look for, None where nothing was said of that."""
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = 'metric'").fetchone()
        return row and str(row[0])

    def state_with_metric(self) -> tuple[State, Metric | None]:
        """The state, and the metric in use then, None where plain cosines are compared.

        Raises GalleryDamaged where it is not as it was stored: plain cosines would be no answer
        then, since the gallery was not calibrated for these.
        """
        with self._guard(), nullcontext() if self._db.in_transaction else self.reading():
            state = self.state()
            return state, None if state.metric is None else self._metric(state)

    def _metric(self, state: State) -> Metric:
        with self._guard():
            row = self._db.execute(
                "SELECT content, checksum FROM metrics WHERE id = ? AND generation = ?",
                (state.metric, state.generation.number),
            ).fetchone()
        content, checksum = row or (None, None)
        fault = metric_fault(content, checksum, state.generation.dimension)
        if fault or not isinstance(content, bytes):
            raise GalleryDamaged(
                f"{self.path}: the metric {fault}: run `siasearch calibrate` to learn it again"
            )
        return Metric.from_bytes(content)

    def replaced_calibration(self) -> Calibration | None:
        """How the gallery decided before a switch of encoders, if it has not been calibrated since;
        None where that cannot be read.
        """
        with self._guard():
            row = self._db.execute(
                "SELECT value FROM settings WHERE key = 'recalibrate'"
            ).fetchone()
        with suppress(GalleryDamaged, GalleryFormatError):
            return None if row is None else self._calibration(str(row[0]))
        return None

    def calibration(self, generation: Generation) -> Calibration | None:
        """How a generation decides, None where it has not been calibrated."""
        with self._guard():
            row = self._db.execute(
                "SELECT content FROM calibrations WHERE generation = ?", (generation.number,)
            ).fetchone()
        if row is None:
            return None
        if self._parsed is None or self._parsed[0] != row[0]:
            self._parsed = row[0], self._calibration(row[0])
        return self._parsed[1]

    def _calibration(self, content: str) -> Calibration:
        try:
            fields = _unsealed(content)
            newer = surplus_fields(Calibration, fields)
            if newer:
                raise GalleryFormatError(
                    f"{self.path}: the calibration was written by a newer siasearch"
                    f" ({', '.join(newer)}): upgrade, or run `siasearch calibrate`"
                )
            found = Calibration.of(fields)
            for one in (found, found.deciding):
                known_rule(one.rule)
            return found
        except (
            *(TypeError, ValueError, KeyError, AttributeError, OverflowError),
            *(RecursionError, UsageError),
        ) as error:
            raise GalleryDamaged(
                f"{self.path}: the calibration is damaged ({error}): run `siasearch calibrate`"
            ) from error


def _sealed(fields: dict[str, Any]) -> str:
    """A calibration's fields as JSON, with the CRC-32 of the JSON that they are without it."""
    return json.dumps(fields | {"checksum": crc32(json.dumps(fields).encode())})


def _unsealed(content: str) -> dict[str, Any]:
    """The fields again; ValueError where they are not as they were. Earlier ones have no seal."""
    fields: dict[str, Any] = json.loads(content)
    checksum = fields.pop("checksum", None)
    if checksum is not None and crc32(json.dumps(fields).encode()) != checksum:
        raise ValueError("wrong checksum")
    return fields
