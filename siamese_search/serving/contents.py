"""Contents: the operations on a gallery's identities, items and kept pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from siamese_search.errors import ImageError, UsageError
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.read import content_hash
from siamese_search.pictures.render import encode
from siamese_search.records import Item
from siamese_search.serving import representation
from siamese_search.serving.hosted import Hosted
from siamese_search.serving.problems import Problem
from siamese_search.serving.requests import (
    MOST_ROWS,
    ROWS,
    SIDE,
    SIDES,
    hosted_of,
    json_of,
    label_of,
    needed,
    number_of,
    whole,
)

DOUBTED = 500  # items of an identity that are searched without themselves
OF_GROUPS = {"members": list, "without": list}  # fields that say which pictures of a group
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
    search, after = (request.query_params.get(name, "") for name in ("search", "after"))
    limit = whole(request, "limit", ROWS, MOST_ROWS)
    start = whole(request, "offset", 0, least=0)

    def found() -> dict[str, Any]:
        page = one.gallery.list_identities(search, after=after, offset=start, limit=limit + 1)
        rows = [row._asdict() for row in page[:limit]]
        more = rows[-1]["name"] if len(page) > limit else None
        total = one.gallery.count_identities(search)
        return {"identities": rows, "next": more, "total": total}

    return await tagged(request, one, found)


async def identity(request: Request) -> Response:
    """An identity's items: all, or some at a time."""
    one, name = hosted_of(request), request.query_params.get("name", "")
    after, start = (whole(request, name, 0, least=0) for name in ("after", "offset"))
    every = "limit" not in request.query_params
    limit = None if every else whole(request, "limit", ROWS, MOST_ROWS)

    def found() -> dict[str, Any]:
        total = one.gallery.count(name)
        if not total:
            raise Problem(404, f"there is no identity {name!r}")
        further = None if limit is None else limit + 1
        page = one.gallery.items(name, after=after, offset=start, limit=further)
        items = [_shown(item) for item in page[:limit]]
        return {
            "name": name,
            "distractor": one.gallery.is_distractor(name),
            "items": items,
            "next": items[-1]["number"] if len(page) > len(items) else None,
            "total": total,
        }

    return await tagged(request, one, found)


async def tagged(request: Request, one: Hosted, found: Callable[[], object]) -> Response:
    """What is found in a gallery, with the gallery's version as ETag; 304 for who has that."""

    def answered() -> Response:
        # Before what it tags: a change between the two is found at the next request.
        headers = {"ETag": f'W/"{one.gallery.version}"'}
        known = request.headers.get("if-none-match", "").split(",")
        if headers["ETag"].removeprefix("W/") in {tag.strip().removeprefix("W/") for tag in known}:
            return Response(status_code=304, headers=headers)
        return JSONResponse(found(), headers=headers)

    return await one.call(answered)


async def changed(
    one: Hosted, function: Callable[[], dict[str, Any]], status: int = 200, *, undone: bool = False
) -> Response:
    """What a function answers that changes the gallery; and as ``change`` what `undo` would take
    back of it, or as ``undone`` what `redo` would do again: None where there is nothing, or not
    any more.
    """

    def answered() -> dict[str, Any]:
        with one.gallery.noting_changes() as numbers:
            answer = function()
        kept = one.gallery.changes(undone=undone)
        made = next((change for change in kept if change.number in numbers[-1:]), None)
        told = None if made is None else dataclasses.asdict(made)
        return answer | {"undone" if undone else "change": told}

    return JSONResponse(await one.change(answered), status)


async def doubts(request: Request) -> Response:
    """By how much another identity fits an identity's items better than their own, each searched
    without itself; below nought where none does. Of the first 500 items, the most doubtful first.
    """
    one, name = hosted_of(request), request.query_params.get("name", "")

    def found() -> dict[str, Any]:
        gallery = one.gallery
        total = gallery.count(name)
        if not total:
            raise Problem(404, f"there is no identity {name!r}")
        items = [item.number for item in gallery.items(name, limit=DOUBTED)]
        searched = [one for one in gallery.left_out(items=items) if one.own is not None]
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
        return {"doubts": rows, "of": total}

    return await tagged(request, one, found)


async def rename(request: Request) -> Response:
    """Give an identity another name, or merge it with another."""
    one = hosted_of(request)
    given = await json_of(request, old=str, new=str, merge=bool)
    old, new = needed(given, "old", "new")
    label_of(new)
    merge = bool(given["merge"])

    def renamed() -> dict[str, Any]:
        try:
            return {"relabelled": one.gallery.relabel(old, new, merge=merge)}
        except UsageError as error:
            if merge or not (one.gallery.count(old) and one.gallery.count(new)):
                raise
            raise Problem(409, str(error)) from None

    return await changed(one, renamed)


async def move(request: Request) -> Response:
    """Give items another identity."""
    one = hosted_of(request)
    items, to = needed(await json_of(request, items=list, to=str), "items", "to")
    label_of(to)
    return await changed(one, lambda: {"relabelled": one.gallery.relabel(None, to, items)})


async def remove(request: Request) -> Response:
    """Remove items, or an identity."""
    one = hosted_of(request)
    given = await json_of(request, items=list, identity=str)
    if (given["items"] is None) == (given["identity"] is None):
        raise Problem(400, "name either items or an identity")
    needed(given, "items" if given["identity"] is None else "identity")

    def removed() -> dict[str, Any]:
        count = one.gallery.remove(given["identity"], given["items"])
        return {"removed": count, "items": len(one.gallery)}

    return await changed(one, removed)


async def undo(request: Request) -> Response:
    """Take back the last change."""
    one = hosted_of(request)
    number = (await json_of(request, number=int))["number"]
    return await changed(one, lambda: dataclasses.asdict(one.gallery.undo(number)), undone=True)


async def redo(request: Request) -> Response:
    """Do again what was taken back last."""
    one = hosted_of(request)
    number = (await json_of(request, number=int))["number"]
    return await changed(one, lambda: dataclasses.asdict(one.gallery.redo(number)))


async def item(request: Request) -> Response:
    """What is known of an item."""
    one, number = hosted_of(request), number_of(request)
    return JSONResponse(await one.call(lambda: _shown(item_of(one.gallery, number))))


async def thumbnail(request: Request) -> Response:
    """An item's picture, small, as JPEG."""
    return await _drawn(request, whole(request, "side", SIDE, SIDES))


async def picture(request: Request) -> Response:
    """An item's picture, as JPEG."""
    return await _drawn(request, WHOLE)


async def _drawn(request: Request, side: int) -> Response:
    one, number = hosted_of(request), number_of(request)
    found = await one.call(lambda: item_of(one.gallery, number))
    return await cached(request, one, found.content, lambda: one.gallery.image(found), side)


async def cached(
    request: Request, one: Hosted, content: str, read: Callable[[], bytes], side: int
) -> Response:
    """A picture, by the hash of its content, that is encoded anew, so that nothing but pixels is
    passed on.
    """
    tag = f'"{content[:32]}-{side}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        data = await one.call(lambda: encode(one.gallery.miniature(read(), side), "JPEG"))
    except ImageError as error:
        raise Problem(404, str(error)) from error
    return Response(data, headers=headers, media_type="image/jpeg")


# Unknowns


async def unknowns(request: Request) -> Response:
    """Pictures that were kept because nobody fitted, in groups, the largest first."""
    one = hosted_of(request)
    start = whole(request, "after", 0, least=0)
    limit = whole(request, "limit", ROWS, MOST_ROWS)

    def found() -> dict[str, Any]:
        groups = one.unknowns()
        shown = [representation.of_group(group) for group in groups[start : start + limit]]
        more = start + limit if start + limit < len(groups) else None
        return {"groups": shown, "next": more}

    return await tagged(request, one, found)


async def unknown_thumbnail(request: Request) -> Response:
    """A kept picture, small, as JPEG."""
    one, number = hosted_of(request), number_of(request)
    side = whole(request, "side", SIDE, SIDES)

    def read() -> bytes:
        try:
            return one.gallery.unknown(number)
        except UsageError:
            raise Problem(404, f"there is no kept picture {number}") from None
        except ImageError as error:
            raise Problem(404, str(error)) from error

    data = await one.call(read)
    return await cached(request, one, content_hash(data), lambda: data, side)


async def enroll_unknowns(request: Request) -> Response:
    """Enrol a group of kept pictures as an identity."""
    one, number = hosted_of(request), number_of(request)
    given = await json_of(request, label=str, **OF_GROUPS)
    label = label_of(*needed(given, "label"))

    def enrolled() -> dict[str, Any]:
        report = one.gallery.enroll_unknowns(number, label, **_of_group(given))
        return representation.of_report(report)

    return await changed(one, enrolled, 201)


async def drop_unknowns(request: Request) -> Response:
    """Forget a group of kept pictures."""
    one, number = hosted_of(request), number_of(request)
    which = _of_group(await json_of(request, **OF_GROUPS))
    return await changed(one, lambda: {"dropped": one.gallery.drop_unknowns(number, **which)})


def _of_group(given: Mapping[str, Any]) -> dict[str, Any]:
    """Which pictures of a group are meant."""
    return {"members": given["members"], "without": given["without"] or ()}
