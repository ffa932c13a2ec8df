"""Requests that mean harm, of all kinds, and what a server must make of them.

Shared by ``test_serving_hostile.py`` and ``benchmarks/hostile_requests.py``.
"""

from __future__ import annotations

import io
import json
import random
import unicodedata
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

from conftest import picture
from wire import (
    BOUNDARY,
    CLOSED,
    END,
    REFUSED,
    Answer,
    Attack,
    chunk,
    part,
    png,
    ranged,
    unmatched,
    unnamed,
)

from siamese_search.serving.openapi import openapi

API = "/api/v1/galleries/shop"
# Texts

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
TEXTS = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
    "'; DROP TABLE items; --", '" OR 1=1 --', "x='y' OR value LIKE '%'", "../../../etc/passwd",
    "${7*7}{{7*7}}<%= 7*7 %>", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x00", "a\x00b",
    "\r\nSet-Cookie: a=b", "\u202egnp.exe", "\u2066\u2069\u200b\ufeff", "\ud800",
    "\udfff\ud800", "\U0001f600" * 300, "A" * 10_000, "o" + "\u0301" * 400, "%s%n%x", "%00%0a",
    "null", "-1", "", " ", "\u00a0", "\\", "\u2028\u2029", "CON", "\ufdfa" * 400,
    "=cmd|'/c calc'!A1", "\x7f\x80\x9b31m", "*", "key", "[1]", "\U000e0001",
)  # fmt: skip


def hostile_text(draw: random.Random) -> str:
    """A text that somebody might take for something else."""
    if draw.random() < 0.5:
        return "".join(draw.sample(TEXTS, draw.choice([1, 1, 2, 3])))
    return "".join(chr(draw.randrange(1, 0x11000)) for _ in range(draw.randint(1, 60)))


def picture_bytes() -> bytes:
    """A picture that is one."""
    kept = io.BytesIO()
    picture(0).save(kept, "PNG")
    return kept.getvalue()


class Attacks:
    """Hostile requests of all kinds, from a seed."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        self._port = port
        self._token = token
        self._random = random.Random(seed)
        self._label = ""  # that the item has
        self.routes = [
            (method.upper(), path.replace("{g}", "shop").replace("{n}", "1").replace("{id}", "1"))
            for path, methods in openapi()["paths"].items()
            for method in methods
        ]

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *more: str,
        length: bool = True,
        **named: str,
    ) -> bytes:
        """A request as bytes. A header that is named and empty is left out."""
        headers = {
            "Host": f"127.0.0.1:{self._port}",
            "Authorization": f"Bearer {self._token}",
            "Connection": "close",
        }
        if length and body:
            headers["Content-Length"] = str(len(body))
        headers |= {name.replace("_", "-"): value for name, value in named.items()}
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        return "\r\n".join([*lines, *more, "", ""]).encode("utf-8", "surrogateescape") + body

    def form(
        self, path: str, body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}"
    ) -> bytes:
        return self.request("POST", path, body, Content_Type=kind)

    # Who asks

    def tokens(self) -> Iterator[Attack]:
        """No token or a wrong one, on every route."""
        wrong = [
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {self._token}",
            f"Bearer {self._token}x",
            f"Bearer {self._token[:-1]}",
            self._token,
            "Bearer \t\x7f",
            "Bearer " + "x" * 5000,
        ]
        while True:
            for method, path in [*self.routes, ("GET", "/metrics"), ("GET", "/openapi.json")]:
                data = self.request(method, path, Authorization=self._random.choice(wrong))
                yield Attack("token", data, frozenset({400, 401}))
            data = self.request("GET", f"{API}?token={self._token}", Authorization="")
            yield Attack("token", data, frozenset({401}))

    def hosts(self) -> Iterator[Attack]:
        """A wrong host or origin, on every route."""
        pages = [("GET", path) for path in ("/", "/health", "/ready", "/metrics", "/page/app.js")]
        hosts = [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1@evil.example",
            "[::1]x",
            "127.0.0.1:80:80",
            "127.0.0.1:x",
            "localhost/",
            "LOCALHOST.",
            "0",
            "x" * 3000,
        ]
        origins = [
            "http://evil.example",
            "null",
            "https://127.0.0.1.evil.example",
            "file://",
            "x",
            "http://localhost:1",
            f"http://127.0.0.1:{self._port}@evil.example",
        ]
        while True:
            for method, path in [*self.routes, *pages]:
                data = self.request(method, path, Host=self._random.choice(hosts))
                yield Attack("host", data, frozenset({400}))
                data = self.request(method, path, Origin=self._random.choice(origins))
                yield Attack("origin", data, frozenset({403}))
            preflight = ("Access-Control-Request-Method: POST", "Origin: http://evil.example")
            yield Attack("origin", self.request("OPTIONS", API, b"", *preflight), frozenset({403}))

    # How much

    def lengths(self) -> Iterator[Attack]:
        """Lengths that are too large, or lie."""
        path, kind = f"{API}/identify", f"multipart/form-data; boundary={BOUNDARY}"
        whole = part(b"x" * 1000)
        while True:
            size = self._random.choice([(64 << 20) + 1, 1 << 33, 10**15, 10**19])
            for length, right in (
                (str(size), {413, 400}),
                ("-1", {400}),
                ("1e3", {400}),
                ("+5", {400}),
                ("0x10", {400}),
                ("9" * 30, {400, 413}),
                (str(len(whole) // 2), {400}),
            ):
                data = self.request(
                    "POST", path, whole, length=False, Content_Length=length, Content_Type=kind
                )
                yield Attack("length", data, frozenset(right))
            twice = ("Content-Length: 5", "Content-Length: 6")
            yield Attack(
                "length", self.request("POST", path, whole, *twice, length=False), frozenset({400})
            )
            longer = self.request(
                "POST", path, whole, length=False, Content_Length="5000", Content_Type=kind
            )
            yield Attack("length", longer, frozenset({CLOSED, 400}), ends=True)
            both = self.request(
                "POST",
                path,
                chunk(whole) + b"0\r\n\r\n",
                "Transfer-Encoding: chunked",
                Content_Length="5",
            )
            yield Attack("length", both, frozenset({400, 415, CLOSED}))
            text = self.request("POST", f"{API}/rename", b'"' + b"x" * (5 << 20) + b'"')
            yield Attack("length", text, frozenset({413}))

    def chunks(self) -> Iterator[Attack]:
        """Chunked bodies that are too long, too many or broken."""
        crumbs = b"1\r\nx\r\n"
        while True:
            for body, right in (
                (chunk(b"x" * 65536) * 72, {413}),
                (crumbs * 40_000, {400}),
                (b"ffffffffffffffffffff\r\nx", {400, CLOSED}),
                (b"-5\r\nx\r\n", {400}),
                (b"zz\r\n", {400}),
                (b"5;" + b"x" * 80_000 + b"\r\nhello\r\n0\r\n\r\n", {400}),
                (b"5\r\nhello\r\n0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", {400}),
                (chunk(b"{}")[:-1], {CLOSED, 400}),
            ):
                data = self.request(
                    "POST", f"{API}/rename", body, "Transfer-Encoding: chunked", length=False
                )
                yield Attack("chunked", data, frozenset(right), ends=True)
            strange = self.request(
                "POST", f"{API}/rename", b"x", "Transfer-Encoding: gzip, chunked", length=False
            )
            yield Attack("chunked", strange, frozenset({400, 501}))

    def parts(self) -> Iterator[Attack]:
        """Forms with too many parts, or broken ones."""
        head = b"Content-Disposition: form-data; name="
        while True:
            count = self._random.choice([33, 1000, 10_000])
            path = f"{API}/{self._random.choice(['identify', 'enroll', 'verify'])}"
            for body in (
                part(b"x") * count,
                part(b"x", file=None) * count,
                b"--" + BOUNDARY.encode() + b"\r\n" + b"a: b\r\n" * count,
                b"--" + BOUNDARY.encode() + b"\r\n" + head + b"x" * 100_000,
                b"\r\n--" * 20_000,
                part(b"x", name="")[:-30],
                part(b"x" * 100_000, file=None, name="label"),
            ):
                yield Attack("parts", self.form(path, body))
            for kind in (
                "multipart/form-data",
                "multipart/form-data; boundary=" + "b" * 300,
                "multipart/mixed; boundary=a",
                "application/x-www-form-urlencoded",
                f"multipart/form-data; boundary={BOUNDARY}; charset=idna",
                f"multipart/form-data; boundary={BOUNDARY}; charset=unicode_escape",
            ):
                yield Attack("parts", self.form(path, part(b"x") + END, kind))

    # What is asked

    def paths(self) -> Iterator[Attack]:
        """Ways out of the page's folder; NUL; what is no UTF-8."""
        places = ["etc/passwd", "proc/self/environ", "app.py", "serving/guards.py", "gallery.db"]
        ups = ["../", "..%2f", "%2e%2e/", "..%5c", "....//", "..;/", "%252e%252e%252f", "..%c0%af"]
        while True:
            out = self._random.choice(ups) * self._random.randint(1, 12) + self._random.choice(
                places
            )
            for root in (
                "/",
                "/page/",
                f"{API}/",
                f"{API}/items/",
                "/api/v1/galleries/",
                "//",
                "/page//",
            ):
                yield Attack("traversal", self.request("GET", root + out))
            for bad in ("%00", "%ff%fe", "%c3%28", "%0d%0aSet-Cookie:x=1", "%ed%a0%80", "%u0000"):
                end = self._random.choice(["", ".js", "/../x"])
                for root in ("/page/", "/api/v1/galleries/", f"{API}/items/", "/api/v1/jobs/"):
                    yield Attack("bytes", self.request("GET", f"{root}{bad}{end}"))
                yield Attack("bytes", self.request("GET", f"{API}/identity?name={bad}{end}"))
                yield Attack("bytes", self.request("GET", f"{API}?{bad}={end}x"))
            for raw in (b"\x00", b"\xff", b"\x80\x81", b"\r", b"\n x"):
                data = self.request("GET", "/page/@").replace(b"@", raw)
                yield Attack("bytes", data, frozenset({400, 404, CLOSED}))

    def ranges(self, whole: dict[str, bytes]) -> Iterator[Attack]:
        """Ranges of files and pictures, each with its ``whole``: none, or the right bytes."""
        while True:
            for path, body in whole.items():
                first = self._random.randrange(len(body))
                for said in (
                    f"bytes={first}-",
                    f"bytes=-{first}",
                    f"bytes={first}-{first + 9}",
                    "bytes=" + ",".join(["0-"] * 500),
                    "bytes=5-2",
                    f"bytes={10**30}-",
                    "bytes=0-0,1-1,2-2",
                    "lines=1-2",
                    "bytes=a-b",
                    "bytes=" + "0" * 9000,
                ):
                    data = self.request("GET", path, Range=said)
                    yield Attack("range", data, frozenset({400, 416}), partial(ranged, whole=body))

    def messages(self) -> Iterator[Attack]:
        """What is no HTTP, or hardly; too many headers; other methods."""
        while True:
            pad = "x" * self._random.randint(40_000, 300_000)
            many = [f"h{n}: {n}" for n in range(5000)]
            for data in (
                self.request("GET", API, b"", f"Padding: {pad}"),
                self.request("GET", API, b"", *many),
                self.request("GET", f"{API}/{pad[:3000]}"),
                self.request("GET", f"{API}/identities?search={pad[:40_000]}"),
                self.request("GET", API, b"", "Bad Header: x"),
                self.request("GET", API, b"", ": x"),
                self.request("GET", API, b"", "Host: 127.0.0.1"),
                self.request("TRACE", API),
                self.request("CONNECT", "evil.example:443"),
                self.request("PUT", f"{API}/items/1/picture", b"x"),
                self.request("PROPFIND", "/"),
                self.request("OPTIONS", "*"),
                self.request("GET", "http://evil.example/"),
                self.request("GET", "/page/app.js").replace(b"HTTP/1.1", b"HTTP/9.9"),
                self.request("GET", API).replace(b"\r\n", b"\r\n folded: "),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET /\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + pad[:100].encode(),
                bytes(self._random.randrange(256) for _ in range(500)) + b"\r\n\r\n",
                b"\r\n" * 5000,
            ):
                yield Attack("message", data, REFUSED | {CLOSED, 505}, ends=True)

    def bodies(self) -> Iterator[Attack]:
        """JSON that is none, or of no use; paths and addresses that nobody may name."""
        while True:
            deep = self._random.choice([500, 900, 100_000])
            for path, body in (
                ("rename", b"[" * deep),
                ("rename", b'{"old":' * deep),
                ("rename", b'{"old": "\\ud800", "new": "x"}'),
                ("move", b'{"items": [1e400], "to": "x"}'),
                ("move", b'{"items": [' + b"9" * 5000 + b'], "to": "x"}'),
                ("undo", b'{"number": 1e9}'),
                ("undo", b'{"number": ' + b"9" * 30 + b"}"),
                ("remove", b'{"items": []}'),
                ("remove", b'{"items": [4611686018427387903]}'),
                ("move", b'{"items": [-1], "to": "x"}'),
                ("jobs", b'{"kind": "calibrate", "arguments": {"strangers": "/etc"}}'),
                ("jobs", b'{"kind": "calibrate", "arguments": {"fpir": NaN}}'),
                (
                    "jobs",
                    b'{"kind": "calibrate", "arguments": {"fpir": '
                    + b"[" * 400
                    + b"]" * 400
                    + b"}}",
                ),
                ("jobs", b'{"kind": "rebuild", "arguments": {"encoder": "http://evil.example/"}}'),
                ("jobs", b'{"kind": "__class__"}'),
                ("rename", b"\xff\xfe{}"),
                ("rename", b"\x00"),
                ("rename", '{"old": "p0", "new": "\u2028"}'.encode("utf-16")[:-1]),
            ):
                yield Attack("json", self.request("POST", f"{API}/{path}", body))
            for number in (0, 10**17, 10**18, 10**30, "9" * 1900, "-1", "1.0", "1e3", "٣", "0x1"):
                yield Attack("json", self.request("GET", f"{API}/items/{quote(str(number))}"))

    def pictures(self) -> Iterator[Attack]:
        """Pictures that are none, or would be too large."""
        while True:
            side = self._random.choice([40_000, 100_000, 2**31 - 1])
            for data in (
                SVG,
                b"<!doctype html><script>alert(1)</script>",
                b"GIF89a" + bytes(20),
                b"%PDF-1.7\n",
                png(side, side),
                png(300, side),
                png(64, 64)[:60],
                b"BM" + b"\xff" * 60,
                b"",
                b"\xff\xd8\xff\xe0" + self._random.randbytes(3000),
                b"II*\x00" + self._random.randbytes(300),
            ):
                body = (
                    part(data, file=self._random.choice(["x.png", "../../x", "<b>.svg", "%00"]))
                    + END
                )
                yield Attack("picture", self.form(f"{API}/identify", body), or_else=unnamed)
                yield Attack("picture", self.form(f"{API}/explain?item=1", body))
                both = part(data, name="a") + part(data, name="b") + END
                yield Attack("picture", self.form(f"{API}/verify", both))

    # Names and filters

    def labels(self, item: int, now: str) -> Iterator[Attack]:
        """An item gets hostile names, one after the other: each is refused, or kept as text."""
        self._label = now
        while True:
            label = hostile_text(self._random)
            body = json.dumps({"items": [item], "to": label}).encode()
            move = self.request("POST", f"{API}/move", body)
            yield Attack("label", move, frozenset({400}), partial(self._kept, label))
            read = self.request("GET", f"{API}/items/{item}")
            yield Attack("label read", read, frozenset(), self._is_text)

    def _kept(self, label: str, answer: Answer) -> bool:
        sent = json.loads(json.dumps(label))  # two halves of a character make one
        self._label = unicodedata.normalize("NFC", sent).strip()
        return answer.status == 200 and json.loads(answer.body)["relabelled"] in (0, 1)

    def _is_text(self, answer: Answer) -> bool:
        kind, sniff = answer.headers["content-type"], answer.headers["x-content-type-options"]
        right = answer.status == 200 and (kind, sniff) == ("application/json", "nosniff")
        return right and json.loads(answer.body)["identity"] == self._label

    def filters(self) -> Iterator[Attack]:
        """Filters that nothing matches."""
        probe = part(picture_bytes()) + END
        while True:
            texts = [hostile_text(self._random) for _ in range(self._random.choice([1, 1, 2, 30]))]
            where = "&".join(
                "where="
                + quote(
                    text if self._random.random() < 0.1 else f"{text}={text}",
                    errors="surrogatepass",
                )
                for text in texts
            )
            data = self.form(f"{API}/identify?{where[:31_000]}", probe)
            yield Attack("filter", data, frozenset({400}), or_else=unmatched)
