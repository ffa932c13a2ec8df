"""``demo``: the main job on real pictures, with a gallery to play with afterwards."""

from __future__ import annotations

import dataclasses
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import DEFAULT_ENCODER, DeviceOption, JsonOption, print_json
from siamese_search.cli.program import program


def demo(
    gallery: Annotated[
        Path, typer.Option("--gallery", "-g", metavar="DIR", help="Where to leave the gallery.")
    ] = Path("indexes") / "demo",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enrol one real picture per identity, identify altered views, and show how well it went.

    The pictures are scikit-image's: coins and photographs. The gallery stays, to play with.
    """
    from siamese_search.evaluation.demonstration import Row, demonstrate
    from siamese_search.gallery.gallery import Gallery

    pictures = Path(f"{gallery}-pictures")
    start = time.perf_counter()
    with Gallery.open(gallery, DEFAULT_ENCODER, device) as target:
        outcome = demonstrate(target, pictures)
    seconds = time.perf_counter() - start
    if as_json:
        print_json(dataclasses.asdict(outcome))
        return
    *views, strangers = outcome.rows
    known = Row("all views", *(sum(column) for column in zip(*map(_counts, views), strict=True)))
    typer.echo(
        f"Enrolled one picture each of {outcome.identities} identities (coins, photographs),\n"
        f"then asked who is who on altered views, with the encoder {DEFAULT_ENCODER}"
        f" (threshold {outcome.threshold:.2f}).\n"
    )
    typer.echo(f"{'view':<18}{'probes':>8}{'nearest right':>16}{'named right':>14}{'misnamed':>11}")
    for row in (*views, known):
        typer.echo(
            f"{row.view:<18}{row.probes:>8}{row.nearest / row.probes:>16.0%}"
            f"{row.named / row.probes:>14.0%}{row.misnamed / row.probes:>11.0%}"
        )
    unknown = 1 - strangers.misnamed / strangers.probes
    typer.echo(
        f"\nOf {strangers.probes} views of things never enrolled,"
        f" {unknown:.0%} were called unknown.\n"
        f"{seconds:.1f} s in all. The gallery is in {gallery}; play with it:\n"
    )
    called, place = program(), shlex.quote(str(gallery))
    probe = shlex.quote(f"{pictures}/probes/turned by 12°/chelsea.png")
    typer.echo(f"  {called} --help\n  {called} list -g {place}")
    typer.echo(f"  {called} query -g {place} {probe}")


def _counts(row: object) -> tuple[int, ...]:
    return dataclasses.astuple(row)[1:]  # type: ignore[call-overload, no-any-return]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(demo)
