"""Requests: what they ask for, read and checked. Knows nothing of answers."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from siamese_search.gallery.identification import Question
from siamese_search.serving.hosted import Host, Hosted
from siamese_search.serving.jobs import Jobs
from siamese_search.serving.problems import Problem

IMAGES = 32  # in a request
FIELD_BYTES = 64 << 10
ROWS, MOST_ROWS = 100, 1000  # of an answer: unless asked for, and at most


def host_of(request: Request) -> Host:
    host: Host = request.app.state.host
    return host


def jobs_of(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def hosted_of(request: Request) -> Hosted:
    return host_of(request)[request.path_params["g"]]


def whole(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:9]) <= most:
        raise Problem(400, f"{name} is {text[:20]!r}: a whole number from 1 to {most}")
    return int(text)


def number(request: Request, name: str) -> float | None:
    """A number, of which the question says whether it makes sense."""
    text = request.query_params.get(name)
    with suppress(ValueError):
        return None if text is None else float(text)
    raise Problem(400, f"{name} is {str(text)[:20]!r}: give a number")


def question_of(request: Request) -> Question:
    where: dict[str, str] = {}
    for text in request.query_params.getlist("where"):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Problem(400, f"where is {text[:80]!r}: write key=value")
        where[key] = value
    return Question(
        k=whole(request, "k", 5, 1000),
        threshold=number(request, "threshold"),
        where=where or None,
        rule=request.query_params.get("rule"),
        fpir=number(request, "fpir"),
        turns=whole(request, "turns", 1, 64),
    )


def form_of(request: Request) -> AbstractAsyncContextManager[FormData]:
    """The parts of a request, which are let go when it is left."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(415, "send pictures as multipart/form-data")
    return request.form(max_files=IMAGES, max_fields=IMAGES, max_part_size=FIELD_BYTES)


async def pictures(form: FormData, name: str = "image") -> list[tuple[str, bytes]]:
    """The parts of that name: (file name, contents)."""
    found = []
    for number, part in enumerate(form.getlist(name)):
        if not isinstance(part, UploadFile):
            raise Problem(400, f"the part {name!r} is no file")
        found.append((part.filename or f"{name} {number + 1}", await part.read()))
    if not found:
        raise Problem(400, f"there is no part {name!r} with a picture")
    return found


async def json_of(request: Request, **kinds: Any) -> dict[str, Any]:
    """The fields of a JSON object, each of a type, or None where it is left out."""
    try:
        given = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise Problem(400, "the body is no JSON") from None
    if not isinstance(given, dict) or set(given) - set(kinds):
        raise Problem(400, f"the body is an object with {', '.join(kinds)}, and no other fields")
    for name, kind in kinds.items():
        value = given.setdefault(name, None)
        if isinstance(value, list) and not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
            raise Problem(400, f"{name} is a list of whole numbers")
        if value is not None and not isinstance(value, kind):
            raise Problem(400, f"{name} is no {kind.__name__}")
    return given


def needed(given: dict[str, Any], *names: str) -> list[Any]:
    for name in names:
        if not given[name]:
            raise Problem(400, f"{name} is needed")
    return [given[name] for name in names]
