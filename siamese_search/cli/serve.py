"""``serve``: galleries over HTTP, and the page."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DecodingOption,
    DeviceOption,
    decode_as,
    note,
)
from siamese_search.cli.listening import EVERYWHERE, others_can_read, own_address, require_free
from siamese_search.errors import RuntimeUnavailable, UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FEWEST = 16  # characters of a token


def serve(
    gallery: Annotated[
        list[Path] | None,
        typer.Option(
            "--gallery",
            "-g",
            metavar="DIR",
            help="A gallery; repeatable. Default: SIASEARCH_GALLERY, else indexes/default.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; not only here needs a token.")
    ] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0 takes any.")] = 8321,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A name by which the server may be addressed, too; repeatable."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file whose first line is the token that clients must send."
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Another site whose pages may ask, as https://shop.example; repeatable.",
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Answer, but let nobody change anything.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Have so many processes identify, 64 at most. They share the cores. 0: none.",
        ),
    ] = 0,
    device: DeviceOption = None,
    decoding: DecodingOption = "apart",
) -> None:
    """Serve galleries over HTTP, with a page to identify, enrol and tidy up by looking.

    Open the address that it prints in a browser. Programs use the API below /api/v1, described in
    /openapi.json. Ctrl-C finishes what is underway and ends it.
    """
    missing = [name for name in ("starlette", "uvicorn", "python_multipart") if not find_spec(name)]
    if missing:
        raise RuntimeUnavailable("serving needs: pip install 'siamese-search[serve]'")
    from siamese_search.serving.origins import own_name

    token = None if token_file is None else _token(token_file)
    if token is None and host not in LOOPBACK:
        raise UsageError(
            f"{host} can be reached from elsewhere, so a token is needed: write one of {FEWEST}"
            " characters or more to a file that only you can read, and name it by --token-file"
        )
    decode_as(decoding)
    require_free(host, port)
    if token_file is not None and others_can_read(token_file):
        note(f"warning: others can read {token_file}: `chmod 600 {token_file}`")
    shown = host
    if host in EVERYWHERE:
        own = own_address(host)
        near = LOOPBACK[-1] if ":" in host else LOOPBACK[0]
        shown = own_name(allow[0]) if allow else near
        if own is not None and own not in (allow or ()):
            note(f"note: to answer to {own}, its own address, it needs `--allow {own}`")
    import uvicorn

    from siamese_search.pictures import apart
    from siamese_search.serving import connections
    from siamese_search.serving.app import application

    names = [*LOOPBACK, host, *(allow or [])]
    folders = gallery or [Path(os.environ.get("SIASEARCH_GALLERY") or DEFAULT_GALLERY)]
    app = application(
        folders, names, token, read_only, device=device, cors=cors or (), workers=workers
    )
    connections.make_room()
    if apart.is_apart():
        apart.DECODERS.start()
    address = f"[{shown}]" if ":" in shown else shown
    config = uvicorn.Config(app, host=host, port=port, **connections.SETTINGS)
    server = uvicorn.Server(config)
    startup = server.startup

    async def then_say(*arguments: object, **named: object) -> None:
        await startup(*arguments, **named)  # type: ignore[arg-type]
        if server.started:
            found = server.servers[0].sockets[0].getsockname()[1]
            note(f"serving on http://{address}:{found}/ (Ctrl-C ends it)")

    server.startup = then_say  # type: ignore[method-assign]
    server.run()


def _token(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a token: {error}") from error
    token = lines[0].strip() if lines else ""
    if len(token) < FEWEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{path} has no token: its first line needs {FEWEST} printable characters or more"
        )
    return token


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
