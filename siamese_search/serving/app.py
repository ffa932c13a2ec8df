"""The application: routes, guards, health, metrics and the page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from siamese_search.errors import SiaSearchError
from siamese_search.serving import problems
from siamese_search.serving.guards import Guard, Limits
from siamese_search.serving.hosted import Host
from siamese_search.serving.jobs import Jobs
from siamese_search.serving.memory import give_back_large_blocks
from siamese_search.serving.openapi import openapi
from siamese_search.serving.origins import Origins
from siamese_search.serving.requests import require_once
from siamese_search.serving.routes import ROUTES, Operation
from siamese_search.serving.workers import Workers

log = logging.getLogger("siasearch")

PAGE = Path(__file__).with_name("page")
PREFIX = "/api/v1"
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Measured:
    """How many requests there were, and how long they took, for Prometheus."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, list[float]] = {}

    def note(self, method: str, path: str, status: int, seconds: float) -> None:
        """Note an answer to an operation's path."""
        self._counts[method, path, status] += 1
        kept = self._seconds.setdefault(path, [0.0] * (len(WAITS) + 2))
        for place, wait in enumerate(WAITS):
            kept[place] += seconds <= wait
        kept[-2] += 1
        kept[-1] += seconds

    def text(self, host: Host, workers: Workers) -> str:
        """In the text format of Prometheus."""
        lines = ["# TYPE siasearch_requests_total counter"]
        for (method, path, status), count in sorted(self._counts.items()):
            labels = f'method="{method}",path="{path}",status="{status}"'
            lines.append(f"siasearch_requests_total{{{labels}}} {count}")
        lines.append("# TYPE siasearch_request_seconds histogram")
        for path, kept in sorted(self._seconds.items()):
            for wait, many in zip((*WAITS, "+Inf"), kept, strict=False):
                lines.append(
                    f'siasearch_request_seconds_bucket{{path="{path}",le="{wait}"}} {many:g}'
                )
            lines.append(f'siasearch_request_seconds_count{{path="{path}"}} {kept[-2]:g}')
            lines.append(f'siasearch_request_seconds_sum{{path="{path}"}} {kept[-1]:.6f}')
        lines += ["# TYPE siasearch_workers gauge", f"siasearch_workers {workers.ready}"]
        lines.append("# TYPE siasearch_worker_restarts_total counter")
        lines.append(f"siasearch_worker_restarts_total {workers.restarts}")
        lines.append("# TYPE siasearch_items gauge")
        for name, one in host.galleries.items():
            quoted = name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            with suppress(SiaSearchError, problems.Problem):  # it is not there now
                lines.append(f'siasearch_items{{gallery="{quoted}"}} {one.count_items()}')
        return "\n".join(lines) + "\n"


def application(
    folders: Iterable[Path],
    hosts: Sequence[str],
    token: str | None = None,
    read_only: bool = False,
    limits: Limits | None = None,
    device: str | None = None,
    cors: Sequence[str] = (),
    workers: int = 0,
) -> Starlette:
    """The server's application for galleries in folders.

    ``hosts`` are the names by which it may be addressed, ``cors`` the origins of other sites whose
    pages may ask. With ``workers``, so many processes identify in place of this one; they end with
    the application's lifespan, at the latest with this process. Raises UsageError for an origin
    that is none and for too many workers, and what opening a gallery raises.
    """
    origins, measured, folders = Origins(hosts, cors), Measured(), list(folders)
    others = Workers(folders, device, workers)
    host = Host(folders, read_only, device, others if workers else None)
    try:
        others.start()
    except BaseException:
        host.close()
        raise

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        give_back_large_blocks()
        app.state.jobs = Jobs(host.without_paths)
        try:
            yield
        finally:
            host.close()  # first: from then on nothing begins to be written
            app.state.jobs.close()
            others.close()

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        try:
            for one in host.galleries.values():
                await one.call(one.require_usable)
        except (SiaSearchError, problems.Problem) as error:  # whoever asks needs no token
            log.error("not ready: %s", error)
            raise problems.Problem(503, "a gallery cannot be used: the log says why") from None
        if workers and not others.ready:
            raise problems.Problem(503, "no worker is ready: try again")
        return JSONResponse({"status": "ready"})

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(await host.call(lambda: measured.text(host, others)))

    async def document(_: Request) -> Response:
        return JSONResponse(openapi())

    async def index(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    def timed(operations: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            operation = operations["GET" if request.method == "HEAD" else request.method]
            begun, status = time.perf_counter(), 500
            try:
                for name in set(request.query_params) - set(operation.query):
                    fields = operation.parts + operation.body
                    sent = ": it is a field of the body" if name in fields else ""
                    raise problems.Problem(400, f"there is no parameter {name[:80]!r} here{sent}")
                require_once(name for name, _ in request.query_params.multi_items())
                request.state.operation = operation
                response = await operation.handler(request)
                status = response.status_code
                return response
            except asyncio.CancelledError:
                status = 503
                raise
            except Exception as error:
                if isinstance(error, SiaSearchError):
                    error = type(error)(await host.call(partial(host.without_paths, str(error))))
                response = problems.response_to(error)
                status = response.status_code
                if not isinstance(error, problems.Problem | HTTPException | SiaSearchError):
                    raise
                return response
            finally:
                seconds = time.perf_counter() - begun
                measured.note(operation.method, operation.path, status, seconds)

        return answered

    paths: dict[str, dict[str, Operation]] = {}
    for one in ROUTES:
        paths.setdefault(PREFIX + one.path, {})[one.method] = one
    app = Starlette(
        routes=[
            Route("/", index),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/openapi.json", document),
            *(Route(path, timed(methods), methods=[*methods]) for path, methods in paths.items()),
            Mount("/page", StaticFiles(directory=PAGE, check_dir=False)),
        ],
        middleware=[Middleware(Guard, origins, token, limits or Limits())],
        exception_handlers=dict.fromkeys(
            (problems.Problem, SiaSearchError, HTTPException), problems.on_problem
        ),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.host = host
    return app
