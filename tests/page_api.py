"""A small stand-in for the server's API: what the page needs, kept in memory, to test the page."""

from __future__ import annotations

import io
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import siamese_search

PAGE = Path(siamese_search.__file__).parent / "serving" / "page"
CSP = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:"
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
Handler = Callable[[Request], Awaitable[Response]]


@dataclass
class Fake:
    """Galleries by name: whose each item is; and what was asked of it."""

    galleries: dict[str, dict[int, str]]
    read_only: set[str] = field(default_factory=set)
    token: str | None = None
    undo: list[tuple[dict[str, Any], dict[int, str]]] = field(default_factory=list)
    undone: list[tuple[dict[str, Any], dict[int, str]]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    unknowns: dict[int, list[int]] = field(default_factory=lambda: {1: [1, 2, 3], 4: [4]})
    undecided: str | None = None  # why nothing is named
    stale: bool = False  # whether scores are of an older state

    def change(
        self,
        gallery: str,
        what: str,
        identity: str | None,
        items: dict[int, str],
        goes_on: str | None = None,
    ) -> dict[str, Any]:
        """A change, or what goes on with the one of a number where that is the last."""
        old = self.galleries[gallery]
        if self.undo and goes_on == str(self.undo[-1][0]["number"]):
            old = self.undo.pop()[1]
        change = {
            "number": len(self.undo) + 1,
            "what": what,
            "identity": identity,
            "new": None,
            "items": max(1, abs(len(old) - len(items))),
            "at": "2026-01-01T12:00:00",
            "undoable": True,
        }
        self.undo.append((change, old))
        self.undone.clear()
        self.galleries[gallery] = items
        return change


def problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse(
        {"type": "about:blank", "title": "No", "status": status, "detail": detail},
        status,
        media_type="application/problem+json",
    )


def drawn(number: int) -> Response:
    """A picture that tells numbers apart."""
    hue = (number * 67) % 255
    image = Image.new("HSV", (120, 120), (hue, 110, 210))
    image.paste(((hue + 90) % 255, 140, 150), (30, 30, 90, 90 - number % 40))
    kept = io.BytesIO()
    image.convert("RGB").save(kept, "JPEG")
    return Response(kept.getvalue(), media_type="image/jpeg")


def application(fake: Fake) -> Starlette:
    """The API on ``fake``, with the page and its policy."""

    def gallery(request: Request) -> str:
        return str(request.path_params["g"])

    def items(request: Request) -> dict[int, str]:
        return fake.galleries[gallery(request)]

    async def galleries(_: Request) -> Response:
        return JSONResponse(
            [{"name": name, "read_only": name in fake.read_only} for name in fake.galleries]
        )

    async def info(request: Request) -> Response:
        name, own = gallery(request), items(request)
        rates = {"0.001": 0.7, "0.01": 0.6, "0.1": 0.5}
        return JSONResponse(
            {
                "gallery": name,
                "identities": len(set(own.values())),
                "items": len(own),
                "threshold": None if fake.undecided else 0.8,
                "undecided": fake.undecided,
                "read_only": name in fake.read_only,
                "change": fake.undo[-1][0] if fake.undo else None,
                "undone": fake.undone[-1][0] if fake.undone else None,
                "calibration": None
                if fake.undecided
                else {
                    "fpir": 0.01,
                    "thresholds": rates,
                    "strangers": 40,
                    "named": 0.912,
                    "extrapolated": False,
                    "turns": 1,
                },
            }
        )

    async def identify(request: Request) -> Response:
        answers: list[dict[str, Any]] = []
        async with request.form() as form:
            for part in form.getlist("image"):
                assert not isinstance(part, str)
                name = part.filename or ""
                if name.endswith(".txt"):
                    answers.append({"image": name, "error": f"{name}: not an image"})
                    continue
                best: dict[str, int] = {}
                for number, one in sorted(items(request).items()):
                    best.setdefault(one, number)
                matches = [
                    {
                        "identity": one,
                        "score": round(0.93 - 0.17 * rank, 3),
                        "item": number,
                        "path": None,
                        "distractor": False,
                        "closer": 0.021 if rank == 0 else None,
                        "metadata": {"shelf": "3"} if rank == 0 else {},
                    }
                    for rank, (one, number) in enumerate(list(best.items())[:5])
                ]
                strange = name.startswith("stranger") or fake.undecided is not None
                known = fake.undecided is None
                threshold = 0.95 if strange else 0.71
                answers.append(
                    {
                        "image": name,
                        "identity": None if strange or not matches else matches[0]["identity"],
                        "score": matches[0]["score"] if matches else None,
                        "confidence": (0.034 if strange else 0.917) if known else None,
                        "threshold": threshold if known else None,
                        "matches": matches,
                        "p_value": 0.0042,
                    }
                )
        return JSONResponse({"answers": answers, "undecided": fake.undecided})

    async def enroll(request: Request) -> Response:
        async with request.form() as form:
            label, parts, goes_on = str(form["label"]), form.getlist("image"), form.get("change")
        new = dict(items(request))
        numbers = [max(new, default=0) + 1 + index for index in range(len(parts))]
        new |= dict.fromkeys(numbers, label)
        change = fake.change(gallery(request), "add", label, new, str(goes_on))
        report = {"added": len(parts), "skipped": 0, "rejected": [], "numbers": numbers}
        return JSONResponse(report | {"change": change}, 201)

    async def identities(request: Request) -> Response:
        asked = request.query_params
        members: dict[str, list[int]] = {}
        for number, name in items(request).items():
            if asked.get("search", "") in name:
                members.setdefault(name, []).append(number)
        names = sorted(members)
        left = [name for name in names if name > asked.get("after", "")]
        left = left[int(asked.get("offset", 0)) :]
        page = left[: int(asked.get("limit", 100))]
        return JSONResponse(
            {
                "identities": [
                    {
                        "name": name,
                        "items": len(members[name]),
                        "distractor": False,
                        "cover": members[name][0],
                    }
                    for name in page
                ],
                "next": page[-1] if len(page) < len(left) else None,
                "total": len(names),
            }
        )

    def item(number: int, name: str) -> dict[str, Any]:
        return {
            "number": number,
            "identity": name,
            "source": f"photos/{name}/{number}.jpg",
            "added": "2026-01-01T12:00:00",
            "metadata": {"shelf": "3"},
        }

    async def identity(request: Request) -> Response:
        name = request.query_params["name"]
        found = [item(number, one) for number, one in items(request).items() if one == name]
        if not found:
            return problem(404, f"no identity {name!r} in the gallery")
        return JSONResponse({"name": name, "distractor": False, "items": found})

    async def doubts(request: Request) -> Response:
        name = request.query_params["name"]
        own = [number for number, one in items(request).items() if one == name]
        other, nearest = next(
            ((one, number) for number, one in items(request).items() if one != name), (name, 1)
        )
        found = [
            {"item": n, "doubt": n / 10 - 0.45, "other": other, "other_item": nearest} for n in own
        ]
        return JSONResponse({"doubts": found[::-1], "of": len(own)})

    async def rename(request: Request) -> Response:
        asked = await request.json()
        own = items(request)
        if asked["new"] in own.values() and not asked["merge"]:
            return problem(409, f"{asked['new']} exists already")
        new = {n: asked["new"] if one == asked["old"] else one for n, one in own.items()}
        change = fake.change(gallery(request), "relabel", asked["old"], new)
        return JSONResponse({"relabelled": 1, "change": change})

    async def move(request: Request) -> Response:
        asked = await request.json()
        new = items(request) | dict.fromkeys(asked["items"], asked["to"])
        change = fake.change(gallery(request), "relabel", None, new)
        return JSONResponse({"relabelled": len(asked["items"]), "change": change})

    async def remove(request: Request) -> Response:
        asked = await request.json()
        gone, named = asked.get("items", []), asked.get("identity")
        new = {n: one for n, one in items(request).items() if n not in gone and one != named}
        change = fake.change(gallery(request), "remove", named, new)
        return JSONResponse({"removed": 1, "items": len(new), "change": change})

    async def undo(request: Request) -> Response:
        return await turned(request, fake.undo, fake.undone, "undone")

    async def redo(request: Request) -> Response:
        return await turned(request, fake.undone, fake.undo, "change")

    async def turned(
        request: Request, source: list[Any], target: list[Any], inverse: str
    ) -> Response:
        number = (await request.json()).get("number")
        if number not in (None, source[-1][0]["number"]):
            return problem(400, "the gallery has been changed meanwhile: look again")
        change, items_before = source.pop()
        target.append((change, fake.galleries[gallery(request)]))
        fake.galleries[gallery(request)] = items_before
        return JSONResponse(change | {inverse: change})

    async def picture(request: Request) -> Response:
        return drawn(int(request.path_params["n"]))

    async def explain(request: Request) -> Response:
        return drawn(int(request.query_params["item"]))

    async def verify(request: Request) -> Response:
        async with request.form() as form:
            a, b = form["a"], form["b"]
        assert not isinstance(a, str)
        assert not isinstance(b, str)
        if "notes" in f"{a.filename} {b.filename}":
            return problem(422, "b: not an image")
        same = a.filename == b.filename
        score, sure = (0.97, 0.99) if same else (0.31, 0.02)
        if fake.undecided:
            nothing = dict.fromkeys(("same", "confidence", "threshold"))
            return JSONResponse({"score": score, **nothing})
        return JSONResponse({"same": same, "score": score, "confidence": sure, "threshold": 0.7995})

    async def explain_verification(_: Request) -> Response:
        return drawn(7)

    async def one_item(request: Request) -> Response:
        number = int(request.path_params["n"])
        if number not in items(request):
            return problem(404, f"there is no item {number}")
        return JSONResponse(item(number, items(request)[number]))

    async def unknowns(request: Request) -> Response:
        number, name = next(iter(items(request).items()))
        nearest = {"identity": name, "score": 0.512, "item": number, "distractor": False}
        groups = [
            {"number": group, "count": len(members), "nearest": nearest, "members": members}
            for group, members in fake.unknowns.items()
        ]
        return JSONResponse({"groups": groups, "next": None})

    async def name_group(request: Request) -> Response:
        asked = await request.json()
        members = fake.unknowns.pop(int(request.path_params["n"]))
        taken = [100 + member for member in members if member in asked["members"]]
        new = items(request) | dict.fromkeys(taken, asked["label"])
        change = fake.change(gallery(request), "add", asked["label"], new)
        return JSONResponse({"added": len(taken), "skipped": 0, "rejected": [], "change": change})

    async def drop_group(request: Request) -> Response:
        fake.unknowns.pop(int(request.path_params["n"]))
        members = (await request.json())["members"]
        change = fake.change(gallery(request), "drop", None, items(request))
        return JSONResponse({"dropped": len(members), "change": change})

    async def scores(request: Request) -> Response:
        if not any(job["kind"] == "scores" for job in fake.jobs):
            return problem(409, "no scores yet: start a job `scores`")
        numbers, names = list(items(request)), list(dict.fromkeys(items(request).values()))
        genuine = [0.5 + 0.4 * (i / 60) ** 0.5 for i in range(60)]
        impostor = [0.1 + 0.5 * (i / 60) ** 2 for i in range(58)] + [None, None]
        right = [i != 5 for i in range(60)]  # one looks more like another

        def rates(threshold: float) -> dict[str, float]:
            named = [one for one, hit in zip(genuine, right, strict=True) if hit]
            return {
                "threshold": threshold,
                "fpir": sum(one is not None and one >= threshold for one in impostor) / 60,
                "fnir": 1 - sum(one >= threshold for one in named) / 60,
            }

        per_identity = [
            {"name": name, "probes": 3, "best": min(3, 1 + rank), "named": min(3, rank)}
            for rank, name in enumerate(names)
        ]
        taken = {"own": names[0], "other": names[-1], "times": 2}
        return JSONResponse(
            {
                "stale": fake.stale,
                "items": [1] * 60,
                "genuine": genuine,
                "right": right,
                "impostor": impostor,
                "calibrated": True,
                "standard": "FPIR 0.01 asked",
                **rates(0.55),
                "eer": 0.03,
                "points": [{"rate": rate, **rates(0.8 - rate)} for rate in (0.01, 0.1)],
                "det": [rates(0.1 + step / 50) for step in range(41)],
                "per_identity": per_identity,
                "confusions": [taken | {"pairs": [[numbers[0], numbers[-1]]]}],
            }
        )

    async def start(request: Request) -> Response:
        asked = await request.json()
        one, two, three = list(items(request))[:3]
        names = items(request)
        job = {
            "id": str(len(fake.jobs) + 1),
            "gallery": gallery(request),
            "kind": asked["kind"],
            "arguments": asked["arguments"],
            "state": "running",
            "stage": "searching",
            "done": 3,
            "total": 10,
            "result": None,
            "error": None,
            "started": "2026-01-01T12:00:00Z",
            "ended": None,
        }
        if asked["kind"] == "audit":
            suspect = {"item": one, "identity": names[one], "own": 0.4, "other": names[three]}
            job["result"] = {
                "suspects": [suspect | {"other_item": three, "doubt": 0.2}],
                "duplicates": [[one, two, 0.998]],
                "confusable": [[names[one], names[three], 2, 5]],
                "items": len(names),
            }
        fake.jobs.append(job)
        return JSONResponse(job, 202)

    async def jobs(_: Request) -> Response:
        return JSONResponse(fake.jobs)

    async def one_job(request: Request) -> Response:
        job = next(one for one in fake.jobs if one["id"] == request.path_params["id"])
        if request.method == "DELETE":
            job["state"] = "cancelled"
        elif job["kind"] != "rebuild" and job["state"] == "running":  # which goes on
            job |= {"state": "done", "ended": "2026-01-01T12:00:01Z"}
        return JSONResponse(job)

    async def index(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    asking = (identify, verify, explain, explain_verification)

    def route(path: str, handler: Handler, *methods: str) -> Route:
        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization")
            if fake.token is not None and given != f"Bearer {fake.token}":
                return problem(401, "a token is needed")
            changes = request.method != "GET" and handler not in asking
            if changes and request.path_params.get("g") in fake.read_only:
                return problem(403, "this gallery is read-only")
            return await handler(request)

        return Route(f"/api/v1{path}", guarded, methods=list(methods) or ["GET"])

    async def policy(request: Request, following: RequestResponseEndpoint) -> Response:
        answer = await following(request)
        answer.headers["Content-Security-Policy"] = CSP
        return answer

    return Starlette(
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=policy)],
        routes=[
            Route("/", index),
            Mount("/page", StaticFiles(directory=PAGE)),
            route("/galleries", galleries),
            route("/jobs", jobs),
            route("/jobs/{id}", one_job, "GET", "DELETE"),
            route("/galleries/{g}", info),
            route("/galleries/{g}/identify", identify, "POST"),
            route("/galleries/{g}/verify", verify, "POST"),
            route("/galleries/{g}/verify/explain", explain_verification, "POST"),
            route("/galleries/{g}/explain", explain, "POST"),
            route("/galleries/{g}/enroll", enroll, "POST"),
            route("/galleries/{g}/identities", identities),
            route("/galleries/{g}/identity", identity),
            route("/galleries/{g}/doubts", doubts),
            route("/galleries/{g}/rename", rename, "POST"),
            route("/galleries/{g}/move", move, "POST"),
            route("/galleries/{g}/remove", remove, "POST"),
            route("/galleries/{g}/undo", undo, "POST"),
            route("/galleries/{g}/redo", redo, "POST"),
            route("/galleries/{g}/items/{n}", one_item),
            route("/galleries/{g}/items/{n}/thumbnail", picture),
            route("/galleries/{g}/items/{n}/picture", picture),
            route("/galleries/{g}/unknowns", unknowns),
            route("/galleries/{g}/unknowns/{n}", drop_group, "DELETE"),
            route("/galleries/{g}/unknowns/{n}/thumbnail", picture),
            route("/galleries/{g}/unknowns/{n}/enroll", name_group, "POST"),
            route("/galleries/{g}/scores", scores),
            route("/galleries/{g}/jobs", start, "POST"),
        ],
    )


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The address of an application that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()
