"""``plot`` and ``explain``: pictures of the gallery, and of why two pictures are alike."""

from __future__ import annotations

import dataclasses
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    encoder_for,
    open_gallery,
    print_json,
    progress_bar,
    say,
)
from siamese_search.errors import RuntimeUnavailable, UsageError
from siamese_search.files import require_place

KINDS = ("map", "scores", "det", "confusions", "neighbours")
NEIGHBOURS = 9
PAGES = (".html", ".htm")


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="map (the items, by resemblance), scores (of own and other identities, with the"
            " threshold), det (error rates), confusions (identities most alike), or neighbours (of"
            " an image).",
        ),
    ],
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="With neighbours: what to ask about.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where to draw it; default: KIND.png. A map that ends in .html is a page to zoom"
            " into, to search and to see every item's picture on.",
        ),
    ] = None,
    k: Annotated[
        int, typer.Option("--k", "-k", min=1, max=100, help="How many neighbours, or pairs.")
    ] = NEIGHBOURS,
    gallery: GalleryOption = DEFAULT_GALLERY,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the gallery: where its items lie, how they score, and which look alike.

    Scores are those of its own items, each searched without itself. Of a large gallery some
    thousand items are drawn at random, always the same.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of plot {kind!r}: choose one of {', '.join(KINDS)}")
    if (kind == "neighbours") != (image is not None):
        raise UsageError("write `plot neighbours IMAGE`; the other kinds take no image")
    if kind not in ("neighbours", "confusions") and k != NEIGHBOURS:
        raise UsageError(f"--k does nothing with {kind}: leave it out")
    as_page = kind == "map" and out is not None and out.suffix.lower() in PAGES
    if out is not None and not as_page and out.suffix.lower() not in ("", ".png"):
        other = ", or for a page .html" if kind == "map" else ""
        raise UsageError(f"--out {out}: plots are PNG files, name one that ends in .png{other}")
    _require_plots()
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from siamese_search.evaluation import likeness, score_plots
    from siamese_search.evaluation.portrait import Facts, Portrait, draw_map, draw_map_page
    from siamese_search.files import write_whole

    place = out or Path(f"{kind}.png")
    require_place(place)
    with open_gallery(gallery, encoder, device) as source, progress_bar("searching") as watch:
        drawn: Portrait[Facts]
        if image is not None:
            drawn = likeness.draw_neighbours(source, image, k)
        elif kind == "map":
            drawn = draw_map_page(source, watch) if as_page else draw_map(source)
        elif kind == "scores":
            drawn = score_plots.draw_scores(source, watch)
        elif kind == "det":
            drawn = score_plots.draw_trade_off(source, watch)
        else:
            drawn = likeness.draw_confusions(source, k, watch)
    write_whole(place, drawn.content)
    if as_json:
        print_json({"kind": kind, **dataclasses.asdict(drawn.facts), "drawn": str(place)})
    else:
        say(f"{drawn.said}; drawn in {place}")


def explain(
    a: Annotated[str, typer.Argument(metavar="A", help="One image.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another image.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PNG", help="Where to draw it.")
    ] = Path("explanation.png"),
    gallery: GalleryOption = DEFAULT_GALLERY,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw which regions make two images similar: red speaks for it, blue against it.

    Where the encoder gives places, numbers mark those of either image that are most like one of the
    other's: what a closer look rests on.

    Uses the encoder named, else that of the gallery where there is one, else `general-2`.
    """
    _require_plots()
    require_place(out)
    from siamese_search.evaluation import explain as explaining

    found = explaining.explain(encoder_for(gallery, encoder, device), a, b)
    explaining.draw(found, out)
    if as_json:
        places = [
            {"a": divmod(p.place, found.grid), "b": divmod(p.other, found.grid), "cosine": p.cosine}
            for p in found.places
        ]
        print_json({"score": found.score, "drawn": str(out), "places": places})
    else:
        say(f"score {found.score:.3f}; drawn in {out}")


def _require_plots() -> None:
    """Raise RuntimeUnavailable where the libraries for plots are missing."""
    if not (find_spec("matplotlib") and find_spec("sklearn")):
        raise RuntimeUnavailable("plots need matplotlib: pip install 'siamese-search[plot]'")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(plot)
    app.command()(explain)
