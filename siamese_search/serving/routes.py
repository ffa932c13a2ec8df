"""The operations of the API: ``ROUTES`` is the one list of them, for the application and for the
OpenAPI document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from siamese_search.serving import asking, contents, representation
from siamese_search.serving.jobs import CHANGING
from siamese_search.serving.problems import Problem
from siamese_search.serving.requests import (
    hosted_of,
    jobs_of,
    json_of,
    needed,
)


async def scores(request: Request) -> Response:
    """What decides for the gallery's own items, once a job `scores` has found it."""
    one = hosted_of(request)
    found = jobs_of(request).scores.get(one.name)
    if found is None:
        raise Problem(409, "there are no scores yet: start a job `scores`")
    return JSONResponse(await one.call(lambda: representation.of_scores(found)))


async def start_job(request: Request) -> Response:
    """Start what takes long: calibrate, audit, scores, rebuild, compact."""
    one = hosted_of(request)
    given = await json_of(request, kind=str, arguments=dict)
    (kind,) = needed(given, "kind")
    if one.read_only and kind in CHANGING:
        raise Problem(403, f"the gallery {one.name} is read-only here")
    job = jobs_of(request).start(one.name, one.gallery, kind, given["arguments"] or {})
    return JSONResponse(dataclasses.asdict(job), 202)


async def jobs(request: Request) -> Response:
    """All jobs, without their results."""
    every = [dataclasses.asdict(job) | {"result": None} for job in jobs_of(request).all()]
    return JSONResponse(every)


async def job(request: Request) -> Response:
    """A job, with its result."""
    found = jobs_of(request).get(request.path_params["id"])
    if found is None:
        raise Problem(404, "there is no such job")
    return JSONResponse(dataclasses.asdict(found))


async def cancel_job(request: Request) -> Response:
    """Cancel a job."""
    found = jobs_of(request).get(request.path_params["id"])
    if found is None:
        raise Problem(404, "there is no such job")
    jobs_of(request).cancel(found)
    return JSONResponse(dataclasses.asdict(found))


Handler = Callable[[Request], Awaitable[Response]]


class Operation(NamedTuple):
    """A path below ``/api/v1`` with what answers it; ``query`` and ``body`` name what it takes."""

    method: str
    path: str
    handler: Handler
    query: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    gives: str = "application/json"


_ASKED = ("k", "fpir", "threshold", "rule", "turns", "where", "keep_unknown")
ROUTES = (
    Operation("GET", "/galleries", asking.galleries),
    Operation("GET", "/galleries/{g}", asking.about),
    Operation("POST", "/galleries/{g}/identify", asking.identify, _ASKED, ("image",)),
    Operation("POST", "/galleries/{g}/verify", asking.verify, (), ("a", "b")),
    Operation(
        "POST",
        "/galleries/{g}/verify/explain",
        asking.explain_verification,
        (),
        ("a", "b"),
        gives="image/png",
    ),
    Operation(
        "POST", "/galleries/{g}/explain", asking.explain, ("item",), ("image",), gives="image/png"
    ),
    Operation(
        "POST",
        "/galleries/{g}/enroll",
        asking.enroll,
        (),
        ("image",),
        ("label", "metadata", "distractor"),
    ),
    Operation(
        "GET", "/galleries/{g}/identities", contents.identities, ("search", "after", "limit")
    ),
    Operation("GET", "/galleries/{g}/identity", contents.identity, ("name",)),
    Operation("POST", "/galleries/{g}/rename", contents.rename, body=("old", "new", "merge")),
    Operation("POST", "/galleries/{g}/move", contents.move, body=("items", "to")),
    Operation("POST", "/galleries/{g}/remove", contents.remove, body=("items", "identity")),
    Operation("POST", "/galleries/{g}/undo", contents.undo, body=("number",)),
    Operation("GET", "/galleries/{g}/items/{n:int}", contents.item),
    Operation(
        "GET",
        "/galleries/{g}/items/{n:int}/thumbnail",
        contents.thumbnail,
        ("side",),
        gives="image/jpeg",
    ),
    Operation("GET", "/galleries/{g}/items/{n:int}/picture", contents.picture, gives="image/jpeg"),
    Operation("GET", "/galleries/{g}/unknowns", contents.unknowns, ("after", "limit")),
    Operation("DELETE", "/galleries/{g}/unknowns/{n:int}", contents.drop_unknowns),
    Operation(
        "GET",
        "/galleries/{g}/unknowns/{n:int}/thumbnail",
        contents.unknown_thumbnail,
        ("side",),
        gives="image/jpeg",
    ),
    Operation(
        "POST",
        "/galleries/{g}/unknowns/{n:int}/enroll",
        contents.enroll_unknowns,
        body=("label", "without"),
    ),
    Operation("GET", "/galleries/{g}/doubts", contents.doubts, ("name",)),
    Operation("GET", "/galleries/{g}/scores", scores),
    Operation("POST", "/galleries/{g}/jobs", start_job, body=("kind", "arguments")),
    Operation("GET", "/jobs", jobs),
    Operation("GET", "/jobs/{id}", job),
    Operation("DELETE", "/jobs/{id}", cancel_job),
)
