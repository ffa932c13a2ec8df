"""Milvus: item numbers and unit vectors in a collection of a server, or of a milvus-lite file.

The only user of pymilvus, which takes seconds to import and is loaded when something is asked. What
it logs never reaches the terminal, and its errors come as ours. Of a gallery, Milvus gets to know
nothing but numbers and vectors. Knows nothing of galleries.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import EngineUnavailable, RuntimeUnavailable, UsageError
from siamese_search.forks import leave

SECONDS = 10.0  # that anything may take but what follows a long writing
PATIENCE = 1800.0  # for Milvus to index what was written
MOST = 16_384  # items that Milvus gives for one query
ROWS_BYTES = 8 << 20  # that are sent at a time: a server takes 64 MiB
ITEM, VECTOR = "item", "vector"
COLLECTION = re.compile(r"siasearch_[0-9a-f]{16}")
LITE = ".db"
ADDRESS, TOKEN = "SIASEARCH_MILVUS_URI", "SIASEARCH_MILVUS_TOKEN"
TOKEN_FILE = "SIASEARCH_MILVUS_TOKEN_FILE"
ANEW = "run `siasearch compact --engine milvus`, which writes it anew"
BACK = "start it again, or run `siasearch compact --engine faiss`, which needs only the gallery"

# How many have a milvus-lite file open: of the process, as what milvus-lite runs is.
_open: Counter[str] = Counter()
_lock = threading.Lock()


def checked_address(address: str) -> str:
    """The same: ``http://HOST:PORT``, or the path of a milvus-lite file, which ends in ``.db``.

    Raises UsageError for anything else; it never repeats a password.
    """
    try:
        parts = urlsplit(address)
        secret = "@" in parts.netloc or bool(parts.query)
        server = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment
    except ValueError:
        secret, server = "@" in address, False
    if secret:
        raise UsageError(
            "the address of Milvus holds a name or a password, which would be kept in the gallery:"
            f" give it without, and the token by {TOKEN} or {TOKEN_FILE}"
        )
    if not server and (not address.endswith(LITE) or "://" in address or "\0" in address):
        raise UsageError(
            f"{address!r} is no address of Milvus: give http://HOST:19530, or the path of a"
            f" milvus-lite file, as milvus{LITE}"
        )
    return address


def is_lite(address: str) -> bool:
    """Whether an address is that of a milvus-lite file."""
    return "://" not in address


def token_for(address: str) -> str:
    """What lets us in, from the environment; empty where nothing is said.

    It is sent to the address that stands there beside it, and to no other: a gallery may come from
    somebody else, and says itself where its index is. Raises UsageError for a file that cannot be
    read.
    """
    if is_lite(address) or os.environ.get(ADDRESS) != address:
        return ""
    file = os.environ.get(TOKEN_FILE)
    if not file:
        return os.environ.get(TOKEN, "")
    try:
        return Path(file).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{TOKEN_FILE}: {file} cannot be read") from error


# Filters: of whole numbers alone, since names and metadata stay in SQLite


@dataclass(frozen=True)
class Between:
    """Items by the first and the last number that they may have."""

    first: int
    last: int


@dataclass(frozen=True)
class Among:
    """Certain items."""

    items: tuple[int, ...]


def expression(filter_: Between | Among) -> str:
    """A filter as Milvus reads it."""
    if isinstance(filter_, Between):
        return f"{ITEM} >= {filter_.first:d} && {ITEM} <= {filter_.last:d}"
    return f"{ITEM} in [{', '.join(f'{item:d}' for item in filter_.items)}]"


class Milvus:
    """A connection to a server or a milvus-lite file, made when something is asked.

    What is asked raises EngineUnavailable where Milvus does not answer in time, or not as it
    should; RuntimeUnavailable where pymilvus is not installed.
    """

    def __init__(self, address: str, create: bool = False) -> None:
        """With ``create`` a milvus-lite file is made where there is none."""
        self.address = address
        self._create = create
        self._client: Any = None
        self._process = 0
        self._loaded: set[str] = set()
        self._written: set[str] = set()  # collections in which this process reads its own writes

    # Collections

    def make(self, name: str, dimension: int, kind: str) -> None:
        """A new collection of vectors, with an index of a kind: ``FLAT`` or ``HNSW``."""
        from_pymilvus = _pymilvus()
        with self._asked(name) as client:
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(ITEM, from_pymilvus.DataType.INT64, is_primary=True)
            schema.add_field(VECTOR, from_pymilvus.DataType.FLOAT_VECTOR, dim=dimension)
            index = client.prepare_index_params()
            graph = {"M": 16, "efConstruction": 200} if kind == "HNSW" else {}
            index.add_index(field_name=VECTOR, index_type=kind, metric_type="IP", params=graph)
            client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Bounded",
                timeout=PATIENCE,
            )  # fmt: skip

    def settle(self, name: str) -> None:
        """Wait until all that was put is on disk, indexed and searched."""
        with self._asked(name) as client:
            client.flush(name, timeout=PATIENCE)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                facts = client.describe_index(name, VECTOR, timeout=SECONDS) or {}
                if not facts.get("pending_index_rows"):
                    break
                time.sleep(0.2)
            if not is_lite(self.address):  # else it goes on for a while with an index of its own
                client.release_collection(name, timeout=PATIENCE)
            self._loaded.discard(name)
            self._load(client, name)
            client.query(
                name, filter=expression(Among((0,))), output_fields=[ITEM],
                consistency_level="Strong", timeout=PATIENCE,
            )  # fmt: skip

    def has(self, name: str) -> bool:
        """Whether there is such a collection."""
        with self._asked(None) as client:
            return bool(client.has_collection(name, timeout=SECONDS))

    def drop(self, name: str) -> None:
        """Delete a collection, if it is there."""
        with self._asked(None) as client:
            if client.has_collection(name, timeout=SECONDS):
                client.drop_collection(name, timeout=SECONDS)

    # Items

    def put(self, name: str, items: IntArray, vectors: FloatArray) -> None:
        """Put vectors (n, dimension) of items (n,), in place of those that are there."""
        rows = max(1, ROWS_BYTES // (4 * vectors.shape[1]))
        for start in range(0, len(items), rows):
            part = slice(start, start + rows)
            pairs = zip(items[part].tolist(), vectors[part], strict=True)
            with self._asked(name) as client:
                client.upsert(name, [{ITEM: i, VECTOR: v} for i, v in pairs], timeout=6 * SECONDS)
        self._written.add(name)

    def take_out(self, name: str, items: IntArray) -> None:
        """Delete items; those that are not there are ignored."""
        for start in range(0, len(items), MOST):
            with self._asked(name) as client:
                client.delete(name, ids=items[start : start + MOST].tolist(), timeout=SECONDS)
        self._written.add(name)

    def items(self, name: str, first: int, last: int) -> IntArray:
        """The numbers from one to another of items that are there, ascending, as they are now."""
        found: list[int] = []
        for start in range(first, last + 1, MOST):  # so few that Milvus leaves none out
            part = Between(start, min(start + MOST - 1, last))
            found += [int(row[ITEM]) for row in self._query(name, part, [ITEM], MOST)]
        return np.array(sorted(found), np.int64)

    def vectors(self, name: str, items: IntArray) -> tuple[IntArray, FloatArray]:
        """Those of the items that are there, ascending, and their vectors, as they are now."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(items), 1024):
            among = Among(tuple(items[start : start + 1024].tolist()))
            found += self._query(name, among, [ITEM, VECTOR], 1024)
        found.sort(key=lambda row: int(row[ITEM]))
        numbers = np.array([row[ITEM] for row in found], np.int64)
        vectors = np.array([row[VECTOR] for row in found], np.float32)
        return numbers, vectors.reshape(len(found), -1)

    def _query(
        self, name: str, filter_: Between | Among, fields: list[str], limit: int
    ) -> list[dict[str, Any]]:
        with self._asked(name) as client:
            self._load(client, name)
            found = client.query(
                name, filter=expression(filter_), output_fields=fields, limit=limit,
                consistency_level="Strong", timeout=6 * SECONDS,
            )  # fmt: skip
        return list(found)

    def search(
        self, name: str, queries: FloatArray, wanted: int, effort: int | None
    ) -> tuple[IntArray, FloatArray]:
        """The ``wanted`` nearest items of queries (q, dimension), by Milvus's own scores.

        Returns items int64 (q, wanted) and inner products float32, best first, padded with -1 and
        -inf. What this process has put is seen; what others did, some seconds later at most.
        """
        items = np.full((len(queries), wanted), -1, np.int64)
        scores = np.full((len(queries), wanted), -np.inf, np.float32)
        fields = [ITEM] if is_lite(self.address) else []  # a server would look them up once more
        reach = {} if effort is None else {"ef": max(effort, wanted)}
        with self._asked(name) as client:
            self._load(client, name)
            found = client.search(
                name, data=list(queries), anns_field=VECTOR, limit=wanted, output_fields=fields,
                search_params={"metric_type": "IP", "params": reach}, timeout=SECONDS,
                consistency_level="Session" if name in self._written else "Bounded",
            )  # fmt: skip
            for row, hits in enumerate(found):
                near = [(hit.get(ITEM, hit.get("id")), hit["distance"]) for hit in hits]
                if near:
                    items[row, : len(near)], scores[row, : len(near)] = zip(*near, strict=True)
        return items, scores

    # The connection

    def _load(self, client: Any, name: str) -> None:
        """Make sure that a collection can be searched: a milvus-lite file is opened without any."""
        if name not in self._loaded:
            client.load_collection(name, timeout=PATIENCE)
            self._loaded.add(name)

    @contextmanager
    def _asked(self, name: str | None) -> Iterator[Any]:
        """The client; what it raises comes as EngineUnavailable."""
        pymilvus = _pymilvus()
        from grpc import RpcError

        client = self._connected(pymilvus)
        try:
            yield client
        except (pymilvus.MilvusException, RpcError) as error:
            reason = _reason(error)
            self._loaded.clear()  # it may have been started again
            with suppress(pymilvus.MilvusException, RpcError):
                if name is not None and not client.has_collection(name, timeout=2.0):
                    raise EngineUnavailable(
                        f"Milvus at {self.address} has no collection {name}: {ANEW}"
                    ) from error
            raise EngineUnavailable(f"Milvus at {self.address}: {reason}: {BACK}") from error

    def _connected(self, pymilvus: Any) -> Any:
        if self._client is not None and self._process == os.getpid():
            return self._client
        if self._client is not None:  # of the process that this one was forked from
            leave(self._client)
            self._client = None
        lite = is_lite(self.address)
        if lite and not self._create and not Path(self.address).is_dir():
            raise EngineUnavailable(f"{self.address} is missing: {ANEW}")
        if lite and importlib.util.find_spec("milvus_lite") is None:
            raise _not_installed()
        try:
            self._client = pymilvus.MilvusClient(
                uri=self.address, token=token_for(self.address), timeout=SECONDS, dedicated=True
            )
        except (pymilvus.MilvusException, OSError) as error:
            if lite:
                raise EngineUnavailable(
                    f"{self.address} cannot be opened: another process has it open (a milvus-lite"
                    " file takes one), or it cannot be written; close that, or run a server of"
                    " Milvus, which takes many"
                ) from error
            raise EngineUnavailable(f"Milvus at {self.address} does not answer: {BACK}") from error
        self._process = os.getpid()
        self._loaded.clear()
        if lite:
            with _lock:
                _open[self.address] += 1
        return self._client

    def close(self) -> None:
        """Let go of the connection, and of a milvus-lite file that nobody else here has open."""
        client, self._client = self._client, None
        if client is None or self._process != os.getpid():
            return
        with suppress(Exception):  # whatever it says, it is over
            client.close()
        if is_lite(self.address):
            with _lock:
                _open[self.address] -= 1
                last = _open[self.address] <= 0
            if last:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self.address)


def _reason(error: Exception) -> str:
    """What Milvus says, in a line; the message names no secret."""
    said = getattr(error, "message", None) or str(error)
    if "UNAVAILABLE" in said or "DEADLINE_EXCEEDED" in said or "Retry" in said:
        return "it does not answer"
    return " ".join(str(said).split())[:200]


def _not_installed() -> RuntimeUnavailable:
    return RuntimeUnavailable("Milvus needs pymilvus: pip install 'siamese-search[milvus]'")


def _pymilvus() -> Any:
    """The library, silent. Raises RuntimeUnavailable where it is not installed."""
    off = "PYTHON_DOTENV_DISABLED"  # else it reads a file ``.env`` into our environment
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its library writes to the terminal itself
    ours = "pymilvus" not in sys.modules and os.environ.setdefault(off, "1") == "1"
    try:
        import pymilvus
    except ImportError as error:
        raise _not_installed() from error
    finally:
        if ours:
            os.environ.pop(off, None)
    for name in ("pymilvus", "milvus_lite", "grpc"):
        quiet = logging.getLogger(name)
        quiet.handlers, quiet.propagate = [logging.NullHandler()], False
    return pymilvus
