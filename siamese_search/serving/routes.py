"""The operations of the API: ``ROUTES`` is the one list of them, for the application and for the
OpenAPI document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from siamese_search.records import Item
from siamese_search.serving import asking, contents, representation, shapes
from siamese_search.serving.jobs import CHANGING
from siamese_search.serving.problems import Problem
from siamese_search.serving.requests import (
    hosted_of,
    jobs_of,
    json_of,
    needed,
)


async def scores(request: Request) -> Response:
    """What decides for the gallery's own items, once a job `scores` has found it.

    It is `stale` where the gallery has changed since.
    """
    one = hosted_of(request)
    found = jobs_of(request).scores.get(one.name)
    if found is None:
        raise Problem(409, "there are no scores yet: start a job `scores`")
    version, measured = found

    def told() -> dict[str, Any]:
        stale = version != one.gallery.version
        return representation.of_scores(measured) | {"stale": stale}

    return JSONResponse(await one.call(told))


async def start_job(request: Request) -> Response:
    """Start what takes long: calibrate, audit, scores, rebuild, compact."""
    one = hosted_of(request)
    given = await json_of(request, kind=str, arguments=dict)
    (kind,) = needed(given, "kind")
    if one.read_only and kind in CHANGING:
        raise Problem(403, f"the gallery {one.name} is read-only here")
    await one.call(lambda: one.gallery.version)  # opens it again where it was replaced
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
    """Cancel a job; one that runs and shows no progress, as calibrate and compact, goes on."""
    await json_of(request)
    found = jobs_of(request).get(request.path_params["id"])
    if found is None:
        raise Problem(404, "there is no such job")
    if not jobs_of(request).cancel(found):
        raise Problem(409, f"a job {found.kind} that runs cannot be cancelled: wait for its end")
    return JSONResponse(dataclasses.asdict(found))


Handler = Callable[[Request], Awaitable[Response]]


class Operation(NamedTuple):
    """A path below ``/api/v1`` with what answers it; ``query``, ``parts`` (pictures) and ``body``
    name what it takes, ``needs`` what of the body must not be left out, and ``answer`` is the shape
    of its JSON, see ``schema_of``. What is ``tagged`` has an ETag, and is 304 for who has that.
    """

    method: str
    path: str
    handler: Handler
    query: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    gives: str = "application/json"
    answer: Any = Any
    needs: tuple[str, ...] = ()
    status: int = 200
    tagged: bool = False


def _get(path: str, handler: Handler, answer: Any, *query: str) -> Operation:
    return Operation("GET", path, handler, query, answer=answer)


def _tagged(path: str, handler: Handler, answer: Any, *query: str) -> Operation:
    return _get(path, handler, answer, *query)._replace(tagged=True)


def _picture(path: str, handler: Handler, *query: str) -> Operation:
    return Operation("GET", path, handler, query, gives="image/jpeg", tagged=True)


_ASKED = ("k", "fpir", "threshold", "rule", "turns", "where", "keep_unknown")
_G = "/galleries/{g}"
_PAGE = ("after", "offset", "limit")
ROUTES = (
    _get("/galleries", asking.galleries, [shapes.GALLERY_ROW]),
    _tagged(_G, asking.about, shapes.GALLERY),
    Operation("POST", f"{_G}/identify", asking.identify, _ASKED, ("image",), answer=shapes.ANSWERS),
    Operation("POST", f"{_G}/verify", asking.verify, (), ("a", "b"), answer=shapes.VERIFIED),
    Operation(
        "POST",
        f"{_G}/verify/explain",
        asking.explain_verification,
        (),
        ("a", "b"),
        gives="image/png",
    ),
    Operation("POST", f"{_G}/explain", asking.explain, ("item",), ("image",), gives="image/png"),
    Operation(
        "POST",
        f"{_G}/enroll",
        asking.enroll,
        (),
        ("image",),
        ("label", "metadata", "distractor", "change"),
        answer=shapes.ENROLLED_NUMBERED,
        needs=("label",),
        status=201,
    ),
    _tagged(f"{_G}/identities", contents.identities, shapes.IDENTITIES, "search", *_PAGE),
    _tagged(f"{_G}/identity", contents.identity, shapes.IDENTITY, "name", *_PAGE),
    Operation(
        "POST",
        f"{_G}/rename",
        contents.rename,
        body=("old", "new", "merge"),
        answer=shapes.RELABELLED,
        needs=("old", "new"),
    ),
    Operation(
        "POST",
        f"{_G}/move",
        contents.move,
        body=("items", "to"),
        answer=shapes.RELABELLED,
        needs=("items", "to"),
    ),
    Operation(
        "POST",
        f"{_G}/remove",
        contents.remove,
        body=("items", "identity"),
        answer=shapes.REMOVED,
        needs=("items or identity",),
    ),
    Operation("POST", f"{_G}/undo", contents.undo, body=("number",), answer=shapes.UNDONE),
    Operation("POST", f"{_G}/redo", contents.redo, body=("number",), answer=shapes.REDONE),
    _get(f"{_G}/items/{{n}}", contents.item, Item),
    _picture(f"{_G}/items/{{n}}/thumbnail", contents.thumbnail, "side"),
    _picture(f"{_G}/items/{{n}}/picture", contents.picture),
    _tagged(f"{_G}/unknowns", contents.unknowns, shapes.UNKNOWNS, "after", "limit"),
    Operation(
        "DELETE",
        f"{_G}/unknowns/{{n}}",
        contents.drop_unknowns,
        body=("members", "without"),
        answer=shapes.DROPPED,
    ),
    _picture(f"{_G}/unknowns/{{n}}/thumbnail", contents.unknown_thumbnail, "side"),
    Operation(
        "POST",
        f"{_G}/unknowns/{{n}}/enroll",
        contents.enroll_unknowns,
        body=("label", "members", "without"),
        answer=shapes.ENROLLED,
        needs=("label",),
        status=201,
    ),
    _tagged(f"{_G}/doubts", contents.doubts, shapes.DOUBTS, "name"),
    _get(f"{_G}/scores", scores, shapes.SCORES),
    Operation(
        "POST",
        f"{_G}/jobs",
        start_job,
        body=("kind", "arguments"),
        needs=("kind",),
        answer=shapes.JOB,
        status=202,
    ),
    _get("/jobs", jobs, [shapes.JOB]),
    _get("/jobs/{id}", job, shapes.JOB),
    Operation("DELETE", "/jobs/{id}", cancel_job, answer=shapes.JOB),
)
