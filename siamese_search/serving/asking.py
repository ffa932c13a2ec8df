"""Asking and enrolling: the operations that take pictures."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.read import content_hash
from siamese_search.serving import representation
from siamese_search.serving.contents import changed, item_of, tagged
from siamese_search.serving.hosted import Answered, Hosted
from siamese_search.serving.problems import Problem
from siamese_search.serving.requests import (
    flag,
    form_of,
    host_of,
    hosted_of,
    label_of,
    parsed,
    picture,
    pictures,
    question_of,
    whole,
    whole_of,
)


async def galleries(request: Request) -> Response:
    """The galleries on this server."""

    def listed(one: Hosted) -> dict[str, Any]:
        facts = one.gallery.info()
        return {
            "name": one.name,
            "identities": facts.identities,
            "items": facts.items,
            "encoder": representation.of_encoder(facts.encoder),
            "calibrated": facts.calibration is not None,
            "read_only": one.read_only,
        }

    hosted = host_of(request).galleries.values()
    return JSONResponse([await one.call(partial(listed, one)) for one in hosted])


async def about(request: Request) -> Response:
    """What a gallery is, how it decides, and its last change."""
    one = hosted_of(request)
    return await tagged(
        request, one, lambda: representation.of_gallery(one.name, one.gallery, one.read_only)
    )


async def identify(request: Request) -> Response:
    """Who is on the pictures: the best identity or unknown, and the k best candidates."""
    one, question = hosted_of(request), question_of(request)
    keep = flag(request.query_params.get("keep_unknown"), "keep_unknown")
    async with form_of(request) as form:
        images = await pictures(form)

    def asked() -> tuple[Answered, Response]:
        found = one.identify([data for _, data in images], question)
        answers = [
            representation.of_answer(name, answer, found.metadata)
            for (name, _), answer in zip(images, found.answers, strict=True)
        ]
        undecided = any("threshold" in one and one["threshold"] is None for one in answers)
        said = {"undecided": one.gallery.undecided if undecided else None}
        return found, JSONResponse({"answers": answers, "version": found.version} | said)

    found, response = await one.call(asked)
    if keep:
        strangers = zip(images, found.strange, strict=True)
        kept = [(data, vector) for (_, data), vector in strangers if vector is not None]
        await one.change(lambda: one.keep(kept, found.fingerprint))
    return response


async def verify(request: Request) -> Response:
    """Whether two pictures show the same identity."""
    one = hosted_of(request)
    async with form_of(request) as form:
        a, b = await picture(form, "a"), await picture(form, "b")
    found = await one.call(lambda: one.gallery.verify(a, b))
    return JSONResponse(dataclasses.asdict(found))


async def explain(request: Request) -> Response:
    """A drawing of which regions make a picture similar to an item's, as PNG."""
    one = hosted_of(request)
    number = whole(request, "item", None)
    async with form_of(request) as form:
        data = await picture(form)

    def drawn() -> bytes:
        item = item_of(one.gallery, number)
        names = "the picture", f"item {number} ({item.identity})"
        return _explained(one.gallery, (data, one.gallery.image(item)), names)

    return Response(await one.call(drawn), media_type="image/png")


async def explain_verification(request: Request) -> Response:
    """A drawing of which regions make two pictures similar, as PNG."""
    one = hosted_of(request)
    async with form_of(request) as form:
        a, b = await picture(form, "a"), await picture(form, "b")
    names = "the first picture", "the second picture"
    drawn = await one.call(lambda: _explained(one.gallery, (a, b), names))
    return Response(drawn, media_type="image/png")


def _explained(gallery: Gallery, images: tuple[bytes, bytes], names: tuple[str, str]) -> bytes:
    try:
        from siamese_search.evaluation import explain as explaining
    except ImportError:
        raise Problem(501, "drawing needs: pip install 'siamese-search[plot]'") from None
    return explaining.png_of(explaining.explain(gallery.encoder, *images, names))


async def enroll(request: Request) -> Response:
    """Enrol pictures as an identity; the gallery keeps copies. Answered once they are stored."""
    one = hosted_of(request)
    async with form_of(request) as form:
        images = await pictures(form)
        label, about_them = form.get("label"), form.get("metadata") or "{}"
        distractor = flag(form.get("distractor"), "distractor")
        change = form.get("change")
    if not isinstance(label, str) or not label.strip():
        raise Problem(400, "the field `label` is needed: the identity that the pictures show")
    label, metadata = label_of(label), parsed(str(about_them), "the field `metadata`")
    if not isinstance(metadata, dict):
        raise Problem(400, "the field `metadata` is no JSON object")
    number = None if change is None else whole_of(str(change), "change")

    def enrolled() -> dict[str, Any]:
        contents = [data for _, data in images]
        report = one.gallery.enroll(
            contents,
            label,
            metadata=metadata,
            copy=True,
            distractor=distractor,
            change=number,
        )
        wanted = {content_hash(data) for data in contents}
        own = one.gallery.items(label) if one.gallery.count(label) else []
        numbers = [item.number for item in own if item.content in wanted]
        return representation.of_report(report) | {"numbers": numbers}

    return await changed(one, enrolled, 201)
