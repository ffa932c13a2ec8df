"""Shapes: what operations take and answer, for the OpenAPI document. See ``schema_of``."""

from __future__ import annotations

from typing import Any, get_type_hints

from siamese_search.decision.evidence import RATES
from siamese_search.decision.rules import RULES
from siamese_search.evaluation.own_scores import Taken, WorkingPoint
from siamese_search.evaluation.results import IdentityResult
from siamese_search.records import (
    Calibration,
    Change,
    EnrollmentReport,
    GalleryInfo,
    Identification,
    Item,
    Match,
    Verification,
)
from siamese_search.serving.jobs import ARGUMENTS, KINDS, STATES, Job
from siamese_search.serving.requests import (
    CONDITIONS,
    IMAGES,
    LABEL,
    MOST_ITEMS,
    MOST_K,
    MOST_ROWS,
    MOST_TURNS,
    NO,
    ROWS,
    SIDE,
    SIDES,
    YES,
)
from siamese_search.serving.schema import fields_of, one_of, taken, within

# What is taken

FLAG = one_of([*YES, *NO])
NUMBER = within(int, minimum=0, maximum=(1 << 62) - 1)
NUMBERS = within([NUMBER], minItems=1)
NAME = within(
    str,
    minLength=1,
    maxLength=LABEL,
    pattern=r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x20\x7f-\xa0][^\x00-\x1f\x7f-\x9f]*$",
)

PARAMETERS: dict[str, Any] = {
    "k": within(int, minimum=1, maximum=MOST_K, default=5),
    "threshold": within(float, minimum=-1, maximum=1),
    "fpir": within(float, minimum=RATES[0], maximum=RATES[-1]),
    "rule": one_of(RULES),
    "turns": within(int, minimum=1, maximum=MOST_TURNS, default=1),
    "where": within(
        [within(str, pattern="^[^=]+=")],
        maxItems=CONDITIONS,
        description="key=value of an item's metadata, each key once.",
    ),
    "keep_unknown": FLAG,
    "item": within(int, minimum=1, maximum=MOST_ITEMS),
    "side": within(int, minimum=1, maximum=SIDES, default=SIDE),
    "limit": within(int, minimum=1, maximum=MOST_ROWS, default=ROWS),
    "identity.limit": within(
        int, minimum=1, maximum=MOST_ROWS, description="All items, where it is left out."
    ),
    "search": str,
    "name": within(str, minLength=1),
    "after": str,
    "identity.after": within(int, minimum=0, maximum=MOST_ITEMS, default=0),
    "offset": within(int, minimum=0, maximum=MOST_ITEMS, default=0),
    "unknowns.after": within(int, minimum=0, maximum=MOST_ITEMS, default=0),
}
"""By name, or by operation and name where one differs."""

FIELDS: dict[str, Any] = {
    "label": NAME,
    "metadata": within(str, contentMediaType="application/json", description="A JSON object."),
    "distractor": FLAG,
    "old": NAME,
    "new": NAME,
    "to": NAME,
    "merge": bool | None,
    "items": NUMBERS,
    "number": (NUMBER, None),
    "change": within(
        int,
        minimum=1,
        maximum=MOST_ITEMS,
        description="The number of a change that enrolled, with which this one goes on.",
    ),
    "members": within(
        (NUMBERS, None),
        description="The pictures of the group that are meant, and no others; all if left out.",
    ),
    "without": ([NUMBER], None),
}
"""Of bodies."""

_FILE = within(str, format="binary")
_FILES = within([_FILE], minItems=1, maxItems=IMAGES)
PARTS: dict[str, Any] = {"image": _FILES, "explain.image": _FILE, "a": _FILE, "b": _FILE}
"""Pictures, by name, or by operation and name."""

BODIES: dict[str, Any] = {
    "remove": (
        taken({"items": NUMBERS, "identity": None}, ["items"]),
        taken({"identity": NAME, "items": None}, ["identity"]),
    ),
    "start_job": tuple(
        taken(
            {"kind": one_of([kind]), "arguments": (taken(ARGUMENTS.get(kind, {})), None)}, ["kind"]
        )
        for kind in KINDS
    ),
}
"""By operation, where what is taken depends on more than one field."""

# What is answered

GALLERY_ROW = {
    "name": str,
    "identities": int,
    "items": int,
    "encoder": str,
    "calibrated": bool,
    "read_only": bool,
}
_FLAT = fields_of(Calibration, without=("evidence", "looked"))
CALIBRATION = _FLAT | {"looked": (_FLAT | {"looked": None}, None)}
GALLERY = fields_of(GalleryInfo) | {
    "decides": str | None,
    "calibration": (CALIBRATION, None),
    "read_only": bool,
    "takes": ([str], None),
    "change": Change | None,
    "undone": Change | None,
}
ANSWERS = {
    "answers": [
        (
            fields_of(Identification)
            | {"image": str, "matches": [fields_of(Match) | {"metadata": dict[str, str]}]},
            {"image": str, "error": str},
        )
    ],
    "version": str,
    "undecided": str | None,
}
VERIFIED = Verification
CHANGED = {"change": Change | None}
ENROLLED = fields_of(EnrollmentReport) | CHANGED
ENROLLED_NUMBERED = ENROLLED | {"numbers": list[int]}
IDENTITIES = {
    "identities": [{"name": str, "items": int, "distractor": bool, "cover": int | None}],
    "next": str | None,
    "total": int,
}
IDENTITY = {
    "name": str,
    "distractor": bool,
    "items": [Item],
    "next": int | None,
    "total": int,
}
RELABELLED = {"relabelled": int} | CHANGED
REMOVED = {"removed": int, "items": int} | CHANGED
UNKNOWNS = {
    "groups": [{"number": int, "count": int, "members": list[int], "nearest": Match | None}],
    "next": int | None,
}
UNDONE = fields_of(Change) | {"undone": Change | None}
REDONE = fields_of(Change) | CHANGED
DROPPED = {"dropped": int} | CHANGED
DOUBTS = {
    "doubts": [{"item": int, "doubt": float, "other": str, "other_item": int}],
    "of": int,
}
SCORES = {
    "stale": bool,
    "items": list[int],
    "genuine": list[float],
    "right": list[bool],
    "impostor": list[float | None],
    "calibrated": bool,
    "threshold": float,
    "standard": str,
    "fpir": float,
    "fnir": float | None,
    "eer": float | None,
    "points": [{"rate": float, "threshold": float, "fpir": float, "fnir": float | None}],
    "det": [get_type_hints(WorkingPoint)],
    "per_identity": [get_type_hints(IdentityResult)],
    "confusions": [get_type_hints(Taken)],
}
JOB = fields_of(Job) | {"state": one_of(STATES)}
PROBLEM = {"type": str, "title": str, "status": int, "detail": str}
