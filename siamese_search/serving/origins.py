"""Origins: by which names the server may be addressed, and whose pages may ask it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from starlette.responses import Response

from siamese_search.errors import UsageError

# What a browser sends: no wildcards, and no letters beyond ASCII.
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
_ADDRESS = re.compile(r"[0-9a-f:.]+(?:%\S+)?", re.IGNORECASE)  # of IPv6, perhaps on one interface
USUAL_PORTS = {"http": ":80", "https": ":443"}
_ORIGIN = re.compile(rf"https?://{_AUTHORITY.pattern}")
ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match",
    "Access-Control-Max-Age": "600",
}
EXPOSED = "ETag, Retry-After"


class Origins:
    """Own names, and the origins of other sites whose pages may ask too (CORS)."""

    def __init__(self, hosts: Iterable[str], others: Iterable[str] = ()) -> None:
        """``hosts`` are names, whose ports do not count; ``others`` are like
        ``https://shop.example:8443``.

        Raises UsageError for a host that is no name, and for another that is no origin.
        """
        self._hosts = frozenset(own_name(host) for host in hosts)
        self._others = frozenset(_origin(other) for other in others)

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """The status and the reason with which a request is refused, None where it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _name_of(host)
        if name not in self._hosts:
            allow = f"--allow {name or 'NAME'}"
            return 400, f"this server does not answer to the host {host!r}: start it with {allow}"
        if origin is not None and not self._is_own(origin, host) and not self._named(origin):
            return 403, f"pages of {origin!r} may not ask this server"
        return None

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What an answer says of the origin that asked; nothing unless it was named."""
        if not self._others:
            return {}
        origin = headers.get("origin")
        if origin is None or not self._named(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": EXPOSED,
        }

    def preflight(self, method: str, headers: Mapping[str, str]) -> Response | None:
        """The answer to a browser's question whether a page may ask; None for what is none."""
        if method != "OPTIONS" or "access-control-request-method" not in headers:
            return None
        origin = headers.get("origin")
        if origin is None or not self._named(origin):
            return None
        return Response(status_code=204, headers=ALLOWED)

    def _named(self, origin: str) -> bool:
        return origin.lower() in self._others

    @staticmethod
    def _is_own(origin: str, host: str) -> bool:
        """Whether a page came from this very server: another port is another site."""
        scheme, _, authority = origin.lower().partition("://")
        return scheme in ("http", "https") and authority == host.lower()


def own_name(host: str) -> str:
    """A name that a server answers to, without a port. Raises UsageError for what is none."""
    if ":" in host and _ADDRESS.fullmatch(host):  # as --host takes it, without brackets
        return host.lower()
    name = _name_of(host)
    if name is None:
        raise UsageError(f"{host!r} is no name of a server: write it in ASCII as shop.example")
    return name


def _origin(other: str) -> str:
    """An origin as browsers write it: without the port that its scheme has anyway."""
    if not _ORIGIN.fullmatch(other.lower()):
        raise UsageError(
            f"{other!r} is no origin: write it in ASCII as https://shop.example, without a path"
        )
    scheme, _, authority = other.lower().partition("://")
    return f"{scheme}://{authority.removesuffix(USUAL_PORTS[scheme])}"


def _name_of(host: str) -> str | None:
    """A host without its port: ``[::1]:80`` is ``::1``."""
    found = _AUTHORITY.fullmatch(host.lower())
    return None if found is None else found[1] or found[2]
