"""Contents: the operations on a gallery's identities, items and kept pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from siamese_search.errors import ImageError
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.read import read_file
from siamese_search.pictures.render import encode, miniature
from siamese_search.records import Item
from siamese_search.serving import representation
from siamese_search.serving.hosted import Hosted
from siamese_search.serving.problems import Problem
from siamese_search.serving.requests import (
    MOST_ROWS,
    ROWS,
    hosted_of,
    json_of,
    needed,
    whole,
)

SIDE, SIDES = 160, 1024  # pixels of a thumbnail: unless asked for, and at most
DOUBTED = 500  # items of an identity that are searched without themselves
WHOLE = 1600  # pixels of a picture that is shown whole


def item_of(gallery: Gallery, number: int) -> Item:
    found = gallery.items_by_number([number])
    if not found:
        raise Problem(404, f"there is no item {number}")
    return found[0]


def _shown(item: Item) -> dict[str, Any]:
    return dataclasses.asdict(item)


async def identities(request: Request) -> Response:
    """Identities by name, some at a time."""
    one = hosted_of(request)
    search = request.query_params.get("search", "").casefold()
    after = request.query_params.get("after", "")
    limit = whole(request, "limit", ROWS, MOST_ROWS)

    def found() -> dict[str, Any]:
        gallery = one.gallery
        every = [pair for pair in gallery.identities() if search in pair[0].casefold()]
        never = gallery.distractors()
        page = [pair for pair in every if pair[0] > after]
        covers = gallery.covers([name for name, _ in page[:limit]])
        rows = [
            {"name": n, "items": count, "distractor": n in never, "cover": covers.get(n)}
            for n, count in page[:limit]
        ]
        more = rows[-1]["name"] if len(page) > limit else None
        return {"identities": rows, "next": more, "total": len(every)}

    return JSONResponse(await one.call(found))


async def identity(request: Request) -> Response:
    """An identity's items."""
    one, name = hosted_of(request), request.query_params.get("name", "")

    def found() -> dict[str, Any]:
        if not one.gallery.count(name):
            raise Problem(404, f"there is no identity {name!r}")
        items = [_shown(item) for item in one.gallery.items(name)]
        return {"name": name, "distractor": name in one.gallery.distractors(), "items": items}

    return JSONResponse(await one.call(found))


async def doubts(request: Request) -> Response:
    """By how much another identity fits an identity's items better than their own, each searched
    without itself; below nought where none does. Of the first 500 items, the most doubtful first.
    """
    one, name = hosted_of(request), request.query_params.get("name", "")

    def found() -> dict[str, Any]:
        gallery = one.gallery
        if not gallery.count(name):
            raise Problem(404, f"there is no identity {name!r}")
        items = [item.number for item in gallery.items(name)]
        searched = [one for one in gallery.left_out(items=items[:DOUBTED]) if one.own is not None]
        rows = [
            {
                "item": one.item,
                "doubt": one.doubt,
                "other": one.others[0].identity,
                "other_item": one.others[0].item,
            }
            for one in sorted(searched, key=lambda one: -one.doubt)
            if one.others
        ]
        return {"doubts": rows, "of": len(items)}

    return JSONResponse(await one.call(found))


async def rename(request: Request) -> Response:
    """Give an identity another name, or merge it with another."""
    one = hosted_of(request)
    given = await json_of(request, old=str, new=str, merge=bool)
    old, new = needed(given, "old", "new")

    def renamed() -> dict[str, Any]:
        if one.gallery.count(new) and not given["merge"]:
            raise Problem(409, f"{new!r} exists already: merge the two, or take another name")
        return {"relabelled": one.gallery.relabel(old, new)}

    return JSONResponse(await one.change(renamed))


async def move(request: Request) -> Response:
    """Give items another identity."""
    one = hosted_of(request)
    items, to = needed(await json_of(request, items=list, to=str), "items", "to")
    count = await one.change(lambda: one.gallery.relabel(None, to, items))
    return JSONResponse({"relabelled": count})


async def remove(request: Request) -> Response:
    """Remove items, or an identity."""
    one = hosted_of(request)
    given = await json_of(request, items=list, identity=str)
    if bool(given["items"]) == bool(given["identity"]):
        raise Problem(400, "name either items or an identity")
    count = await one.change(lambda: one.gallery.remove(given["identity"], given["items"] or None))
    return JSONResponse({"removed": count, "items": await one.call(lambda: len(one.gallery))})


async def undo(request: Request) -> Response:
    """Take back the last change."""
    one = hosted_of(request)
    number = (await json_of(request, number=int))["number"]
    change = await one.change(lambda: one.gallery.undo(number))
    return JSONResponse(dataclasses.asdict(change))


async def item(request: Request) -> Response:
    """What is known of an item."""
    one, number = hosted_of(request), int(request.path_params["n"])
    return JSONResponse(await one.call(lambda: _shown(item_of(one.gallery, number))))


async def thumbnail(request: Request) -> Response:
    """An item's picture, small, as JPEG."""
    return await _drawn(request, whole(request, "side", SIDE, SIDES))


async def picture(request: Request) -> Response:
    """An item's picture, as JPEG."""
    return await _drawn(request, WHOLE)


async def _drawn(request: Request, side: int) -> Response:
    one, number = hosted_of(request), int(request.path_params["n"])
    found = await one.call(lambda: item_of(one.gallery, number))
    return await cached(
        request, one, f"{found.content[:32]}-{side}", lambda: one.gallery.image(found), side
    )


async def cached(
    request: Request, one: Hosted, name: str, read: Callable[[], bytes], side: int
) -> Response:
    """A picture that is encoded anew, so that nothing but pixels is passed on."""
    tag = f'"{name}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        data = await one.call(lambda: encode(miniature(read(), side), "JPEG"))
    except ImageError as error:
        raise Problem(404, str(error)) from error
    return Response(data, headers=headers, media_type="image/jpeg")


# Unknowns


async def unknowns(request: Request) -> Response:
    """Pictures that were kept because nobody fitted, in groups, the largest first."""
    one = hosted_of(request)
    after = request.query_params.get("after", "0")
    limit = whole(request, "limit", ROWS, MOST_ROWS)
    if not after.isascii() or not after.isdecimal():
        raise Problem(400, f"after is {after[:20]!r}: a whole number")
    groups = await one.call(one.gallery.unknowns)
    start = int(after[:9])
    shown = [representation.of_group(group) for group in groups[start : start + limit]]
    more = start + limit if start + limit < len(groups) else None
    return JSONResponse({"groups": shown, "next": more})


async def unknown_thumbnail(request: Request) -> Response:
    """A kept picture, small, as JPEG."""
    one, number = hosted_of(request), int(request.path_params["n"])
    side = whole(request, "side", SIDE, SIDES)
    paths = await one.call(
        lambda: {
            member: path
            for group in one.gallery.unknowns()
            for member, path in zip(group.members, group.paths, strict=True)
        }
    )
    if number not in paths:
        raise Problem(404, f"there is no kept picture {number}")
    return await cached(
        request, one, f"unknown-{number}-{side}", lambda: read_file(paths[number]), side
    )


async def enroll_unknowns(request: Request) -> Response:
    """Enrol a group of kept pictures as an identity."""
    one, number = hosted_of(request), int(request.path_params["n"])
    given = await json_of(request, label=str, without=list)
    (label,) = needed(given, "label")
    report = await one.change(
        lambda: one.gallery.enroll_unknowns(number, label, without=given["without"] or ())
    )
    return JSONResponse(dataclasses.asdict(report), 201)


async def drop_unknowns(request: Request) -> Response:
    """Forget a group of kept pictures."""
    one, number = hosted_of(request), int(request.path_params["n"])
    count = await one.change(lambda: one.gallery.drop_unknowns(number))
    return JSONResponse({"dropped": count})
