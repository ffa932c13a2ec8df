"""Requests: what they ask for, read and checked. Knows nothing of answers."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from siamese_search.gallery.identification import Question
from siamese_search.serving.hosted import Host, Hosted
from siamese_search.serving.jobs import Jobs
from siamese_search.serving.problems import Problem

IMAGES = 32  # in a request
FIELD_BYTES = 64 << 10
CONDITIONS = 16  # of a filter
LABEL = 500  # characters of an identity's name
NUMBER = re.compile("[0-9]{1,18}")  # what SQLite can take
NAMES = {str: "text", int: "number", bool: "true or false", list: "list", dict: "object"}
ROWS, MOST_ROWS = 100, 1000  # of an answer: unless asked for, and at most
MOST_K, MOST_TURNS, MOST_ITEMS = 1000, 64, 1 << 40
SIDE, SIDES = 160, 1024  # pixels of a thumbnail: unless asked for, and at most
YES, NO = ("1", "true", "yes"), ("0", "false", "no", "")


def host_of(request: Request) -> Host:
    host: Host = request.app.state.host
    return host


def jobs_of(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def hosted_of(request: Request) -> Hosted:
    return host_of(request)[request.path_params["g"]]


def number_of(request: Request) -> int:
    """The number in the path. Raises Problem for one that nothing can have."""
    text = str(request.path_params["n"])
    if not NUMBER.fullmatch(text):
        raise Problem(404, f"there is no number {text[:20]!r}")
    return int(text)


def label_of(text: str) -> str:
    """An identity's name, as it was given. Raises Problem where nobody could read it."""
    if len(text) > LABEL:
        raise Problem(400, f"an identity's name may have {LABEL} characters")
    return text


def require_once(names: Iterable[str], lists: Iterable[str] = ("where",)) -> None:
    """Raise Problem for a parameter or a field that is given twice, unless it is a list."""
    for name, times in Counter(names).items():
        if times > 1 and name not in lists:
            raise Problem(400, f"{name[:80]!r} is given {times} times: give it once")


def whole(
    request: Request, name: str, default: int | None, most: int = MOST_ITEMS, least: int = 1
) -> int:
    """A whole number among the parameters; one without a default must be there."""
    text = request.query_params.get(name, "" if default is None else str(default))
    return whole_of(text, name, most, least)


def whole_of(text: str, name: str, most: int = MOST_ITEMS, least: int = 1) -> int:
    """The whole number that a parameter or a field says."""
    if not NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise Problem(400, f"{name} is {text[:20]!r}: a whole number from {least} to {most}")
    return int(text)


def number(request: Request, name: str) -> float | None:
    """A number, of which the question says whether it makes sense."""
    text = request.query_params.get(name)
    with suppress(ValueError):
        return None if text is None else float(text)
    raise Problem(400, f"{name} is {str(text)[:20]!r}: give a number")


def flag(text: object, name: str) -> bool:
    """Yes or no, as a parameter or a field says it; no where it is left out."""
    said = "" if text is None else str(text).lower()
    if said not in YES + NO:
        raise Problem(400, f"{name} is {said[:20]!r}: true or false")
    return said in YES


def question_of(request: Request) -> Question:
    where: dict[str, str] = {}
    conditions = request.query_params.getlist("where")
    if len(conditions) > CONDITIONS:
        raise Problem(400, f"a filter may have {CONDITIONS} conditions")
    for text in conditions:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Problem(400, f"where is {text[:80]!r}: write key=value")
        if key in where:
            raise Problem(400, f"where has {key[:80]!r} twice: an item has one value of it")
        where[key] = value
    return Question(
        k=whole(request, "k", 5, MOST_K),
        threshold=number(request, "threshold"),
        where=where or None,
        rule=request.query_params.get("rule"),
        fpir=number(request, "fpir"),
        turns=whole(request, "turns", 1, MOST_TURNS),
    )


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """The parts of a request, which are let go when it is left. Raises Problem for one that the
    operation does not take.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise Problem(415, "send pictures as multipart/form-data")
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise Problem(415, "send names in UTF-8")
    most = {"max_files": IMAGES, "max_fields": IMAGES, "max_part_size": FIELD_BYTES}
    try:
        form = await _Parts(request.headers, request.stream(), **most).parse()
    except MultiPartException as error:
        raise Problem(400, error.message) from None
    operation = request.state.operation
    try:
        for name in set(form) - {*operation.parts, *operation.body}:
            sent = ": it is a parameter of the address" if name in operation.query else ""
            raise Problem(400, f"there is no field {name[:80]!r} here{sent}")
        require_once((name for name, _ in form.multi_items()), operation.parts)
        yield form
    finally:
        await form.close()


class _Parts(MultiPartParser):
    """Parts up to their last boundary: what is cut short is refused, not left out."""

    ended = False

    def on_end(self) -> None:
        self.ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self.ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("the form is cut short: its last boundary is missing")
        return form


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


async def picture(form: FormData, name: str = "image") -> bytes:
    """The one picture of that name."""
    found = await pictures(form, name)
    if len(found) > 1:
        raise Problem(400, f"there are {len(found)} parts {name!r}: send one picture")
    return found[0][1]


async def json_of(request: Request, **kinds: Any) -> dict[str, Any]:
    """The fields of a JSON object, each of a type, or None where it is left out."""
    given = parsed(await request.body() or b"{}", "the body")
    if not isinstance(given, dict) or set(given) - set(kinds):
        known = f"an object with {', '.join(kinds)}, and" if kinds else "empty, or an object with"
        raise Problem(400, f"the body is {known} no other fields")
    for name, kind in kinds.items():
        value = given.setdefault(name, None)
        if value is not None and type(value) is not kind:
            raise Problem(400, f"{name} is no {NAMES[kind]}")
        if kind is list and not all(type(n) is int and 0 <= n < 1 << 62 for n in value or ()):
            raise Problem(400, f"{name} is a list of whole numbers")
        if kind is int and not 0 <= (value or 0) < 1 << 62:
            raise Problem(400, f"{name} is too large")
    return given


def parsed(data: bytes | str, what: str) -> Any:
    """JSON as Python has it. Raises Problem for what is none, or cannot be sent back as such:
    halves of characters, NaN, fields that are given twice, and numbers and nestings without end.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require_once((name for name, _ in pairs), ())
        return dict(pairs)

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError
        return value

    try:
        given = json.loads(data, parse_float=finite, parse_constant=finite, object_pairs_hook=once)
        json.dumps(given, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Problem(400, f"{what} is no JSON") from None
    return given


def needed(given: dict[str, Any], *names: str) -> list[Any]:
    for name in names:
        if not given[name]:
            raise Problem(400, f"{name} is needed")
    return [given[name] for name in names]
