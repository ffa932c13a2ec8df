"""What the record of a trained encoder says, which may rest on few classes.

Galleries of a handful of classes are easy: a threshold that is fitted on them names nearly every
stranger in a larger one. So the threshold is kept where the starting encoder named as many
strangers, and the confidence is the more careful of the two. Arrays in, numbers out: it knows
nothing of networks and files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.reference import GUMBEL, record, trials

PRIOR = 4.0  # held-out classes that the starting encoder's threshold counts for
USUAL = 40  # identities of a gallery that a threshold is for


@dataclass(frozen=True)
class View:
    """What one network makes of pictures: ``held`` (n, dimension) out of training, and ``enrolled``
    (m, dimension), which were trained on.
    """

    held: FloatArray
    enrolled: FloatArray


@dataclass(frozen=True)
class Known:
    """The starting encoder's record, and what it made of the pictures."""

    threshold: float
    calibration: Mapping[str, Any]
    view: View


def trained_record(
    view: View,
    held: IntArray,
    enrolled: IntArray,
    start: Known | None,
    unseen: bool,
    what: str = "held-out pictures",
) -> tuple[float, dict[str, Any]]:
    """The threshold, and the fields of ``calibration``, of an encoder after training.

    ``held`` (n,) and ``enrolled`` (m,) are the classes of the view's pictures; ``unseen`` says
    whether the former are classes that were not trained on. Without a start, strangers are taken to
    score as high as the best of a usual gallery would, by extreme value theory (Gumbel 1958).
    ``what`` says in words which pictures were judged.

    Where these do not tell right from wrong, as where no two are of one class, the start's record
    is kept; without a start the threshold is 1, and said not to be fitted.
    """
    fitted, fields = record(view.held, held, what=what)
    count = len(np.unique(held))
    fields |= {"classes": count, "pictures": len(held)}
    if fitted >= 1:
        none = f"{len(held)} {what} of {count} classes do not tell right from wrong"
        if start is None:
            return 1.0, {"fitted": False, "slope": 1.0, "offset": -1.0, "data": none}
        fitted = -1.0
        fields = {**start.calibration, "data": f"the starting encoder's record, since {none}"}
    elif not unseen:
        fields["data"] += "; these are classes that it was trained on, and tell nothing of others"
    if start is None:
        return _as_in_a_usual_gallery(fitted, fields, view.held, held)
    if not unseen:
        threshold, stretch = start.threshold, 1.0
    else:
        before, after = (strangers(v.held, v.enrolled, enrolled) for v in (start.view, view))
        threshold, stretch = matched(before, after, held, start.threshold)
    threshold = round(max(fitted, threshold), 4)
    least = f"the starting encoder's, {start.threshold:g}"
    if unseen:
        least = f"where {least}, lets as many strangers pass"
    fields["data"] += (
        f"; the threshold is at least {least}, and its confidence the lower one of the two"
    )
    slope = min(fields["slope"], start.calibration["slope"] / stretch)
    fields |= {"slope": round(slope, 4), "offset": round(-slope * threshold, 4)}
    own, known = fields.get("strangers"), start.calibration.get("strangers")
    if own and known:
        share = count / (count + PRIOR) if unseen else 0.0
        scale = share * own["scale"] + (1 - share) * known["scale"] * stretch
        flatter = min(own["slope"], known["slope"])
        even = max(-one["offset"] / one["slope"] for one in (own, known))
        fields["strangers"] = own | {
            "scale": round(scale, 5),
            "slope": round(flatter, 4),
            "offset": round(-flatter * even, 4),
        }
    return threshold, fields


def strangers(probes: FloatArray, items: FloatArray, classes: IntArray) -> DoubleArray:
    """The best score (n,) of probes (n, dimension) in a gallery of items (m, dimension) of such
    classes (m,), none of which is theirs; by the balanced rule.
    """
    best = np.full(len(probes), -np.inf)
    for name in np.unique(classes):
        own = items[classes == name]
        mean = own.mean(axis=0)
        prototype = mean / max(float(np.linalg.norm(mean)), 1e-6)
        score = ((probes @ own.T).max(axis=1) + probes @ prototype) / 2
        best = np.maximum(best, score)
    return best


def matched(
    before: DoubleArray, after: DoubleArray, classes: IntArray, threshold: float
) -> tuple[float, float]:
    """The threshold at which strangers pass as often after training as at ``threshold`` before.

    ``before`` and ``after`` (n,) are the scores of the same strangers, of ``classes`` (n,). By
    means and standard deviations, since the few beyond the threshold tell little; a standard error
    higher (jackknife over the classes, Efron 1982); and from below drawn to the threshold before,
    as if that had been seen on ``PRIOR`` more classes. Returns also how much wider scores lie.
    """
    names = np.unique(classes)
    count = len(names)
    share = count / (count + PRIOR)

    def moved(kept: Any) -> tuple[float, float]:
        a, b = before[kept], after[kept]
        spread = max(float(a.std()), 1e-6), max(float(b.std()), 1e-6)
        stretch = (spread[1] / spread[0]) ** share
        return float(b.mean() + (threshold - a.mean()) * stretch), stretch

    found, stretch = moved(np.ones(len(classes), bool))
    if count < 2:
        return max(found, threshold), stretch
    left_out = np.array([moved(classes != name)[0] for name in names])
    found += math.sqrt((count - 1) * float(left_out.var()))
    found = max(found, share * found + (1 - share) * threshold)
    # So high that nothing is named helps nobody: at most halfway to the same picture.
    return min(found, max(threshold, (1 + threshold) / 2)), stretch


def _as_in_a_usual_gallery(
    threshold: float, fields: dict[str, Any], embeddings: FloatArray, labels: IntArray
) -> tuple[float, dict[str, Any]]:
    """Raised by what the best of ``USUAL`` identities score more than that of the few here."""
    steps = GUMBEL * math.log(max(1.0, USUAL / max(1, len(np.unique(labels)) // 2)))
    if steps == 0:
        return threshold, fields
    spread = [
        float(made.best[~made.enrolled].std())
        for made in trials(embeddings, labels)
        if (~made.enrolled).any()
    ]
    raised = threshold + steps * (float(np.mean(spread)) if spread else 0.0)
    threshold = round(max(threshold, min(raised, (1 + threshold) / 2)), 4)
    fields["offset"] = round(-fields["slope"] * threshold, 4)
    fields["data"] += f"; raised to what is due in a gallery of {USUAL} classes"
    if own := fields.get("strangers"):
        offset = round(own["offset"] - own["slope"] * steps, 4)
        fields["strangers"] = own | {"offset": offset}
    return threshold, fields
